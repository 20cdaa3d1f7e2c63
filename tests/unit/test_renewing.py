"""Renewing: what a run reuses is locked until its promise, or forgotten and stored again; nothing in between."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from sysbackup.catalog.sqlite import SqliteCatalog, SqliteSession
from sysbackup.contents.renewing import Doubt, Renewing
from sysbackup.contents.terms import Terms, terms_of
from sysbackup.errors import AccessDenied, LockNotKept, StoreError, StoreUnavailable
from sysbackup.formats import keys, pack
from sysbackup.formats.index import Indexed
from sysbackup.model import Lock, LockMode, StoredObject
from sysbackup.store.port import ObjectStore
from tests.support import backups
from tests.support.clock import ManualClock
from tests.support.failing import FailingStore, at
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.packs import pack_writer
from tests.support.storing import Counted


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class Reuse:
    """A run that reuses what lies in a bucket: real packs, and a catalog that knows them."""

    def __init__(self, base: Path, doubt: str) -> None:
        self.clock = ManualClock()
        self.bucket = MemoryBucket(self.clock)
        self.store: ObjectStore = MemoryStore(self.bucket)
        self.account = Counted()
        self.doubt = Doubt(doubt)
        config = backups.configured(base)
        self.terms: Terms = terms_of(config.content, self.clock.now())
        self.catalog = SqliteCatalog(base / "catalog.sqlite")
        self.session: SqliteSession = self.catalog.begin(
            "bucket", "alpha", self.terms.promise, self.terms.started, doubting=self.doubt.any
        )

    def stored(self, *contents: bytes, days: float, by: str = "alpha") -> StoredObject:
        """A pack that is stored, known of by `by`."""
        writer = pack_writer()
        for content in contents:
            writer.add(sha(content), pack.ENCODING.encode(content), len(content))
        made = writer.finish()
        lock = Lock(LockMode.GOVERNANCE, self.clock.now() + timedelta(days=days))
        kept = self.bucket.add(keys.pack_key(made.sha), bytes(made.body), lock=lock)
        found = StoredObject(kept.key, kept.version, len(kept.body), lock)
        if by == "alpha":
            self.session.contents.confirm(found, pack.ENCODING.name, made.contents)
        else:
            said = Indexed(found, pack.ENCODING.name, made.contents)
            self.session.indexes.learn(by, [said], self.clock.now(), doubting=self.doubt.any)
        return found

    def reused(self, *contents: bytes) -> None:
        """The run finds these contents, and counts on them."""
        assert self.session.contents.stored(map(sha, contents)) == {*map(sha, contents)}

    def seen_to(self) -> tuple[bool, Renewing]:
        """What becomes of it all, and whether anything was lost."""
        renewing = Renewing(
            self.store, self.session.renewals, self.terms, self.account, self.clock, self.doubt, at_once=3
        )
        return backups.run(renewing.see_to_all()), renewing

    def known(self, *contents: bytes) -> set[bytes]:
        return {c for c in contents if sha(c) in self.session.contents.locate([sha(c)], leaving=False)}

    def lock(self, stored: StoredObject) -> Lock | None:
        return self.bucket.find(stored.key, stored.version).lock


@pytest.fixture
def reuses(tmp_path: Path) -> Iterator[Callable[[str], Reuse]]:
    """Runs that prove what others said as this says (`verify_shared`)."""
    with ExitStack() as stack:

        def make(doubt: str) -> Reuse:
            reuse = Reuse(tmp_path, doubt)
            stack.enter_context(reuse.catalog)
            return reuse

        yield make


@pytest.fixture
def reuse(reuses: Callable[[str], Reuse]) -> Reuse:
    return reuses("off")


def test_a_lock_that_ends_too_early_is_moved(reuse: Reuse) -> None:
    """By the slack beyond the promise, so that it is rare; what lasts, or is not reused, costs no request."""
    short, long, unused = (reuse.stored(name, days=days) for name, days in ((b"a", 1), (b"b", 30), (b"c", 1)))
    reuse.reused(b"a", b"b")
    lost, _ = reuse.seen_to()
    assert not lost
    assert reuse.lock(short) == reuse.terms.contents
    assert [reuse.lock(stored) for stored in (long, unused)] == [long.lock, unused.lock]
    asked = reuse.store.requests.total
    assert reuse.store.requests.by_kind["PutObjectRetention"] == reuse.account.renewed == 1
    assert reuse.seen_to()[0] is False
    assert reuse.store.requests.total == asked


def test_a_pack_that_is_hardly_used_is_left(reuse: Reuse) -> None:
    """Its living contents are to be stored anew; renewing it would pay for the dead ones for ever."""
    stored = reuse.stored(b"living", *(b"%d" % n * 400 for n in range(100)), days=1)
    reuse.reused(b"living")
    assert reuse.seen_to()[0]
    assert reuse.lock(stored) == stored.lock
    assert reuse.known(b"living") == set()
    # it could not be read again: so the pack stays after all
    lost, _ = reuse.seen_to()
    assert not lost
    assert reuse.lock(stored) == reuse.terms.contents


@pytest.mark.parametrize(("days", "missed"), [(5, 1), (-1, 0)], ids=["locked", "its lock had ended"])
def test_what_is_gone_is_forgotten(reuse: Reuse, days: float, missed: int) -> None:
    """And stored again; where it was locked, all else is in doubt."""
    stored = reuse.stored(b"a", days=days)
    reuse.bucket.objects.clear()
    reuse.reused(b"a")
    lost, renewing = reuse.seen_to()
    assert lost
    assert (renewing.missed, renewing.missed_key) == (missed, stored.key if missed else "")
    assert reuse.known(b"a") == set()


def test_a_lock_that_the_store_will_not_change_is_not_relied_on(reuse: Reuse) -> None:
    """What is stored anew gets the right one."""
    reuse.stored(b"a", days=1)
    reuse.reused(b"a")
    reuse.store = FailingStore(reuse.store, at("renew"), lambda: LockNotKept("no"))
    assert reuse.seen_to()[0]
    assert reuse.known(b"a") == set()


@pytest.mark.parametrize("error", [StoreError, AccessDenied, StoreUnavailable])
@pytest.mark.parametrize("by", ["alpha", "beta"])
def test_only_what_we_know_ourselves_can_fail_a_run(
    reuses: Callable[[str], Reuse], error: Callable[[str], StoreError], by: str
) -> None:
    """With a key of its choice another host could make a request fail for ever; a store that is gone is gone."""
    reuse = reuses("first-use")
    reuse.stored(b"a", days=1, by=by)
    reuse.stored(b"b", days=1, by=by)
    reuse.reused(b"a", b"b")
    reuse.store = FailingStore(reuse.store, at("renew"), lambda: error("made to fail"))
    if by == "alpha" or error is StoreUnavailable:
        with pytest.raises(ExceptionGroup):
            reuse.seen_to()
    else:
        assert reuse.seen_to()[0]
        assert reuse.known(b"a", b"b") == set()
        assert reuse.account.problems == []


def test_a_false_word_is_a_problem_and_is_not_relied_on(reuses: Callable[[str], Reuse]) -> None:
    """What another host said is compared with the bytes first; where it is true it is ours from then on."""
    reuse = reuses("first-use")
    reuse.stored(b"true", days=30, by="beta")
    false = reuse.stored(b"false", days=30, by="beta")
    reuse.bucket.objects[false.key][0].body = bytes(false.size)
    reuse.reused(b"true", b"false")
    assert reuse.seen_to()[0]
    assert reuse.known(b"true", b"false") == {b"true"}
    assert [problem.event for problem in reuse.account.problems] == ["content.false"]
    assert reuse.seen_to()[0] is False
    assert reuse.session.contents.locate([sha(b"true")], promised=True)
