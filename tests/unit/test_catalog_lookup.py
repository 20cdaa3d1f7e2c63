"""Looking things up in a catalog from other processes, while the run writes on."""

import multiprocessing
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sysbackup.catalog.interface import Session
from sysbackup.catalog.lookup import Lookup, Unchanged
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.catalog.sqlite_lookup import SqliteLookup
from sysbackup.errors import CatalogUnusable, SpoolError
from sysbackup.model import FileState, Lock
from tests.support.catalogs import NOW, began, confirmed, due, pack, sha, unknown, until
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_lookup import MemoryLookup

PROMISE = until(14)
PACKS, EACH = 60, 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture(params=["sqlite", "memory"])
def both(request: pytest.FixtureRequest, path: Path) -> Any:
    """A catalog of either kind, and what opens a look at it on a run's terms."""
    if request.param == "sqlite":
        with SqliteCatalog(path) as catalog:
            yield catalog, lambda *terms: SqliteLookup(path, *terms)
    else:
        memory = MemoryCatalog()
        yield memory, lambda *terms: MemoryLookup(memory.file, *terms)


def looked(both: Any, promise: Lock = PROMISE, days: int = 0) -> tuple[Session, Lookup]:
    """A run that promises so much, so many days from now, and a look beside it."""
    catalog, opened = both
    now = NOW + timedelta(days=days)
    return catalog.begin("bucket", "alpha", promise, now), opened(promise, False, now)


def test_a_look_notes_nothing_itself(both: Any) -> None:
    """What is used and met is said; the run's own process notes it, and then the object is due."""
    run, lookup = looked(both)
    states = [FileState(1, n, 3, 4, 5, sha(n)) for n in (1, 2, 3)]
    confirmed(run, pack("short", until(1)), 1)
    confirmed(run, pack("long", until(90)), 2)
    run.files.remember(states)
    with closing(lookup):
        stored = lookup.stored([sha(1), sha(2), sha(9)])
        assert (stored.shas, stored.used) == ({sha(1), sha(2)}, [sha(1)])
        found = lookup.unchanged(states)
        place = lookup.locate([sha(2)])[sha(2)]
        assert found == Unchanged({(1, 1): sha(1), (1, 2): sha(2)}, {(1, 2): place}, [sha(1)], [])
        assert due(run) == {}
        assert unknown(run, [sha(9)]) == {sha(9)}
        run.contents.use(found.used)
        assert due(run) == {"version of short": 100}


def test_files_that_were_met_are_kept(both: Any) -> None:
    """The run is told which have not been noted for a week; the others are forgotten after two months."""
    run, lookup = looked(both)
    lookup.close()
    states = [FileState(1, n, 3, 4, 5, sha(1)) for n in (1, 2)]
    confirmed(run, pack("p", until(100)), 1)
    run.files.remember(states)
    for days, met in ((7, []), (8, [(1, 1)]), (62, [(1, 1)])):
        run, lookup = looked(both, PROMISE, days)
        with closing(lookup):
            found = lookup.unchanged(states[:1])
        assert (found.shas, found.met) == ({(1, 1): sha(1)}, met)
        run.files.met(found.met)
        run.tidy(NOW + timedelta(days=days))
    assert run.files.unchanged(states) == {(1, 1): sha(1)}


def test_a_manifest_made_beside_the_run_relies_on_nothing_that_was_not_seen_to(both: Any) -> None:
    """The same last look as the run's own."""
    run, lookup = looked(both)
    confirmed(run, pack("long", until(90)), 1)
    confirmed(run, pack("short", until(1)), 2)
    with closing(lookup):
        assert lookup.locate([sha(1), sha(9)]) == run.contents.locate([sha(1)], promised=True)
        with pytest.raises(CatalogUnusable):
            lookup.locate([sha(2)])


def _read(path: Path, done: Any, told: Any) -> None:
    """All that a process beside the run is told, until that says that it is done: never less than before."""
    before, rounds = 0, 0
    shas = [sha(n) for n in range(PACKS * EACH)]
    with closing(SqliteLookup(path, PROMISE, False, NOW)) as lookup:
        while True:
            last = done.is_set()
            rounds += 1
            stored = len(lookup.stored(shas).shas)
            places = lookup.locate(shas)
            files = lookup.unchanged([FileState(1, n, 3, 4, 5) for n in range(PACKS * EACH)]).shas
            assert stored % EACH == 0
            assert before <= stored <= len(places) <= PACKS * EACH
            assert stored - EACH <= len(files)
            assert all(content == sha(inode) for (_, inode), content in files.items())
            before = stored
            if last:
                break
    told.put((before, len(files), rounds))


def test_others_look_while_the_run_writes(path: Path) -> None:
    """Neither waits for the other, nor is anything seen by halves."""
    context = multiprocessing.get_context("spawn")
    done, told = context.Event(), context.Queue()
    with SqliteCatalog(path) as catalog:
        run = began(catalog)
        readers = [context.Process(target=_read, args=(path, done, told)) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(PACKS):
            names = range(number * EACH, (number + 1) * EACH)
            confirmed(run, pack(f"{number}", until(21)), *names)
            run.files.remember([FileState(1, n, 3, 4, 5, sha(n)) for n in names])
        done.set()
        answers = [told.get(timeout=60) for _ in readers]
        for reader in readers:
            reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert {answer[:2] for answer in answers} == {(PACKS * EACH, PACKS * EACH)}


@pytest.mark.parametrize("change", ["PRAGMA user_version = 1", "PRAGMA application_id = 7", "DROP TABLE files"])
def test_another_file_is_not_looked_at(path: Path, change: str) -> None:
    """Whoever has put it there meanwhile."""
    SqliteCatalog(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(change)
    with pytest.raises(CatalogUnusable, match=r"catalog\.sqlite"):
        SqliteLookup(path, PROMISE, False, NOW)


def test_no_file_is_the_disks_fault(path: Path) -> None:
    """It is not made: that is the run's to do."""
    with pytest.raises(SpoolError) as raised:
        SqliteLookup(path, PROMISE, False, NOW)
    assert not isinstance(raised.value, CatalogUnusable)
    assert not path.exists()


def test_damage_is_not_believed_beside_the_run_either(path: Path) -> None:
    """A row that is not as it was written ends the look, and the run with it."""
    with SqliteCatalog(path) as catalog:
        run = began(catalog)
        confirmed(run, pack("p", until(21)), 1)
        run.files.remember([FileState(1, 1, 3, 4, 5, sha(1))])
        with closing(SqliteLookup(path, PROMISE, False, NOW)) as lookup:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE files SET oldest = 7")
                db.execute("UPDATE pieces SET members = members || x'00'")
            with pytest.raises(CatalogUnusable, match=r"catalog\.sqlite"):
                lookup.unchanged([FileState(1, 1, 3, 4, 5)])
            with pytest.raises(CatalogUnusable, match=r"catalog\.sqlite"):
                lookup.locate([sha(1)])
