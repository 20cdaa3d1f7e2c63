"""Claims: a content is stored by one, also where many look it up at their own pace."""

import hashlib
from contextlib import ExitStack

import pytest

from sysbackup.contents import claims as module
from sysbackup.contents.claims import Claims


def sha(name: object) -> bytes:
    return hashlib.sha256(repr(name).encode()).digest()


def test_of_two_who_want_a_content_one_gets_it() -> None:
    claims = Claims()
    with claims.looking() as first, claims.looking() as second:
        assert claims.claim([sha(1), sha(2)], first) == {sha(1), sha(2)}
        assert claims.claim([sha(2), sha(3)], second) == {sha(3)}
        assert claims.claim([sha(1), sha(2), sha(3)], first) == set()  # nor do they get again what is theirs
    with claims.looking() as late:
        assert claims.claim([sha(1), sha(2), sha(3)], late) == set()


@pytest.mark.parametrize("storing", [True, False])
def test_of_many_who_want_the_same_each_content_goes_to_one(*, storing: bool) -> None:
    """However their looks overlap, and whether what is granted is stored at once or not yet."""
    claims, granted = Claims(), []
    with ExitStack() as looks:
        begun = [looks.enter_context(claims.looking()) for _ in range(6)]
        for n in range(20):
            for asker, look in enumerate(begun):
                granted.append(claims.claim((sha((50 * asker + m) % 300) for m in range(n, n + 50)), look))
                if storing:
                    claims.stored(frozenset(granted[-1]))
        assert all(map(claims.certain, begun))
    assert sum(map(len, granted)) == len(set[bytes]().union(*granted)) == 300
    assert not claims.unfulfilled


def test_what_was_stored_since_a_look_began_is_nobodys() -> None:
    """The look may have been too early to see it in the catalog."""
    claims = Claims()
    with claims.looking() as early:
        with claims.looking() as other:
            claims.claim([sha(1)], other)
            claims.stored(frozenset([sha(1)]))
        assert claims.claim([sha(1), sha(2)], early) == {sha(2)}
        assert claims.certain(early)
        with claims.looking() as late:
            # who looked later and did not find it in the catalog may store it: it was forgotten there since
            assert claims.claim([sha(1)], late) == {sha(1)}


def test_nothing_is_remembered_when_nobody_looks() -> None:
    claims = Claims()
    for n in range(1000):
        with claims.looking() as begun:
            claims.claim([sha(n)], begun)
            claims.stored(frozenset([sha(n)]))
    assert not claims._lately
    assert not claims._looking


def test_a_look_that_takes_too_long_is_to_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered for it has a bound."""
    monkeypatch.setattr(module, "_LATELY", 100)
    claims = Claims()
    with claims.looking() as hung:
        for n in range(300):
            with claims.looking() as begun:
                claims.claim([sha(n)], begun)
                claims.stored(frozenset([sha(n)]))
        assert claims._kept <= 101
        assert not claims.certain(hung)
        assert claims.certain(claims.now)


def test_only_a_claim_that_is_given_back_is_unfulfilled() -> None:
    """Whoever else needed the content had counted on it; of what was stored nothing is left to give back."""
    claims = Claims()
    with claims.looking() as begun:
        claims.claim([sha(1), sha(2), sha(3)], begun)
        claims.stored(frozenset([sha(1)]))
        claims.release([sha(1)])
        before = claims.unfulfilled
        claims.release([sha(2)])
        assert (before, claims.unfulfilled, claims.abandoned) == (False, True, False)
        assert claims.claim([sha(1), sha(2), sha(3)], begun) == {sha(2)}


def test_a_claim_that_is_given_back_is_anybodys_again() -> None:
    claims = Claims()
    with claims.looking() as begun:
        claims.claim([sha(1)], begun)
        claims.release([sha(2)])
        before = claims.unfulfilled
        claims.release([sha(1)])
        assert (before, claims.unfulfilled) == (False, True)
        assert claims.claim([sha(1)], begun) == {sha(1)}
