"""The catalog, in SQLite and in memory: what it takes for stored, for unchanged, for due, and what it tells others."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from sysbackup.catalog.interface import Catalog, Due, Info, KnownObject, Session
from sysbackup.catalog.questions import EMPTY
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.errors import CatalogUnusable
from sysbackup.formats import keys
from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Location, Lock, LockMode, Member, Span, StoredObject
from tests.support.catalogs import NOW, began, confirmed, due, members, news, pack, sha, unknown, until
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_file import MemoryFile

GOVERNANCE, COMPLIANCE, NONE = LockMode.GOVERNANCE, LockMode.COMPLIANCE, LockMode.NONE

Opening = Callable[[], Catalog]


@pytest.fixture(params=["sqlite", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    """Opens the same catalog each time, of either kind in turn."""
    if request.param == "sqlite":
        return lambda: SqliteCatalog(tmp_path / "catalog.sqlite")
    file = MemoryFile()
    return lambda: MemoryCatalog(file)


@pytest.fixture
def catalog(opened: Opening) -> Iterator[Catalog]:
    with closing(opened()) as catalog:
        yield catalog


@pytest.fixture
def run(catalog: Catalog) -> Session:
    return began(catalog)


# ---- contents


def test_a_content_is_known_once_it_is_stored(run: Session) -> None:
    """Nowhere to be found before S3 confirmed it, however often it was asked for."""
    for _ in range(2):
        assert run.contents.stored([sha(1), sha(2)]) == set()
    assert run.contents.locate([sha(1)]) == {}
    run.contents.confirm(pack("p", until(21)), "gzip", members(1))
    assert run.contents.stored([sha(1), sha(2)]) == {sha(1)}
    (place,) = run.contents.locate([sha(1), sha(9)]).values()
    assert (place.key, place.span, place.encoding) == (keys.pack_key(sha("p")), Span(0, 100), "gzip")


def test_a_content_object_has_no_range(run: Session) -> None:
    """It is the content, or its gzip."""
    run.contents.confirm(StoredObject(keys.content_key(sha(1)), None, 50, until(21)), None, [Member(sha(1), 50)])
    (place,) = run.contents.locate([sha(1)]).values()
    assert (place.version, place.span, place.encoding) == (None, None, None)


def test_threads_ask_while_others_store(run: Session) -> None:
    """However they meet: what one has stored is stored for all, and nothing else."""
    everything = {sha(n) for n in range(300)}

    def store(start: int) -> None:
        before: set[bytes] = set()
        for n in range(start, start + 50):
            confirmed(run, pack(f"{n}", until(21)), n)
            found = run.contents.stored(sha(m) for m in range(400))
            assert before | {sha(n)} <= found <= everything
            before = found

    with ThreadPoolExecutor(6) as threads:
        assert [*threads.map(store, range(0, 300, 50))] == [None] * 6
    assert run.contents.stored(sha(m) for m in range(400)) == everything


def test_batches_may_be_of_any_size(run: Session) -> None:
    """Far more than SQLite takes values in one statement (sqlite.org/limits.html)."""
    names = range(40_000)
    confirmed(run, pack("p", until(21), 10**7), *names)
    assert len(run.contents.locate(map(sha, names))) == len(names)
    assert unknown(run, map(sha, range(40_001))) == {sha(40_000)}


def test_what_was_confirmed_outlives_the_process(opened: Opening) -> None:
    """Without a close: as after a SIGKILL."""
    killed = opened()
    run = began(killed)
    confirmed(run, pack("p", until(21)), 1)
    with closing(opened()) as catalog:
        run = began(catalog)
        assert unknown(run, [sha(1), sha(2)]) == {sha(2)}
        assert [found.stored.version for found in news(run)] == ["version of p"]
    killed.close()


@pytest.mark.parametrize("leaving", [True, False])
def test_a_pack_that_is_left_still_holds_what_it_held(run: Session, *, leaving: bool) -> None:
    """Its contents are stored anew; until then they lie where they lay. Then that is where they are found."""
    confirmed(run, pack("p", until(1)), 1, 2)
    files = [FileState(1, 1, 3, 4, 5, sha(1))]
    run.files.remember(files)
    found = only_due(run, 1)
    assert not found.leaving
    run.renewals.leave(found.number)
    assert run.contents.locate([sha(1)], leaving=leaving).keys() == ({sha(1)} if leaving else set())
    assert run.files.unchanged(files) == {}
    assert only_due(run).leaving
    assert unknown(run, [sha(1)]) == {sha(1)}
    run.contents.confirm(pack("q", until(21)), "gzip", members(1))
    assert unknown(run, [sha(1)]) == set()
    assert run.contents.locate([sha(1)], leaving=leaving)[sha(1)].key == keys.pack_key(sha("q"))
    assert run.files.unchanged(files) == {(1, 1): sha(1)}
    assert due(run) == {}


def test_only_objects_leave_not_their_numbers(run: Session) -> None:
    """A pack that was left and then was gone; another one is stored after it, whatever the catalog calls that."""
    confirmed(run, pack("p", until(1)), 1)
    gone = only_due(run, 1)
    run.renewals.leave(gone.number)
    run.renewals.forget([gone.number])
    confirmed(run, pack("q", until(21)), 1)
    assert unknown(run, [sha(1)]) == set()
    assert run.contents.locate([sha(1)], leaving=False).keys() == {sha(1)}


@pytest.mark.parametrize(("said", "refuted"), [((1,), False), ((1, 2), False), ((1, 2, 3), True), ((3,), True)])
def test_a_lie_is_found_out_when_the_object_is_stored(run: Session, said: tuple[int, ...], *, refuted: bool) -> None:
    """Another host named contents that are not in the object: what relied on them must be stored."""
    run.indexes.learn("beta", [Indexed(pack("p", until(30)), "gzip", tuple(members(*said)))], NOW)
    run.contents.confirm(pack("p", until(21)), "gzip", members(1, 2))
    assert run.contents.refuted is refuted
    assert run.contents.locate(map(sha, (1, 2, 3))).keys() == {sha(1), sha(2)}
    run.contents.refuted = False
    run.contents.confirm(pack("p", until(21)), "gzip", members(1, 2))
    assert not run.contents.refuted


@pytest.mark.parametrize(
    ("lock", "promise", "doubting", "relied_on"),
    [
        (until(14), until(14), False, True),
        (until(13), until(14), False, False),
        (until(14), until(14, COMPLIANCE), False, False),
        (until(-1, NONE), until(14, NONE), False, True),
        (until(14), until(14), True, False),
    ],
)
def test_a_manifest_relies_on_nothing_that_was_not_seen_to(
    catalog: Catalog, lock: Lock, promise: Lock, *, doubting: bool, relied_on: bool
) -> None:
    """A lock that is too short or too loose, or the mere word of another host where that is doubted."""
    run = catalog.begin("bucket", "alpha", promise, NOW, doubting=doubting)
    run.indexes.learn("beta", [Indexed(pack("p", lock), "gzip", tuple(members(1)))], NOW)
    assert len(run.contents.locate([sha(1)])) == 1
    if relied_on:
        assert len(run.contents.locate([sha(1), sha(2)], promised=True)) == 1
    else:
        with pytest.raises(CatalogUnusable):
            run.contents.locate([sha(1), sha(2)], promised=True)


def test_what_anybody_may_replace_is_promised_to_nobody(catalog: Catalog) -> None:
    """An object without a version id, as in stores without versions: due for ever, unless nothing is promised."""
    stored = StoredObject(keys.content_key(sha(1)), None, 50, until(90))
    for mode, fine in ((GOVERNANCE, False), (NONE, True)):
        run = began(catalog, mode=mode)
        run.contents.confirm(stored, None, [Member(sha(1), 50)])
        run.contents.stored([sha(1)])
        assert due(run) == ({} if fine else {"": 50})
        if fine:
            assert len(run.contents.locate([sha(1)], promised=True)) == 1
        else:
            with pytest.raises(CatalogUnusable):
                run.contents.locate([sha(1)], promised=True)


# ---- files


def test_unchanged_means_that_all_of_it_is_the_same(run: Session) -> None:
    """Device, inode, size, and both times to the nanosecond (rule 7)."""
    state = FileState(1, 2, 3, 4, 5, sha(1))
    confirmed(run, pack("p", until(21)), 1)
    run.files.remember([state])
    assert run.files.unchanged([state]) == {(1, 2): sha(1)}
    for other in ((9, 2, 3, 4, 5), (1, 9, 3, 4, 5), (1, 2, 9, 4, 5), (1, 2, 3, 9, 5), (1, 2, 3, 4, 9)):
        assert run.files.unchanged([FileState(*other)]) == {}


def test_unchanged_is_not_enough_without_the_content(run: Session) -> None:
    """What was read but never stored, or is gone from the bucket, is read again. Nothing is needed of an empty file."""
    full, empty = FileState(1, 2, 3, 4, 5, sha(1)), FileState(1, 3, 0, 4, 5, EMPTY)
    run.files.remember([full, empty])
    assert run.files.unchanged([full, empty]) == {(1, 3): EMPTY}
    run.contents.confirm(pack("empty", until(1)), "gzip", [Member(EMPTY, 0, Span(0, 20))])
    assert run.files.unchanged([empty]) == {(1, 3): EMPTY}
    assert not run.renewals.collect()  # so nothing of it is to be seen to
    confirmed(run, pack("p", until(1)), 1)
    assert run.files.unchanged([full]) == {(1, 2): sha(1)}
    run.renewals.collect()
    ((found,),) = run.renewals.due()
    run.renewals.forget([found.number])
    assert run.files.unchanged([full]) == {}


def test_numbers_of_64_bits_without_a_sign(run: Session) -> None:
    """Some file systems make up inode numbers beyond what SQLite's integers hold; devices may be as large."""
    confirmed(run, pack("p", until(21)), 1, 2)
    states = [
        FileState((1 << 64) - n, (1 << 64) - m, 3, -4, 5, sha(n)) for n in (1, 2) for m in (1, 1 << 63, (1 << 64) - 1)
    ]
    run.files.remember(states)
    assert run.files.unchanged(states) == {(s.device, s.inode): s.sha for s in states}


