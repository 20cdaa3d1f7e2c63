"""The catalog: what it takes for stored, for unchanged, for due, and what it tells others."""

import hashlib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs
from sysbackup.catalog.known import EMPTY, Catalog, FileState

from sysbackup.catalog import renewal, shared
from sysbackup.catalog.rows import CatalogUnusable
from sysbackup.errors import SpoolError
from sysbackup.formats import keys
from sysbackup.formats.index import Indexed
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject

NOW = datetime(2026, 11, 23, 4, 15, tzinfo=UTC)
GOVERNANCE, COMPLIANCE, NONE = LockMode.GOVERNANCE, LockMode.COMPLIANCE, LockMode.NONE


def until(days: float, mode: LockMode = GOVERNANCE) -> Lock:
    return Lock(mode, NOW + timedelta(days=days))


def sha(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def pack(name: str, lock: Lock, size: int = 10_000) -> StoredObject:
    return StoredObject(keys.pack_key(sha(name)), f"version of {name}", size, lock)


def members(*names: object) -> list[Member]:
    """Contents in a pack, 100 bytes each, one after the other."""
    return [Member(sha(name), 250, Span(100 * n, 100)) for n, name in enumerate(names)]


def confirmed(catalog: Catalog, stored: StoredObject, *names: object) -> None:
    """A pack with these contents is stored."""
    assert len(catalog.claim(map(sha, names))) == len(names)
    catalog.confirm(stored, "gzip", members(*names))


def began(catalog: Catalog, days: float = 14, mode: LockMode = GOVERNANCE, *, doubting: bool = False) -> Catalog:
    """A run begins now that promises that long."""
    catalog.begin("bucket", "alpha", until(days, mode), NOW, doubting=doubting)
    return catalog


def due(catalog: Catalog) -> dict[str, int]:
    """The objects that a run has to see to, and how many of their bytes it uses."""
    renewal.collect(catalog)
    return {found.stored.version or "": found.used for page in renewal.due(catalog) for found in page}


def news(catalog: Catalog) -> list[Indexed]:
    """What the next index tells."""
    shared.begin_publishing(catalog)
    return [*shared.news(catalog)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with Catalog(path) as catalog:
        yield began(catalog)


# ---- contents


def test_a_content_is_claimed_by_one_and_known_once_it_is_stored(catalog: Catalog) -> None:
    """Nobody else stores it meanwhile; given back, it is free again; nowhere to be found before S3 confirmed it."""
    assert catalog.claim([sha(1), sha(2)]) == {sha(1), sha(2)}
    assert catalog.claim([sha(1), sha(2), sha(3)]) == {sha(3)}
    catalog.release(sha(2))
    assert catalog.claim([sha(2)]) == {sha(2)}
    assert catalog.locate([sha(1)]) == {}
    catalog.confirm(pack("p", until(21)), "gzip", members(1))
    assert catalog.claim([sha(1)]) == set()
    (place,) = catalog.locate([sha(1), sha(9)]).values()
    assert (place.key, place.offset, place.length, place.encoding) == (keys.pack_key(sha("p")), 0, 100, "gzip")


def test_a_content_object_has_no_range(catalog: Catalog) -> None:
    """It is the content, or its gzip."""
    catalog.confirm(StoredObject(keys.content_key(sha(1)), None, 50, until(21)), None, [Member(sha(1), 50)])
    (place,) = catalog.locate([sha(1)]).values()
    assert (place.version, place.offset, place.length, place.encoding) == (None, None, None, None)


def test_threads_never_claim_the_same_content(catalog: Catalog) -> None:
    """However they meet: each content is stored by exactly one."""
    claimed: list[set[bytes]] = []

    def claim(start: int) -> None:
        claimed.extend(catalog.claim(sha(m % 300) for m in range(start + n, start + n + 50)) for n in range(20))

    threads = [threading.Thread(target=claim, args=(start,)) for start in range(0, 300, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, claimed)) == len(set.union(*claimed)) == 300


def test_batches_may_be_of_any_size(catalog: Catalog) -> None:
    """Far more than SQLite takes values in one statement (sqlite.org/limits.html)."""
    names = range(40_000)
    confirmed(catalog, pack("p", until(21), 10**7), *names)
    assert len(catalog.locate(map(sha, names))) == len(names)
    assert catalog.claim(map(sha, range(40_001))) == {sha(40_000)}


def test_what_was_confirmed_outlives_the_process(path: Path) -> None:
    """Without a close: as after a SIGKILL. Claims do not."""
    ended = began(Catalog(path))
    confirmed(ended, pack("p", until(21)), 1)
    ended.claim([sha(2)])
    with Catalog(path) as catalog:
        began(catalog)
        assert catalog.claim([sha(1), sha(2)]) == {sha(2)}
        assert [found.stored.version for found in news(catalog)] == ["version of p"]
    ended.close()


# ---- files


def test_unchanged_means_that_all_of_it_is_the_same(catalog: Catalog) -> None:
    """Device, inode, size, and both times to the nanosecond (design, rule 7)."""
    state = FileState(1, 2, 3, 4, 5, sha(1))
    confirmed(catalog, pack("p", until(21)), 1)
    catalog.remember([state])
    assert catalog.unchanged([state]) == {(1, 2): sha(1)}
    for other in ((9, 2, 3, 4, 5), (1, 9, 3, 4, 5), (1, 2, 9, 4, 5), (1, 2, 3, 9, 5), (1, 2, 3, 4, 9)):
        assert catalog.unchanged([FileState(*other)]) == {}


def test_unchanged_is_not_enough_without_the_content(catalog: Catalog) -> None:
    """What was read but never stored, or is gone from the bucket, is read again. Nothing is needed of an empty file."""
    full, empty = FileState(1, 2, 3, 4, 5, sha(1)), FileState(1, 3, 0, 4, 5, EMPTY)
    catalog.remember([full, empty])
    assert catalog.unchanged([full, empty]) == {(1, 3): EMPTY}
    confirmed(catalog, pack("p", until(1)), 1)
    assert catalog.unchanged([full]) == {(1, 2): sha(1)}
    renewal.collect(catalog)
    ((found,),) = renewal.due(catalog)
    renewal.forget(catalog, found.number)
    assert catalog.unchanged([full]) == {}


def test_numbers_of_64_bits_without_a_sign(catalog: Catalog) -> None:
    """Some file systems make up inode numbers beyond what SQLite's integers hold; devices may be as large."""
    confirmed(catalog, pack("p", until(21)), 1, 2)
    states = [
        FileState((1 << 64) - n, (1 << 64) - m, 3, -4, 5, sha(n)) for n in (1, 2) for m in (1, 1 << 63, (1 << 64) - 1)
    ]
    catalog.remember(states)
    assert catalog.unchanged(states) == {(s.device, s.inode): s.sha for s in states}


def test_an_inode_has_one_state(catalog: Catalog) -> None:
    """The latest; what it was before is forgotten."""
    old, new = FileState(1, 2, 3, 4, 5, sha(1)), FileState(1, 2, 3, 4, 6, sha(1))
    confirmed(catalog, pack("p", until(21)), 1)
    catalog.remember([old])
    catalog.remember([new])
    assert catalog.unchanged([old]) == {}
    assert catalog.unchanged([new]) == {(1, 2): sha(1)}


def test_what_was_not_met_for_long_is_forgotten(catalog: Catalog) -> None:
    """Files after 60 days without a look at them, objects 60 days after their locks; not a day before."""
    confirmed(catalog, pack("p", until(100)), 1)
    confirmed(catalog, pack("q", until(20)), 2)
    states = [FileState(1, n, 3, 4, 5, sha(1)) for n in (1, 2)]
    catalog.remember(states)
    for days in (30, 61):
        catalog.begin("bucket", "alpha", until(days + 14), NOW + timedelta(days=days))
        assert len(catalog.unchanged(states[:1])) == 1
        catalog.tidy(NOW + timedelta(days=days))
    assert catalog.unchanged(states) == {(1, 1): sha(1)}
    assert shared.info(catalog).objects == 2
    catalog.tidy(NOW + timedelta(days=82))
    assert shared.info(catalog).objects == 1
    assert catalog.locate([sha(1), sha(2)]).keys() == {sha(1)}


# ---- what is due


@pytest.mark.parametrize(
    ("lock", "promise", "short"),
    [
        (until(14), until(14), False),
        (until(13.99), until(14), True),
        (until(-1), until(14), True),
        (until(14, COMPLIANCE), until(14), False),
        (until(14), until(14, COMPLIANCE), True),
        (until(14, NONE), until(14), True),
        (until(14), until(14, NONE), False),
        (until(13, NONE), until(14, NONE), True),
    ],
)
def test_an_object_is_due_when_its_lock_does_not_cover_the_promise(
    path: Path, lock: Lock, promise: Lock, short: bool
) -> None:
    """Too early an end, or not as firm as the run promises; reused by its hash or as an unchanged file alike."""
    state = FileState(1, 2, 3, 4, 5, sha(2))
    with Catalog(path) as catalog:
        began(catalog)
        confirmed(catalog, pack("p", lock), 1, 2, 3)
        catalog.remember([state])
        catalog.begin("bucket", "alpha", promise, NOW)
        assert due(catalog) == {}
        catalog.claim([sha(1)])
        assert due(catalog) == ({"version of p": 100} if short else {})
        catalog.unchanged([state])
        assert due(catalog) == ({"version of p": 200} if short else {})


def test_a_renewed_object_is_not_due_any_more_and_is_news(catalog: Catalog) -> None:
    """Its line is published again, with all that is in it. The store's word on its lock is what counts."""
    confirmed(catalog, pack("p", until(1)), 1, 2)
    shared.begin_publishing(catalog)
    shared.published(catalog, "alpha", "index/alpha/x.jsonl.gz", NOW + timedelta(days=21))
    catalog.claim([sha(1)])
    renewal.collect(catalog)
    ((found,),) = renewal.due(catalog)
    renewal.renewed(catalog, found.number, until(30, COMPLIANCE), checked=False)
    assert due(catalog) == {}
    (told,) = news(catalog)
    assert told.stored.lock == until(30, COMPLIANCE)
    assert [*told.contents] == members(1, 2)


def test_many_objects_are_due_in_pages(catalog: Catalog) -> None:
    """Each of them once, although what has been seen to changes meanwhile."""
    for n in range(1700):
        confirmed(catalog, pack(f"{n}", until(1)), n)
    catalog.claim(map(sha, range(1700)))
    assert renewal.collect(catalog) == 1700
    seen = []
    for page in renewal.due(catalog):
        for found in page:
            seen.append(found.stored.version)
            if len(seen) % 2:
                renewal.renewed(catalog, found.number, until(30), checked=False)
            else:
                renewal.forget(catalog, found.number)
    assert len(seen) == len(set(seen)) == 1700
    assert due(catalog) == {}
    assert shared.info(catalog).objects == 850


def test_doubt_makes_others_objects_due(path: Path) -> None:
    """Until they have been checked, whatever is said of their locks; our own never."""
    with Catalog(path) as catalog:
        began(catalog, doubting=True)
        confirmed(catalog, pack("ours", until(30)), 1)
        said = Indexed(pack("theirs", until(30)), "gzip", tuple(members(2, 3)))
        shared.learn(catalog, "beta", [said], NOW, doubting=True)
        catalog.claim([sha(1), sha(2), sha(3)])
        renewal.collect(catalog)
        ((found,),) = renewal.due(catalog)
        assert (found.host, found.checked, found.used) == ("beta", False, 200)
        renewal.renewed(catalog, found.number, until(30), checked=True)
        assert due(catalog) == {}


# ---- what others say


@pytest.mark.parametrize(
    ("known", "said", "then"),
    [
        (until(20), until(30), until(30)),
        (until(30), until(20), until(30)),
        (until(20), until(30, COMPLIANCE), until(30, COMPLIANCE)),
        (until(30, COMPLIANCE), until(20), until(30, COMPLIANCE)),
        (until(20), until(90, NONE), until(20)),
        (until(90, NONE), until(20), until(20)),
        (until(20, NONE), until(30, NONE), until(30, NONE)),
    ],
)
def test_of_two_things_said_of_one_lock_both_are_true(catalog: Catalog, known: Lock, said: Lock, then: Lock) -> None:
    """Locks get later and firmer; `none` says nothing of when a lock ends."""
    confirmed(catalog, pack("p", known), 1)
    shared.learn(catalog, "beta", [Indexed(pack("p", said), "gzip", tuple(members(1)))], NOW)
    assert [found.stored.lock for found in news(catalog)] == [then]


def test_others_cannot_say_what_is_in_our_objects(catalog: Catalog) -> None:
    """Neither move what is there nor add to it; in doubt, not even lengthen a lock."""
    confirmed(catalog, pack("p", until(20)), 1)
    before = catalog.locate([sha(1)])
    false = Indexed(pack("p", until(90)), "gzip", (Member(sha(2), 1, Span(0, 50)), Member(sha(1), 1, Span(50, 50))))
    assert shared.learn(catalog, "beta", [false], NOW, doubting=True) == 0
    assert news(catalog)[0].stored.lock == until(20)
    assert shared.learn(catalog, "beta", [false], NOW) == 0
    assert news(catalog)[0].stored.lock == until(90)
    assert catalog.locate([sha(1), sha(2)]) == before


@pytest.mark.parametrize("by", ["confirm", "own index"])
def test_what_we_know_ourselves_replaces_what_was_said(catalog: Catalog, by: str) -> None:
    """An object of ours, which another host told us of first, with a lock and contents of its own invention."""
    false = Indexed(pack("p", until(90)), "gzip", (Member(sha(1), 1, Span(500, 50)), Member(sha(2), 1, Span(600, 50))))
    true = Indexed(pack("p", until(20)), "gzip", tuple(members(1)))
    shared.learn(catalog, "beta", [false], NOW)
    if by == "confirm":
        catalog.confirm(true.stored, "gzip", true.contents)
    else:
        shared.learn(catalog, "alpha", [msgspec.structs.replace(true, sealed=True)], NOW)
    assert {found: at.offset for found, at in catalog.locate([sha(1), sha(2)]).items()} == {sha(1): 0}
    assert shared.info(catalog).hosts == {"alpha": 1}
    catalog.begin("bucket", "alpha", until(50), NOW)
    catalog.claim([sha(1)])
    assert due(catalog) == {"version of p": 100}


@pytest.mark.parametrize(
    ("known", "said", "moved"), [(20, 30, False), (-1, 30, True), (-9, -1, True), (-1, -9, False), (5, -1, False)]
)
def test_a_known_content_moves_only_from_a_lock_that_has_ended(
    catalog: Catalog, known: float, said: float, moved: bool
) -> None:
    """To an object whose lock ends later; else it stays where it is."""
    confirmed(catalog, pack("p", until(known)), 1)
    new = shared.learn(catalog, "beta", [Indexed(pack("q", until(said)), "gzip", tuple(members(1)))], NOW)
    assert new == 0
    assert (catalog.locate([sha(1)])[sha(1)].key == keys.pack_key(sha("q"))) == moved


def test_a_host_is_forgotten_with_all_that_it_may_have_said(catalog: Catalog) -> None:
    """By way of others, too: what nobody has checked is learnt anew, so the others' indexes count as unread."""
    confirmed(catalog, pack("ours", until(30)), 1)
    for n, host in enumerate(("beta", "gamma"), 2):
        shared.learn(catalog, host, [Indexed(pack(host, until(30)), "gzip", tuple(members(n)))], NOW)
        shared.read_up_to(catalog, {host: f"index/{host}/x"})
    shared.published(catalog, "alpha", "index/alpha/x", NOW + timedelta(days=21))
    assert shared.restrict(catalog, lambda host: host != "beta") == ["beta"]
    assert catalog.locate(map(sha, (1, 2, 3))).keys() == {sha(1)}
    assert shared.last_read(catalog) == {"alpha": "index/alpha/x"}
    assert shared.restrict(catalog, lambda host: host != "beta") == []


def test_forgetting_a_host_spares_what_was_checked(catalog: Catalog) -> None:
    """`verify_shared = sample` found a lie: what of that host has not been compared goes."""
    for n in (1, 2):
        said = Indexed(pack(f"{n}", until(1)), "gzip", tuple(members(n)))
        shared.learn(catalog, "beta", [said], NOW)
    catalog.claim([sha(1)])
    renewal.collect(catalog)
    ((found,),) = renewal.due(catalog)
    renewal.renewed(catalog, found.number, until(30), checked=True)
    renewal.forget_host(catalog, "beta")
    assert catalog.locate([sha(1), sha(2)]).keys() == {sha(1)}


def test_indexes_are_read_forwards(catalog: Catalog) -> None:
    """An older one never becomes the last; one that we published is locked, one that we read need not be."""
    shared.read_up_to(catalog, {"beta": "index/beta/2"})
    shared.read_up_to(catalog, {"beta": "index/beta/1"})
    assert shared.last_read(catalog) == {"beta": "index/beta/2"}
    assert shared.still_locked(catalog, "alpha", NOW) is None
    shared.published(catalog, "alpha", "index/alpha/2", NOW + timedelta(days=21))
    assert shared.still_locked(catalog, "alpha", NOW) == "index/alpha/2"
    assert shared.still_locked(catalog, "alpha", NOW + timedelta(days=22)) is None
    shared.read_up_to(catalog, {"alpha": "index/alpha/3"})
    assert shared.still_locked(catalog, "alpha", NOW) is None


# ---- what is news


def test_news_are_published_once_unless_the_publishing_failed(path: Path) -> None:
    """Chosen, written, confirmed; what comes meanwhile is for the next one; what was only chosen is chosen again."""
    with Catalog(path) as catalog:
        began(catalog)
        confirmed(catalog, pack("p", until(21)), 1)
        assert shared.begin_publishing(catalog) == 1
        confirmed(catalog, pack("q", until(21)), 2)
        assert [found.stored.version for found in shared.news(catalog)] == ["version of p"]
        shared.published(catalog, "alpha", "index/alpha/1", NOW)
        assert shared.begin_publishing(catalog) == 1
    with Catalog(path) as catalog:
        began(catalog)
        assert [found.stored.version for found in news(catalog)] == ["version of q"]
        shared.published(catalog, "alpha", "index/alpha/2", NOW)
        assert shared.begin_publishing(catalog) == 0


def test_an_object_without_contents_is_no_news(catalog: Catalog) -> None:
    """Its content is relied on elsewhere by now: a line without contents would spoil the whole index for the others."""
    stored = StoredObject(keys.content_key(sha(1)), "v", 50, until(-1))
    catalog.confirm(stored, None, [Member(sha(1), 50)])
    shared.learn(catalog, "beta", [Indexed(pack("q", until(30)), "gzip", tuple(members(1)))], NOW)
    assert shared.begin_publishing(catalog) == 0
    assert news(catalog) == []


# ---- the file


def test_the_file_is_for_its_owner_alone(catalog: Catalog, path: Path) -> None:
    """It tells the hashes of everybody's files."""
    confirmed(catalog, pack("p", until(21)), 1)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_catalog_is_about_one_bucket(path: Path) -> None:
    """Another bucket, or another server's, must not profit from what it knows."""
    with Catalog(path) as catalog:
        began(catalog)
    with Catalog(path) as catalog, pytest.raises(CatalogUnusable, match="not about elsewhere"):
        catalog.begin("elsewhere", "alpha", until(14), NOW)


def overwritten(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))


@pytest.mark.parametrize("pages", [(0, 1), (1, 1000)], ids=["header", "the rest"])
def test_a_damaged_file_is_set_aside_or_refused(path: Path, pages: Sequence[int]) -> None:
    """At opening, or as soon as somebody steps on it; never taken for what it is not."""
    with Catalog(path) as catalog:
        began(catalog)
        confirmed(catalog, pack("p", until(21), 10**7), *range(10_000))
    size = path.stat().st_size
    overwritten(path, pages[0] * 4096, min(pages[1] * 4096, size - pages[0] * 4096))
    with capture_logs() as log, Catalog(path) as catalog:
        try:
            began(catalog)
            catalog.locate(map(sha, range(10_000)))
        except CatalogUnusable:
            return
    assert [line["event"] for line in log] == ["catalog.set_aside"]


def test_rows_that_nobody_wrote_are_not_believed(path: Path) -> None:
    """Cut off within a page, a database reads on: as rows of NULL, which SQLite does not mind."""
    with Catalog(path) as catalog:
        began(catalog)
        for n in range(200):
            confirmed(catalog, pack(str(n), until(21)), n)
    os.truncate(path, path.stat().st_size - 3000)
    with pytest.raises(CatalogUnusable, match="damaged"):
        Catalog(path, read_only=True)
    with capture_logs() as log, Catalog(path) as catalog:
        assert shared.info(catalog).objects == 0
    assert [line["event"] for line in log] == ["catalog.set_aside"]


def test_a_catalog_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory that is not there, a disk that takes no more files: an error for people that names the file."""
    with pytest.raises(SpoolError, match=r"none/catalog\.sqlite"):
        Catalog(tmp_path / "none" / "catalog.sqlite")


def test_another_process_may_look(catalog: Catalog, path: Path) -> None:
    """`sysbackup catalog info` while a run goes on: neither waits for the other (WAL, sqlite.org/wal.html)."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM objects").fetchone() == (0,)
        confirmed(catalog, pack("p", until(21)), 1)
        assert db.execute("SELECT count(*) FROM objects").fetchone() == (0,)
    assert shared.info(catalog).objects == 1
