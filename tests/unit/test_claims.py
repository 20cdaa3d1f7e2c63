"""Claims: a content is stored by one, also where many look it up at their own pace."""

import hashlib

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


def test_a_claim_that_is_given_back_is_anybodys_again() -> None:
    claims = Claims()
    with claims.looking() as begun:
        claims.claim([sha(1)], begun)
        claims.release([sha(2)])
        before = claims.unfulfilled
        claims.release([sha(1)])
        assert (before, claims.unfulfilled) == (False, True)
        assert claims.claim([sha(1)], begun) == {sha(1)}