def test_an_inode_has_one_state(run: Session) -> None:
    """The latest; what it was before is forgotten."""
    old, new = FileState(1, 2, 3, 4, 5, sha(1)), FileState(1, 2, 3, 4, 6, sha(1))
    confirmed(run, pack("p", until(21)), 1)
    run.files.remember([old])
    run.files.remember([new])
    assert run.files.unchanged([old]) == {}
    assert run.files.unchanged([new]) == {(1, 2): sha(1)}


def test_what_was_not_met_for_long_is_forgotten(catalog: Catalog, run: Session) -> None:
    """Files after 60 days without a look at them, objects 60 days after their locks; not a day before."""
    confirmed(run, pack("p", until(100)), 1)
    confirmed(run, pack("q", until(20)), 2)
    states = [FileState(1, n, 3, 4, 5, sha(1)) for n in (1, 2)]
    run.files.remember(states)
    for days in (30, 61):
        run = catalog.begin("bucket", "alpha", until(days + 14), NOW + timedelta(days=days))
        assert len(run.files.unchanged(states[:1])) == 1
        run.tidy(NOW + timedelta(days=days))
    assert run.files.unchanged(states) == {(1, 1): sha(1)}
    assert catalog.info().objects == 2
    run.tidy(NOW + timedelta(days=82))
    assert catalog.info().objects == 1
    assert run.contents.locate([sha(1), sha(2)]).keys() == {sha(1)}


