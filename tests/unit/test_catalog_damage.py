"""A catalog that is not as it was written: noticed before anything is promised on its strength, or harmless."""

import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sysbackup.catalog import upgrading
from sysbackup.catalog.interface import Info
from sysbackup.catalog.sql_errors import damage_in
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.errors import CatalogUnusable, SpoolError
from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Location, LockMode, Member, StoredObject
from tests.support.catalogs import NOW, began, confirmed, members, of_version, pack, sha, until

STATES = [FileState(1, n, 3, 4, 5, sha(n)) for n in range(40)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog with four packs of ten contents each, the forty files that hold them, and another host's object."""
    path = tmp_path / "catalog.sqlite"
    with SqliteCatalog(path) as catalog:
        run = began(catalog)
        for n in range(4):
            confirmed(run, pack(f"{n}", until(21)), *range(10 * n, 10 * n + 10))
        run.indexes.learn("beta", [Indexed(pack("b", until(30)), "gzip", tuple(members(90, 91)))], NOW)
        run.indexes.published("index/alpha/20261123T041500Z-0000.jsonl.gz", NOW + timedelta(days=21))
        run.files.remember(STATES)
    return path


def changed(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            db.execute(statement)


@dataclass(frozen=True)
class Answers:
    """What a run was told."""

    indexes: dict[str, str]
    unchanged: dict[tuple[int, int], bytes]
    due: list[StoredObject]
    places: dict[bytes, Location]
    news: list[Indexed]
    info: Info


# What other hosts tell anew: more of an object of ours, which is ours to say, and an object of theirs.
TOLD = [
    Indexed(pack("0", until(30)), "gzip", tuple(members(*range(10)))),
    Indexed(pack("c", until(40)), "gzip", tuple(members(20, 90, 95))),
]


def answers(path: Path) -> Answers:
    """All that runs ask a catalog for, and what they write to it."""
    with SqliteCatalog(path) as catalog:
        run = began(catalog, 25)
        run.indexes.restrict(lambda host: host in ("alpha", "beta"))
        indexes = run.indexes.last_read()
        run.indexes.still_locked(NOW)
        run.indexes.learn("beta", TOLD, NOW)
        unchanged = run.files.unchanged(STATES)
        run.contents.stored([sha(n) for n in range(100)])
        run.renewals.collect()
        due = [(due.number, due.stored) for page in run.renewals.due() for due in page]
        for number, _ in due:
            run.renewals.members(number)
            run.renewals.renewed(number, until(50), checked=False)
        places = run.contents.locate([sha(n) for n in range(96)], promised=True)
        confirmed(run, pack("new", until(21)), "new")
        run.indexes.begin_publishing()
        news = [*run.indexes.news()]
        run.tidy(NOW)
        run.next_lock_end(NOW)
        return Answers(indexes, unchanged, [stored for _, stored in due], places, news, catalog.info())


Holds = dict[tuple[str, str | None], list[Member]]


def holding(packs: dict[str, list[Member]]) -> Holds:
    """By key and version, what is in these packs and in those that `answers` learns of and makes."""
    packs = {"c": members(20, 90, 95), "new": members("new")} | packs
    return {(pack(name, until(21)).key, f"version of {name}"): contents for name, contents in packs.items()}


HOLDS = holding({"b": members(90, 91)} | {f"{n}": members(*range(10 * n, 10 * n + 10)) for n in range(4)})


def assert_true(found: Answers, holds: Holds) -> None:
    """What is missing is read or stored once more; of what is there, all must be so."""
    assert all(device == 1 and content == sha(inode) for (device, inode), content in found.unchanged.items())
    for content, at in found.places.items():
        packed = next(c for c in holds[at.key, at.version] if c.sha == content)
        assert (at.span, at.encoding) == (packed.span, "gzip")
    for stored in found.due:
        assert (stored.key, stored.version) in holds
    for told in found.news:
        assert set(told.contents) <= set(holds[told.stored.key, told.stored.version])
        assert told.stored.size == 10_000
        assert told.stored.lock in (until(21), until(30), until(40), until(50))


def survived(path: Path, holds: Holds = HOLDS) -> str:
    """What becomes of a damaged catalog: `refused`, `set aside`, or else `believed`; other errors come through."""
    with capture_logs() as log:
        try:
            found = answers(path)
        except CatalogUnusable:
            return "refused"
        except SpoolError as exc:
            raise AssertionError("this says that the disk is to blame") from exc
    assert_true(found, holds)
    return "set aside" if any(line["event"] == "catalog.set_aside" for line in log) else "believed"


def copied(path: Path, name: str = "trial") -> Path:
    """A copy in a directory of its own."""
    directory = path.parent / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return Path(shutil.copy(path, directory / path.name))


COLUMNS = {
    "objects": ("id", "key", "version", "size", "mode", "until", "encoding", "host", "checked", "news", "sum"),
    "pieces": ("id", "object", "count", "members", "sum"),
    "hints": ("bucket", "hints"),
    "hinted": ("bits", "start", "up_to", "sum"),
    "files": ("device", "block", "oldest", "entries", "sum"),
    "indexes": ("host", "key", "until"),
    "bucket": ("name",),
}
VALUES = ("NULL", "0", "-1", "7", "1 << 62", "0.5", "1e300", "''", "'COMPLIANCE'", "x'ff'", "zeroblob(32)")


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in COLUMNS.items() for c in columns])
def test_no_value_of_any_type_is_believed_that_was_not_written(path: Path, table: str, column: str) -> None:
    """In one row or in all, text that is not UTF-8 among it: noticed, or it changes nothing that is answered."""
    assert survived(copied(path)) == "believed"
    tried = 0
    for value in (*VALUES, "CAST(x'fffe41' AS TEXT)", f"{column} + 1", f"{column} || 'x'"):
        for which in ("1", "rowid = 2" if table == "objects" else f"{column} = (SELECT max({column}) FROM {table})"):
            trial = copied(path)
            try:
                changed(trial, f"UPDATE OR IGNORE {table} SET {column} = {value} WHERE {which}")
            except sqlite3.IntegrityError:
                continue  # SQLite itself takes no such value
            survived(trial)
            tried += 1
    assert tried >= 8


