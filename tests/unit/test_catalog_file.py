"""The catalog's file: who may read it, whose it is, and what becomes of one that cannot be used."""

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.errors import CatalogUnusable, SpoolError
from tests.support.catalogs import began, confirmed, pack, sha, unknown, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[SqliteCatalog]:
    with SqliteCatalog(path) as catalog:
        yield catalog


def test_the_file_is_for_its_owner_alone(catalog: SqliteCatalog, path: Path) -> None:
    """It tells the hashes of everybody's files."""
    confirmed(began(catalog), pack("p", until(21)), 1)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_what_a_run_notes_lies_beside_the_catalog(path: Path) -> None:
    """There is room, and it may be written: of other directories nobody knows. It is gone with the run, or the next."""
    notes = path.with_name("catalog.sqlite.run")
    names = range(60_000)
    with SqliteCatalog(path) as catalog:
        confirmed(began(catalog), pack("p", until(1), 10**7), *names)
        session = began(catalog)
        session.contents.stored(map(sha, names))
        assert session.renewals.collect() == 1
        assert stat.S_IMODE(notes.stat().st_mode) == 0o600
        assert notes.stat().st_size > 32 * len(names)
        held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [name for name in held if "etilqs" in name]
    assert not notes.exists()
    notes.write_bytes(b"what a killed run has left")
    with SqliteCatalog(path) as catalog:
        assert began(catalog).renewals.collect() == 0
    assert not notes.exists()


def test_notes_that_cannot_be_taken_away_cost_no_run(path: Path) -> None:
    """What was done is done, and a run that has ended well has ended well; the next one says what is in its way."""
    notes = path.with_name("catalog.sqlite.run")
    with SqliteCatalog(path) as catalog:
        began(catalog)
        notes.unlink()
        notes.mkdir()
    with SqliteCatalog(path) as catalog, pytest.raises(SpoolError, match=r"catalog\.sqlite"):
        began(catalog)


def overwritten(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))


@pytest.mark.parametrize("pages", [(0, 1), (1, 1000)], ids=["header", "the rest"])
def test_a_damaged_file_is_set_aside_or_refused(path: Path, pages: Sequence[int]) -> None:
    """At opening, or as soon as somebody steps on it; never taken for what it is not."""
    with SqliteCatalog(path) as catalog:
        confirmed(began(catalog), pack("p", until(21), 10**7), *range(10_000))
    size = path.stat().st_size
    overwritten(path, pages[0] * 4096, min(pages[1] * 4096, size - pages[0] * 4096))
    with capture_logs() as log, SqliteCatalog(path) as catalog:
        try:
            began(catalog).contents.locate(map(sha, range(10_000)))
        except CatalogUnusable:
            return
    assert [line["event"] for line in log] == ["catalog.set_aside"]


def test_rows_that_nobody_wrote_are_not_believed(path: Path) -> None:
    """Cut off within a page, a database reads on: as rows of NULL, which SQLite does not mind."""
    with SqliteCatalog(path) as catalog:
        run = began(catalog)
        for n in range(200):
            confirmed(run, pack(str(n), until(21)), n)
    os.truncate(path, path.stat().st_size - 3000)
    with pytest.raises(CatalogUnusable, match="damaged"):
        SqliteCatalog(path, read_only=True)
    with capture_logs() as log, SqliteCatalog(path) as catalog:
        assert catalog.info().objects == 0
    assert [line["event"] for line in log] == ["catalog.set_aside"]


def test_a_catalog_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory that is not there, a disk that takes no more files: an error for people that names the file."""
    with pytest.raises(SpoolError, match=r"none/catalog\.sqlite"):
        SqliteCatalog(tmp_path / "none" / "catalog.sqlite")


def test_another_process_may_look(catalog: SqliteCatalog, path: Path) -> None:
    """`sysbackup catalog info` while a run goes on: neither waits for the other (WAL, sqlite.org/wal.html)."""
    run = began(catalog)
    with closing(sqlite3.connect(path)) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM objects").fetchone() == (0,)
        confirmed(run, pack("p", until(21)), 1)
        assert db.execute("SELECT count(*) FROM objects").fetchone() == (0,)
    assert catalog.info().objects == 1


def test_what_a_run_notes_is_not_in_the_file(catalog: SqliteCatalog, path: Path) -> None:
    """What it reuses and what it leaves: nobody else sees it, and after a kill nobody has to clear it away."""
    run = began(catalog)
    confirmed(run, pack("p", until(1)), 1)
    run.contents.stored([sha(1)])
    run.renewals.collect()
    ((found,),) = run.renewals.due()
    run.renewals.leave(found.number)
    assert unknown(run, [sha(1)]) == {sha(1)}
    with closing(sqlite3.connect(path)) as db:
        before = [*db.iterdump()]
        run.contents.use([sha(1)])
        run.renewals.collect()
        assert [*db.iterdump()] == before