@pytest.mark.parametrize("mode", [GOVERNANCE, NONE])
def test_the_next_lock_to_end(run: Session, mode: LockMode) -> None:
    """Of those in force: not of one that has ended, nor of what was never locked."""
    assert run.next_lock_end(NOW) is None
    confirmed(run, pack("ended", until(-1)), 1)
    confirmed(run, pack("ends now", until(0)), 2)
    assert run.next_lock_end(NOW) is None
    confirmed(run, pack("p", until(20)), 3)
    confirmed(run, pack("q", until(5, mode)), 4)
    assert run.next_lock_end(NOW) == until(20 if mode is NONE else 5).until


def test_tidying_ends_what_the_run_has_noted(run: Session) -> None:
    """What it reused is seen to, what it left is stored anew."""
    confirmed(run, pack("p", until(1)), 1)
    run.renewals.leave(only_due(run, 1).number)
    run.tidy(NOW)
    assert due(run) == {}
    assert run.contents.locate([sha(1)], leaving=False).keys() == {sha(1)}


# ---- what is due


def only_due(run: Session, *names: object) -> Due:
    """The one object that is due, once these contents are reused, too."""
    run.contents.stored(map(sha, names))
    assert run.renewals.collect() == 1
    ((found,),) = run.renewals.due()
    return found