def test_a_flip_in_the_header_is_noticed_or_does_not_matter(path: Path) -> None:
    """A version of SQLite's format that forbids to write among them: the file is to blame, not the disk."""
    said = []
    for at in range(100):
        for flip in (1 << at % 8, 0x42):
            trial = copied(path)
            whole = bytearray(trial.read_bytes())
            whole[at] ^= flip
            trial.write_bytes(whole)
            said.append(survived(trial))
    assert said.count("set aside") > 60


@pytest.mark.parametrize("seed", range(4))
def test_flips_anywhere_are_noticed_or_do_not_matter(path: Path, seed: int) -> None:
    """In trees, tables, indexes, free space: whatever they hit, nothing false is answered."""
    whole = path.read_bytes()
    dice = random.Random(seed)
    said = []
    for _ in range(150):
        flipped = bytearray(whole)
        for _ in range(dice.choice([1, 1, 2, 10, 100])):
            flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        trial = copied(path)
        trial.write_bytes(flipped)
        said.append(survived(trial))
    assert said.count("set aside") > 5
    assert said.count("refused") > 5


@pytest.mark.parametrize("seed", range(2))
def test_flips_in_what_a_killed_run_left_beside_it(tmp_path: Path, seed: int) -> None:
    """SQLite's -wal: from the damaged place on it counts as never written, the rest stays true."""
    left = tmp_path / "left" / "catalog.sqlite"
    left.parent.mkdir()
    source = tmp_path / "catalog.sqlite"
    running = SqliteCatalog(source)
    run = began(running)
    for n in range(40):
        confirmed(run, pack(f"w{n}", until(21)), n)
        run.files.remember(STATES[n : n + 1])
    for ending in ("", "-wal"):
        shutil.copy(f"{source}{ending}", f"{left}{ending}")
    running.close()
    wal = Path(f"{left}-wal").read_bytes()
    holds = holding({f"w{n}": members(n) for n in range(40)} | {"0": members(*range(10))})
    dice = random.Random(seed)
    for _ in range(60):
        trial = copied(left)
        flipped = bytearray(wal)
        for _ in range(dice.choice([1, 10, 100])):
            flipped[dice.randrange(len(wal))] = dice.randrange(256)
        Path(f"{trial}-wal").write_bytes(flipped)
        survived(trial, holds)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE sqlite_master SET sql = replace(sql, 'until INTEGER', 'until INTEGEQ') WHERE name = 'objects'",
            "made",
        ),
        ("UPDATE sqlite_master SET sql = replace(sql, 'oldest', 'oldesu') WHERE name = 'files'", "made"),
        ("DROP INDEX pieces_object", "made"),
        ("PRAGMA user_version = 1", "made"),
        ("PRAGMA user_version = 2", "made"),
        ("PRAGMA user_version = 4", "version 4"),
    ],
)
def test_a_schema_with_another_letter_is_not_ours(path: Path, change: str, said: str) -> None:
    """A column of another name or type would be compared in another order. A later version's is set aside too."""
    changed(path, change)
    with pytest.raises(CatalogUnusable, match="the next run sets it aside"):
        SqliteCatalog(path, read_only=True)
    with capture_logs() as log, SqliteCatalog(path) as catalog:
        assert catalog.info().objects == 0
    assert [(line["event"], said in line["reason"]) for line in log] == [("catalog.set_aside", True)]