def test_what_is_due_tells_what_it_is_and_how_much_of_it_lives(run: Session) -> None:
    """Ends of locks in whole seconds, as stores keep them; a pack's contents without its list."""
    lock = Lock(GOVERNANCE, NOW + timedelta(seconds=5.9))
    confirmed(run, pack("p", lock, 777), 1, 2, 3)
    found = only_due(run, 1, 3)
    kept = StoredObject(
        keys.pack_key(sha("p")), "version of p", 777, Lock(GOVERNANCE, NOW + timedelta(seconds=5)), fresh=False
    )
    assert found == Due(found.number, kept, "gzip", "alpha", checked=True, leaving=False, used=200, holds=300)


def test_a_content_object_is_used_whole(run: Session) -> None:
    """There is nothing else in it."""
    stored = StoredObject(keys.content_key(sha(1)), "v", 50, until(1))
    run.contents.confirm(stored, None, [Member(sha(1), 70)])
    found = only_due(run, 1)
    assert (found.used, found.holds, found.encoding) == (50, 50, None)


def test_an_encoding_that_was_wrong_is_put_right(run: Session) -> None:
    """What it was said to be was another host's word, or another program's; the rest stays."""
    said = Indexed(StoredObject(keys.content_key(sha(1)), "v", 50, until(1)), "gzip", (Member(sha(1), 70),))
    run.indexes.learn("beta", [said], NOW)
    found = only_due(run, 1)
    run.renewals.reencoded(found.number, None)
    assert [*run.contents.locate([sha(1)]).values()] == [Location(found.stored.key, "v", None, None)]
    assert only_due(run) == replace(found, encoding=None)


def test_members_come_by_offset(run: Session) -> None:
    """In whatever order they were told; a content that moved to another object is not among them."""
    packed = [Member(sha(n), 250, Span(offset, 100)) for n, offset in ((1, 300), (2, 0), (3, 200), (4, 100))]
    run.contents.confirm(pack("p", until(1)), "gzip", packed)
    number = only_due(run, 1).number
    assert run.renewals.members(number) == [packed[1], packed[3], packed[2], packed[0]]
    run.contents.confirm(pack("q", until(21)), "gzip", [Member(sha(3), 250, Span(0, 100))])
    assert run.renewals.members(number) == [packed[1], packed[3], packed[0]]


def test_what_was_forgotten_is_no_more(catalog: Catalog, run: Session) -> None:
    """Whoever comes late with its number changes nothing."""
    confirmed(run, pack("p", until(1)), 1)
    found = only_due(run, 1)
    run.renewals.forget([found.number, found.number])
    assert [*run.renewals.due()] == []
    run.renewals.renewed(found.number, until(30), checked=True)
    run.renewals.reencoded(found.number, None)
    run.renewals.forget([found.number])
    assert run.renewals.members(found.number) == []
    assert run.renewals.collect() == 0
    assert (catalog.info().objects, catalog.info().contents) == (0, 0)
    assert unknown(run, [sha(1)]) == {sha(1)}


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
    opened: Opening, lock: Lock, promise: Lock, short: bool
) -> None:
    """Too early an end, or not as firm as the run promises; reused by its hash or as an unchanged file alike."""
    state = FileState(1, 2, 3, 4, 5, sha(2))
    with closing(opened()) as catalog:
        run = began(catalog)
        confirmed(run, pack("p", lock), 1, 2, 3)
        run.files.remember([state])
        run = catalog.begin("bucket", "alpha", promise, NOW)
        assert due(run) == {}
        run.contents.stored([sha(1)])
        assert due(run) == ({"version of p": 100} if short else {})
        run.files.unchanged([state])
        assert due(run) == ({"version of p": 200} if short else {})


def test_a_renewed_object_is_not_due_any_more_and_is_news(run: Session) -> None:
    """Its line is published again, with all that is in it. The store's word on its lock is what counts."""
    confirmed(run, pack("p", until(1)), 1, 2)
    run.indexes.begin_publishing()
    run.indexes.published("index/alpha/x.jsonl.gz", NOW + timedelta(days=21))
    run.contents.stored([sha(1)])
    run.renewals.collect()
    ((found,),) = run.renewals.due()
    run.renewals.renewed(found.number, until(30, COMPLIANCE), checked=False)
    assert due(run) == {}
    (told,) = news(run)
    assert told.stored.lock == until(30, COMPLIANCE)
    assert [*told.contents] == members(1, 2)
    run.indexes.published("index/alpha/y.jsonl.gz", NOW + timedelta(days=21))
    run.renewals.renewed(found.number, until(30, COMPLIANCE), checked=True)
    assert news(run) == []


def test_many_objects_are_due_in_pages(catalog: Catalog, run: Session) -> None:
    """Each of them once, although what has been seen to changes meanwhile."""
    for n in range(1700):
        confirmed(run, pack(f"{n}", until(1)), n)
    run.contents.stored(map(sha, range(1700)))
    assert run.renewals.collect() == 1700
    seen = []
    for page in run.renewals.due():
        for found in page:
            seen.append(found.stored.version)
            if len(seen) % 2:
                run.renewals.renewed(found.number, until(30), checked=False)
            else:
                run.renewals.forget([found.number])
    assert len(seen) == len(set(seen)) == 1700
    assert due(run) == {}
    assert catalog.info().objects == 850


def test_doubt_makes_others_objects_due(opened: Opening) -> None:
    """Until they have been checked, whatever is said of their locks; our own never."""
    with closing(opened()) as catalog:
        run = began(catalog, doubting=True)
        confirmed(run, pack("ours", until(30)), 1)
        said = Indexed(pack("theirs", until(30)), "gzip", tuple(members(2, 3)))
        run.indexes.learn("beta", [said], NOW, doubting=True)
        run.contents.stored([sha(1), sha(2), sha(3)])
        run.renewals.collect()
        ((found,),) = run.renewals.due()
        assert (found.host, found.checked, found.used) == ("beta", False, 200)
        run.renewals.renewed(found.number, until(30), checked=True)
        assert due(run) == {}


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
def test_of_two_things_said_of_one_lock_both_are_true(run: Session, known: Lock, said: Lock, then: Lock) -> None:
    """Locks get later and firmer; `none` says nothing of when a lock ends."""
    confirmed(run, pack("p", known), 1)
    run.indexes.learn("beta", [Indexed(pack("p", said), "gzip", tuple(members(1)))], NOW)
    assert [found.stored.lock for found in news(run)] == [then]


def test_others_cannot_say_what_is_in_our_objects(run: Session) -> None:
    """Neither move what is there nor add to it; in doubt, not even lengthen a lock."""
    confirmed(run, pack("p", until(20)), 1)
    before = run.contents.locate([sha(1)])
    false = Indexed(pack("p", until(90)), "gzip", (Member(sha(2), 1, Span(0, 50)), Member(sha(1), 1, Span(50, 50))))
    assert run.indexes.learn("beta", [false], NOW, doubting=True) == 0
    assert news(run)[0].stored.lock == until(20)
    assert run.indexes.learn("beta", [false], NOW) == 0
    assert news(run)[0].stored.lock == until(90)
    assert run.contents.locate([sha(1), sha(2)]) == before


@pytest.mark.parametrize("by", ["confirm", "own index"])
def test_what_we_know_ourselves_replaces_what_was_said(catalog: Catalog, run: Session, by: str) -> None:
    """An object of ours, which another host told us of first, with a lock and contents of its own invention."""
    false = Indexed(pack("p", until(90)), "gzip", (Member(sha(1), 1, Span(500, 50)), Member(sha(2), 1, Span(600, 50))))
    true = Indexed(pack("p", until(20)), "gzip", tuple(members(1)))
    run.indexes.learn("beta", [false], NOW)
    if by == "confirm":
        run.contents.confirm(true.stored, "gzip", true.contents)
    else:
        run.indexes.learn("alpha", [msgspec.structs.replace(true, sealed=True)], NOW)
    assert {found: at.span for found, at in run.contents.locate([sha(1), sha(2)]).items()} == {sha(1): Span(0, 100)}
    assert catalog.info().hosts == {"alpha": 1}
    run = catalog.begin("bucket", "alpha", until(50), NOW)
    run.contents.stored([sha(1)])
    assert due(run) == {"version of p": 100}


@pytest.mark.parametrize(
    ("known", "said", "moved"), [(20, 30, False), (-1, 30, True), (-9, -1, True), (-1, -9, False), (5, -1, False)]
)
def test_a_known_content_moves_only_from_a_lock_that_has_ended(
    run: Session, known: float, said: float, moved: bool
) -> None:
    """To an object whose lock ends later; else it stays where it is."""
    confirmed(run, pack("p", until(known)), 1)
    new = run.indexes.learn("beta", [Indexed(pack("q", until(said)), "gzip", tuple(members(1)))], NOW)
    assert new == 0
    assert (run.contents.locate([sha(1)])[sha(1)].key == keys.pack_key(sha("q"))) == moved