def test_a_lost_objects_contents_do_not_lie_in_the_next_one(path: Path) -> None:
    """SQLite gives its number to the next object: what lay in the lost one must not be looked for there."""
    changed(path, "DELETE FROM objects WHERE key = (SELECT key FROM objects ORDER BY id DESC LIMIT 1)")
    with SqliteCatalog(path) as catalog:
        run = began(catalog)
        confirmed(run, pack("new", until(21)), "new")
        with pytest.raises(CatalogUnusable, match="pieces"):
            run.contents.locate([sha(90)])


def test_no_lock_is_promised_that_ends_too_early(path: Path) -> None:
    """Whatever became of what the run noted for renewal: the last look is at the lock itself."""
    with SqliteCatalog(path) as catalog:
        run = began(catalog, 25)
        assert len(run.files.unchanged(STATES)) == 40
        with catalog._connection.held() as db:  # the notes are the connection's own: nobody else can reach them
            assert db.execute("DELETE FROM run.used").rowcount == 1
        assert run.renewals.collect() == 0
        assert len(run.contents.locate([sha(1)])) == 1
        with pytest.raises(CatalogUnusable):
            run.contents.locate([sha(1)], promised=True)
        run = began(catalog, 25, LockMode.NONE)
        assert len(run.contents.locate([sha(1)], promised=True)) == 1


def test_a_catalog_without_its_bucket_is_nobodys(path: Path) -> None:
    """What it knows may be of any other."""
    changed(path, "DELETE FROM bucket")
    with SqliteCatalog(path) as catalog, pytest.raises(CatalogUnusable):
        began(catalog)


def test_looking_at_a_damaged_catalog_says_so(path: Path) -> None:
    """`sysbackup catalog info`: which file it is, and no text of it that nobody has checked."""
    changed(path, "UPDATE objects SET host = CAST(x'1b5b33316dff' AS TEXT)")
    with (
        SqliteCatalog(path, read_only=True) as catalog,
        pytest.raises(CatalogUnusable, match=r"catalog\.sqlite") as raised,
    ):
        catalog.info()
    assert str(raised.value).isprintable()


def test_files_of_a_far_future_are_remembered(path: Path) -> None:
    """From 2262 on, nanoseconds since 1970 are more than SQLite's integers hold."""
    states = [FileState(1, 100 + n, 3, time, time + 1, sha(1)) for n, time in enumerate((1 << 63, 1 << 64, -(1 << 70)))]
    with SqliteCatalog(path) as catalog:
        files = began(catalog).files
        files.remember(states)
        assert len(files.unchanged(states)) == 3
        assert files.unchanged([states[0]._replace(mtime=states[0].mtime + 1)]) == {}


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY]
)
def test_a_failing_disk_says_nothing_of_the_file(code: int) -> None:
    """Nothing is set aside for its sake; neither for an extended code of it (sqlite.org/rescode.html)."""
    for extended in (code, code | 3 << 8):
        error = sqlite3.OperationalError("disk")
        error.sqlite_errorcode = extended
        assert damage_in(error) is None