def test_a_host_is_forgotten_with_all_that_it_may_have_said(run: Session) -> None:
    """By way of others, too: what nobody has checked is learnt anew, so the others' indexes count as unread."""
    confirmed(run, pack("ours", until(30)), 1)
    for n, host in enumerate(("beta", "gamma"), 2):
        run.indexes.learn(host, [Indexed(pack(host, until(30)), "gzip", tuple(members(n)))], NOW)
        run.indexes.read_up_to({host: f"index/{host}/x"})
    run.indexes.published("index/alpha/x", NOW + timedelta(days=21))
    assert run.indexes.restrict(lambda host: host != "beta") == ["beta"]
    assert run.contents.locate(map(sha, (1, 2, 3))).keys() == {sha(1)}
    assert run.indexes.last_read() == {"alpha": "index/alpha/x"}
    assert run.indexes.restrict(lambda host: host != "beta") == []


def test_forgetting_a_host_spares_what_was_checked(run: Session) -> None:
    """`verify_shared = sample` found a lie: what of that host has not been compared goes."""
    for n in (1, 2):
        said = Indexed(pack(f"{n}", until(1)), "gzip", tuple(members(n)))
        run.indexes.learn("beta", [said], NOW)
    run.contents.stored([sha(1)])
    run.renewals.collect()
    ((found,),) = run.renewals.due()
    run.renewals.renewed(found.number, until(30), checked=True)
    run.renewals.forget_host("beta")
    assert run.contents.locate([sha(1), sha(2)]).keys() == {sha(1)}


def test_indexes_are_read_forwards(run: Session) -> None:
    """An older one never becomes the last; one that we published is locked, one that we read need not be."""
    run.indexes.read_up_to({"beta": "index/beta/2"})
    run.indexes.read_up_to({"beta": "index/beta/1"})
    assert run.indexes.last_read() == {"beta": "index/beta/2"}
    assert run.indexes.still_locked(NOW) is None
    run.indexes.published("index/alpha/2", NOW + timedelta(days=21))
    assert run.indexes.still_locked(NOW) == "index/alpha/2"
    assert run.indexes.still_locked(NOW + timedelta(days=22)) is None
    run.indexes.read_up_to({"alpha": "index/alpha/3"})
    assert run.indexes.still_locked(NOW) is None


def test_an_index_that_breaks_off_tells_nothing(catalog: Catalog, run: Session) -> None:
    """All that a call takes in counts, or nothing."""

    def broken() -> Iterator[Indexed]:
        yield Indexed(pack("p", until(30)), "gzip", tuple(members(1)))
        raise EOFError

    with pytest.raises(EOFError):
        run.indexes.learn("beta", broken(), NOW)
    assert catalog.info().objects == 0
    assert run.indexes.learn("beta", [Indexed(pack("p", until(30)), "gzip", tuple(members(1, 2)))], NOW) == 2


@pytest.mark.parametrize(("doubting", "host"), [(False, "gamma"), (True, "beta")])
def test_what_is_passed_on_is_the_word_of_who_said_it(run: Session, *, doubting: bool, host: str) -> None:
    """But in doubt of him who published it, for that can be proven. Either is told to others as hearsay."""
    said = Indexed(pack("p", until(1)), "gzip", tuple(members(1)), teller="gamma")
    run.indexes.learn("beta", [said], NOW, doubting=doubting)
    found = only_due(run, 1)
    assert (found.host, found.checked) == (host, False)
    run.renewals.renewed(found.number, until(30), checked=False)
    assert [told.teller for told in news(run)] == [host]
    run.renewals.renewed(found.number, until(40), checked=True)
    assert [told.teller for told in news(run)] == [None]


def test_what_nobody_compared_can_be_forgotten_alone(run: Session) -> None:
    """With the indexes that told of it, to be read again."""
    confirmed(run, pack("ours", until(30)), 1)
    run.indexes.published("index/alpha/x", NOW)
    assert not run.indexes.unproven()
    run.indexes.learn("beta", [Indexed(pack("p", until(30)), "gzip", tuple(members(2)))], NOW)
    run.indexes.read_up_to({"beta": "index/beta/x"})
    assert run.indexes.unproven()
    run.indexes.forget_unproven()
    assert not run.indexes.unproven()
    assert run.contents.locate([sha(1), sha(2)]).keys() == {sha(1)}
    assert run.indexes.last_read() == {"alpha": "index/alpha/x"}


# ---- what is news


def test_news_are_published_once_unless_the_publishing_failed(opened: Opening) -> None:
    """Chosen, written, confirmed; what comes meanwhile is for the next one; what was only chosen is chosen again."""
    with closing(opened()) as catalog:
        run = began(catalog)
        confirmed(run, pack("p", until(21)), 1)
        assert run.indexes.begin_publishing() == 1
        confirmed(run, pack("q", until(21)), 2)
        assert [found.stored.version for found in run.indexes.news()] == ["version of p"]
        run.indexes.published("index/alpha/1", NOW)
        assert run.indexes.begin_publishing() == 1
    with closing(opened()) as catalog:
        run = began(catalog)
        assert [found.stored.version for found in news(run)] == ["version of q"]
        run.indexes.published("index/alpha/2", NOW)
        assert run.indexes.begin_publishing() == 0


def test_an_object_without_contents_is_no_news(run: Session) -> None:
    """Its content is relied on elsewhere by now: a line without contents would spoil the whole index for the others."""
    stored = StoredObject(keys.content_key(sha(1)), "v", 50, until(-1))
    run.contents.confirm(stored, None, [Member(sha(1), 50)])
    run.indexes.learn("beta", [Indexed(pack("q", until(30)), "gzip", tuple(members(1)))], NOW)
    assert run.indexes.begin_publishing() == 0
    assert news(run) == []


# ---- what is in the bucket


def keyed(*pages: list[KnownObject]) -> list[str]:
    return [found.stored.key for page in pages for found in page]


def test_what_was_not_met_is_told_by_its_keys(run: Session) -> None:
    """In the stretch that was looked through, both ends left out; another version under the key is not it."""
    for n, key in enumerate(("packs/a", "packs/b", "packs/c", "packs/d")):
        stored = StoredObject(key, f"version {n}", 50, until(21))
        run.contents.confirm(stored, "gzip", [Member(sha(n), 70, Span(0, 50))])
    run.presence.begin()
    assert keyed(*run.presence.unmet("packs/a", "packs/d")) == ["packs/b", "packs/c"]
    run.presence.meet([("packs/b", "another"), ("packs/c", "version 2"), ("packs/x", "version 9")])
    assert keyed(*run.presence.unmet("packs/", "packs/~")) == ["packs/a", "packs/b", "packs/d"]
    run.presence.meet([("packs/b", "version 1")])
    ((found,), *_) = run.presence.unmet("packs/a", "packs/~")
    kept = StoredObject("packs/d", "version 3", 50, until(21), fresh=False)
    assert found == KnownObject(found.number, kept, "gzip", "alpha", checked=True)
    run.presence.begin()
    assert keyed(*run.presence.unmet("packs/b", "packs/d")) == ["packs/c"]


def test_objects_without_a_version_are_met_by_an_empty_one(run: Session) -> None:
    """As a store without versions lists them."""
    run.contents.confirm(StoredObject(keys.content_key(sha(1)), None, 50, until(1)), None, [Member(sha(1), 50)])
    run.presence.begin()
    run.presence.meet([(keys.content_key(sha(1)), "")])
    assert keyed(*run.presence.unmet("content/", "content/~")) == []


def test_many_are_missing_in_pages(catalog: Catalog, run: Session) -> None:
    """Each of them once, although they are forgotten meanwhile."""
    for n in range(1200):
        confirmed(run, pack(f"{n}", until(21)), n)
    run.presence.begin()
    run.presence.meet((keys.pack_key(sha(f"{n}")), f"version of {n}") for n in range(0, 1200, 2))
    missing = []
    for page in run.presence.unmet("packs/", "packs/~"):
        missing += keyed(page)
        run.renewals.forget(found.number for found in page)
    assert missing == [keys.pack_key(sha(f"{n}")) for n in range(1, 1200, 2)]
    assert catalog.info().objects == 600


def test_where_the_last_look_ended_outlives_the_run(opened: Opening) -> None:
    """Each run goes on where the one before it stopped."""
    with closing(opened()) as catalog:
        presence = began(catalog).presence
        assert presence.turned_to() == ""
        for key in ("packs/a", "content/b"):
            presence.turn_to(key)
            assert presence.turned_to() == key
    with closing(opened()) as catalog:
        assert began(catalog).presence.turned_to() == "content/b"


def test_whether_any_is_known_under_a_prefix(run: Session) -> None:
    """A prefix is not worth a request where nothing can be missing."""
    confirmed(run, pack("p", until(-1)), 1)
    assert run.presence.any_known("packs/")
    for prefix in ("content/", "pack/", "packs0", "packs/~"):
        assert not run.presence.any_known(prefix), prefix