def test_a_catalog_that_may_not_be_written_is_kept(path: Path) -> None:
    """A file system mounted read-only, or full, is the administrator's to mend."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    if os.geteuid() == 0:
        pytest.skip("root may write to everything")
    path.chmod(0o400)
    with pytest.raises(SpoolError) as raised:
        SqliteCatalog(path)
    assert not isinstance(raised.value, CatalogUnusable)
    assert path.read_bytes() == before


# ---- earlier versions


@pytest.mark.parametrize(("version", "census"), [(1, False), (1, True), (2, True)])
def test_a_catalog_of_an_earlier_version_is_taken_over(path: Path, version: int, *, census: bool) -> None:
    """All that it knows, and for its owner alone; looking at it changes nothing about it."""
    true = answers(copied(path, "true"))
    of_version(path, version, census=census)
    with pytest.raises(CatalogUnusable, match="the next run takes it over"):
        SqliteCatalog(path, read_only=True)
    with capture_logs() as log:
        assert answers(path) == true
    assert [line["event"] for line in log] == ["catalog.taken_over"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE objects SET mode = 'x' WHERE id = 2",
        "UPDATE objects SET until = 1 << 60 WHERE id = 2",
        "UPDATE objects SET host = x'ff' WHERE id = 2",
        "UPDATE contents SET start = NULL",
        "UPDATE contents SET size = 'x'",
        "UPDATE OR IGNORE contents SET sha = x'01'",
        "UPDATE files SET mtime = 0.5",
        "UPDATE files SET sha = 'x'",
    ],
)
def test_a_damaged_catalog_of_an_earlier_version_is_set_aside(path: Path, version: int, change: str) -> None:
    """What can be seen without checksums is not given one."""
    changed(of_version(path, version), change)
    with capture_logs() as log, SqliteCatalog(path) as catalog:
        assert catalog.info().objects == 0
    assert [line["event"] for line in log] == ["catalog.set_aside"]
    assert [file.name for file in path.parent.iterdir() if "taking" in file.name] == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE objects SET until = until + 1 WHERE id = 2",
        "UPDATE objects SET key = 'packs/x' WHERE id = 2",
        "UPDATE contents SET start = start + 1",
        "UPDATE OR IGNORE contents SET sha = zeroblob(32)",
        "UPDATE files SET mtime = mtime + 1",
        "UPDATE files SET sha = zeroblob(32)",
    ],
)
def test_the_checksums_of_version_2_are_held_against_its_rows(path: Path, change: str) -> None:
    """None gets a new one that does not fit its old one."""
    changed(of_version(path, 2), change)
    with capture_logs() as log, SqliteCatalog(path) as catalog:
        assert catalog.info().objects == 0
    assert [line["event"] for line in log] == ["catalog.set_aside"]


@pytest.mark.parametrize("moment", ["copied", "replaced"])
def test_a_taking_over_that_is_cut_off_leaves_the_earlier_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed with the new file half or wholly written: the next run begins again from the old one."""
    true = answers(copied(path, "true"))
    of_version(path, 1)
    pid = os.fork()
    if pid == 0:
        end: Callable[..., None] = lambda *_: os._exit(9)  # noqa: E731
        if moment == "copied":
            copy = upgrading.copy
            monkeypatch.setattr(upgrading, "copy", lambda db, earlier: end(copy(db, earlier)))
        else:
            monkeypatch.setattr(Path, "replace", end)
        SqliteCatalog(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert answers(path) == true
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


def test_taking_over_gives_up_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error for people; the catalog is as it was, and nothing half is left beside it."""
    with SqliteCatalog(path) as catalog:
        confirmed(began(catalog), pack("large", until(21)), *range(1000, 3000))
    of_version(path, 1)

    def full(db: sqlite3.Connection, earlier: Path) -> None:
        db.execute("PRAGMA max_page_count = 14")
        copy(db, earlier)

    copy = upgrading.copy
    monkeypatch.setattr(upgrading, "copy", full)
    with pytest.raises(SpoolError, match="full") as raised:
        SqliteCatalog(path)
    assert not isinstance(raised.value, CatalogUnusable)
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