def test_samples_are_of_each_host_and_must_be_there(run: Session) -> None:
    """What is not promised any more may be gone for good reasons: it is never asked for."""
    said = {
        "beta": [pack("b", until(1)), pack("c", until(2)), pack("d", until(90, NONE)), pack("e", until(0))],
        "gamma": [pack("g", until(1, COMPLIANCE))],
        "delta": [pack("i", until(-1)), pack("j", until(90, NONE))],
    }
    for host, objects in said.items():
        run.indexes.learn(host, [Indexed(o, "gzip", tuple(members(o.key))) for o in objects], NOW)
    confirmed(run, pack("a", until(1)), 1)
    there = {keys.pack_key(sha(name)): name for name in "abcdgj"}
    seen = set()
    for _ in range(90):
        found = sorted(there[key] for key in run.presence.one_of_each_host(NOW, 9))
        assert found in (["a", "b", "g", "j"], ["a", "c", "g", "j"], ["a", "d", "g", "j"])
        seen.update(found)
    assert seen == set("abcdgj")


def test_no_more_samples_than_asked_for(run: Session) -> None:
    """Each costs a request; which hosts are asked for, nobody can foretell."""
    for host in ("beta", "gamma", "delta"):
        run.indexes.learn(host, [Indexed(pack(host, until(1)), "gzip", tuple(members(host)))], NOW)
    samples = [run.presence.one_of_each_host(NOW, 2) for _ in range(90)]
    assert {len(set(keys)) for keys in samples} == {2}
    assert len({key for keys in samples for key in keys}) == 3
    assert run.presence.one_of_each_host(NOW, 0) == []


# ---- sessions


def test_a_run_begins_with_nothing_noted(catalog: Catalog, run: Session) -> None:
    """What an earlier one used, left and found out is forgotten; what is stored is not."""
    run.indexes.learn("beta", [Indexed(pack("lie", until(30)), "gzip", tuple(members(7)))], NOW)
    run.contents.confirm(pack("lie", until(30)), "gzip", members(8))
    confirmed(run, pack("p", until(1)), 1)
    confirmed(run, pack("q", until(1)), 2)
    assert unknown(run, [sha(2), sha(3), sha(4)]) == {sha(3), sha(4)}
    run.renewals.leave(only_due(run).number)
    assert unknown(run, [sha(1), sha(2)]) == {sha(2)}
    assert run.contents.refuted
    run = began(catalog)
    assert not run.contents.refuted
    assert due(run) == {}
    assert run.contents.locate(map(sha, range(9)), leaving=False).keys() == {sha(1), sha(2), sha(8)}
    assert unknown(run, [sha(n) for n in range(1, 5)]) == {sha(3), sha(4)}
    assert due(run) == {"version of p": 100, "version of q": 100}


def test_what_a_run_had_chosen_to_publish_the_next_one_chooses_again(catalog: Catalog, run: Session) -> None:
    """It was never confirmed."""
    confirmed(run, pack("p", until(21)), 1)
    assert run.indexes.begin_publishing() == 1
    run = began(catalog)
    assert [*run.indexes.news()] == []
    assert catalog.info().unpublished == 1
    assert [told.stored.version for told in news(run)] == ["version of p"]


def test_counts_over_the_whole_catalog(catalog: Catalog) -> None:
    """`sysbackup catalog info`, of one that knows nothing and of one that does."""
    assert catalog.info() == Info(0, 0, 0, 0, None, {}, 0, None)
    run = began(catalog)
    confirmed(run, pack("p", until(21), 1000), 1, 2)
    confirmed(run, pack("q", until(3), 200), 3)
    run.indexes.learn("beta", [Indexed(pack("b", until(30), 30), "gzip", tuple(members(4)))], NOW)
    run.files.remember([FileState(1, n, 3, 4, 5, sha(1)) for n in range(5)])
    ends = (until(3).until, until(30).until)
    assert catalog.info() == Info(3, 4, 5, 1230, ends, {"alpha": 2, "beta": 1}, 2, "bucket")


def test_a_catalog_is_about_one_bucket(opened: Opening) -> None:
    """Another bucket, or another server's, must not profit from what it knows."""
    with closing(opened()) as catalog:
        began(catalog)
    with closing(opened()) as catalog, pytest.raises(CatalogUnusable, match="not about elsewhere"):
        catalog.begin("elsewhere", "alpha", until(14), NOW)
