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
from sysbackup.catalog.known import Catalog, FileState

from sysbackup.catalog import renewal, schema, shared, upgrading
from sysbackup.catalog.rows import CatalogUnusable
from sysbackup.errors import SpoolError
from sysbackup.formats.index import Indexed
from sysbackup.model import Location, LockMode, Member, StoredObject
from tests.unit.test_catalog import NOW, began, confirmed, members, pack, sha, until

STATES = [FileState(1, n, 3, 4, 5, sha(n)) for n in range(40)]

# As sysbackup made it before there were checksums.
VERSION_1 = """
PRAGMA application_id = 1935829827;
PRAGMA user_version = 1;
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    version TEXT NOT NULL,       -- '' on stores without versions
    size INTEGER NOT NULL,       -- of the body
    mode TEXT NOT NULL,
    until INTEGER NOT NULL,      -- of the lock, seconds since 1970
    encoding TEXT,
    host TEXT NOT NULL,          -- whose index, or whose run, told us of it
    checked INTEGER NOT NULL,    -- 1: ours, or its contents were compared with their hashes
    news INTEGER NOT NULL,       -- 1: stored or renewed by us, in no index yet; 2: in the one being published
    UNIQUE (key, version)
);
CREATE INDEX objects_news ON objects (news) WHERE news > 0;
CREATE TABLE contents (
    sha BLOB PRIMARY KEY,        -- 32 bytes
    object INTEGER NOT NULL,
    start INTEGER,               -- of the member in its pack; NULL where the object is the content
    length INTEGER,
    size INTEGER NOT NULL        -- of the content; -1: not known
) WITHOUT ROWID;
CREATE INDEX contents_object ON contents (object);
CREATE TABLE files (
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,      -- nanoseconds
    ctime INTEGER NOT NULL,
    sha BLOB NOT NULL,
    seen INTEGER NOT NULL,       -- days since 1970
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE used (              -- contents that this run reuses and that need a look before its end
    sha BLOB PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE leaving (           -- packs hardly used any more, whose living contents this run stores anew
    object INTEGER PRIMARY KEY
);
CREATE TABLE indexes (
    host TEXT PRIMARY KEY,
    key TEXT NOT NULL,           -- the last index object of that host that was read or published
    until INTEGER NOT NULL       -- of its lock, where it is our own; else 0
) WITHOUT ROWID;
CREATE TABLE bucket (
    name TEXT PRIMARY KEY        -- the one bucket that all this is about
) WITHOUT ROWID;
"""
CENSUS = """
CREATE TABLE IF NOT EXISTS census (
    key TEXT NOT NULL            -- behind which the next look at what is in the bucket begins
);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A catalog with four packs of ten contents each, the forty files that hold them, and another host's object."""
    path = tmp_path / "catalog.sqlite"
    with Catalog(path) as catalog:
        began(catalog)
        for n in range(4):
            confirmed(catalog, pack(f"{n}", until(21)), *range(10 * n, 10 * n + 10))
        shared.learn(catalog, "beta", [Indexed(pack("b", until(30)), "gzip", tuple(members(90, 91)))], NOW)
        shared.published(catalog, "alpha", "index/alpha/20261123T041500Z-0000.jsonl.gz", NOW + timedelta(days=21))
        catalog.remember(STATES)
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
    info: shared.Info


# What other hosts tell anew: more of an object of ours, which is ours to say, and an object of theirs.
TOLD = [
    Indexed(pack("0", until(30)), "gzip", tuple(members(*range(10)))),
    Indexed(pack("c", until(40)), "gzip", tuple(members(20, 90, 95))),
]


def answers(path: Path) -> Answers:
    """All that runs ask a catalog for, and what they write to it."""
    with Catalog(path) as catalog:
        began(catalog, 25)
        shared.restrict(catalog, lambda host: host in ("alpha", "beta"))
        indexes = shared.last_read(catalog)
        shared.still_locked(catalog, "alpha", NOW)
        shared.learn(catalog, "beta", TOLD, NOW)
        unchanged = catalog.unchanged(STATES)
        catalog.claim([sha(n) for n in range(100)])
        renewal.collect(catalog)
        due = [(due.number, due.stored) for page in renewal.due(catalog) for due in page]
        for number, _ in due:
            renewal.contents(catalog, number)
            renewal.renewed(catalog, number, until(50), checked=False)
        places = catalog.locate([sha(n) for n in range(96)], promised=True)
        confirmed(catalog, pack("new", until(21)), "new")
        shared.begin_publishing(catalog)
        news = [*shared.news(catalog)]
        catalog.tidy(NOW)
        catalog.next_lock_end(NOW)
        return Answers(indexes, unchanged, [stored for _, stored in due], places, news, shared.info(catalog))


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
        assert (at.offset, at.length, at.encoding) == (packed.offset, packed.length, "gzip")
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
    "contents": ("sha", "object", "start", "length", "size", "sum"),
    "files": ("device", "inode", "size", "mtime", "ctime", "sha", "seen", "sum"),
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
    running = began(Catalog(source))
    for n in range(40):
        confirmed(running, pack(f"w{n}", until(21)), n)
        running.remember(STATES[n : n + 1])
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
        ("UPDATE sqlite_master SET sql = replace(sql, 'mtime', 'mtimf') WHERE name = 'files'", "made"),
        ("DROP INDEX contents_object", "made"),
        ("PRAGMA user_version = 1", "made"),
        ("PRAGMA user_version = 3", "version 3"),
    ],
)
def test_a_schema_with_another_letter_is_not_ours(path: Path, change: str, said: str) -> None:
    """A column of another name or type would be compared in another order. A later version's is set aside too."""
    changed(path, change)
    with pytest.raises(CatalogUnusable, match="the next run sets it aside"):
        Catalog(path, read_only=True)
    with capture_logs() as log, Catalog(path) as catalog:
        assert shared.info(catalog).objects == 0
    assert [(line["event"], said in line["reason"]) for line in log] == [("catalog.set_aside", True)]


def test_a_lost_objects_contents_do_not_lie_in_the_next_one(path: Path) -> None:
    """SQLite gives its number to the next object: what lay in the lost one must not be looked for there."""
    changed(path, "DELETE FROM objects WHERE key = (SELECT key FROM objects ORDER BY id DESC LIMIT 1)")
    with Catalog(path) as catalog:
        began(catalog)
        confirmed(catalog, pack("new", until(21)), "new")
        with pytest.raises(CatalogUnusable, match="contents"):
            catalog.locate([sha(90)])


def test_no_lock_is_promised_that_ends_too_early(path: Path) -> None:
    """Whatever became of what the run noted for renewal: the last look is at the lock itself."""
    with Catalog(path) as catalog:
        catalog.begin("bucket", "alpha", until(25), NOW)
        assert len(catalog.unchanged(STATES)) == 40
        changed(path, "DELETE FROM used")
        assert renewal.collect(catalog) == 0
        assert len(catalog.locate([sha(1)])) == 1
        with pytest.raises(CatalogUnusable):
            catalog.locate([sha(1)], promised=True)
        catalog.begin("bucket", "alpha", until(25, LockMode.NONE), NOW)
        assert len(catalog.locate([sha(1)], promised=True)) == 1


def test_a_catalog_without_its_bucket_is_nobodys(path: Path) -> None:
    """What it knows may be of any other."""
    changed(path, "DELETE FROM bucket")
    with Catalog(path) as catalog, pytest.raises(CatalogUnusable):
        began(catalog)


def test_looking_at_a_damaged_catalog_says_so(path: Path) -> None:
    """`sysbackup catalog info`: which file it is, and no text of it that nobody has checked."""
    changed(path, "UPDATE objects SET host = CAST(x'1b5b33316dff' AS TEXT)")
    with Catalog(path, read_only=True) as catalog, pytest.raises(CatalogUnusable, match=r"catalog\.sqlite") as raised:
        shared.info(catalog)
    assert str(raised.value).isprintable()


def test_files_of_a_far_future_are_remembered(path: Path) -> None:
    """From 2262 on, nanoseconds since 1970 are more than SQLite's integers hold."""
    states = [FileState(1, 100 + n, 3, time, time + 1, sha(1)) for n, time in enumerate((1 << 63, 1 << 64, -(1 << 70)))]
    with Catalog(path) as catalog:
        began(catalog)
        catalog.remember(states)
        assert len(catalog.unchanged(states)) == 3
        assert catalog.unchanged([states[0]._replace(mtime=states[0].mtime + 1)]) == {}


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY]
)
def test_a_failing_disk_says_nothing_of_the_file(code: int) -> None:
    """Nothing is set aside for its sake; neither for an extended code of it (sqlite.org/rescode.html)."""
    for extended in (code, code | 3 << 8):
        error = sqlite3.OperationalError("disk")
        error.sqlite_errorcode = extended
        assert schema.damage_in(error) is None


def test_a_catalog_that_may_not_be_written_is_kept(path: Path) -> None:
    """A file system mounted read-only, or full, is the administrator's to mend."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    if os.geteuid() == 0:
        pytest.skip("root may write to everything")
    path.chmod(0o400)
    with pytest.raises(SpoolError) as raised:
        Catalog(path)
    assert not isinstance(raised.value, CatalogUnusable)
    assert path.read_bytes() == before


# ---- version 1


def of_version_1(path: Path, *, census: bool = False) -> Path:
    """The same catalog as sysbackup made it before there were checksums."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    earlier = path.with_name("earlier")
    with closing(sqlite3.connect(earlier, isolation_level=None)) as db:
        db.executescript(VERSION_1 + CENSUS * census)
        db.execute("ATTACH ? AS new", (str(path),))
        for table in COLUMNS:
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")
        db.execute("DETACH new")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO used VALUES (x'00')")
    os.replace(earlier, path)
    return path


@pytest.mark.parametrize("census", [False, True])
def test_a_catalog_of_version_1_is_taken_over(path: Path, *, census: bool) -> None:
    """All that it knows, and for its owner alone; looking at it changes nothing about it."""
    true = answers(copied(path, "true"))
    of_version_1(path, census=census)
    with pytest.raises(CatalogUnusable, match="the next run takes it over"):
        Catalog(path, read_only=True)
    with capture_logs() as log:
        assert answers(path) == true
    assert [line["event"] for line in log] == ["catalog.taken_over"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


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
def test_a_damaged_catalog_of_version_1_is_set_aside(path: Path, change: str) -> None:
    """What can be seen without checksums is not given one."""
    changed(of_version_1(path), change)
    with capture_logs() as log, Catalog(path) as catalog:
        assert shared.info(catalog).objects == 0
    assert [line["event"] for line in log] == ["catalog.set_aside"]
    assert [file.name for file in path.parent.iterdir() if "taking" in file.name] == []


@pytest.mark.parametrize("moment", ["copied", "replaced"])
def test_a_taking_over_that_is_cut_off_leaves_the_earlier_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed with the new file half or wholly written: the next run begins again from the old one."""
    true = answers(copied(path, "true"))
    of_version_1(path)
    pid = os.fork()
    if pid == 0:
        end: Callable[..., None] = lambda *_: os._exit(9)  # noqa: E731
        if moment == "copied":
            copy = upgrading.copy
            monkeypatch.setattr(upgrading, "copy", lambda db, earlier: end(copy(db, earlier)))
        else:
            monkeypatch.setattr(Path, "replace", end)
        Catalog(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert answers(path) == true
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


def test_taking_over_gives_up_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error for people; the catalog is as it was, and nothing half is left beside it."""
    with Catalog(path) as catalog:
        confirmed(began(catalog), pack("large", until(21)), *range(1000, 3000))
    of_version_1(path)

    def full(db: sqlite3.Connection, earlier: Path) -> None:
        db.execute("PRAGMA max_page_count = 14")
        copy(db, earlier)

    copy = upgrading.copy
    monkeypatch.setattr(upgrading, "copy", full)
    with pytest.raises(SpoolError, match="full") as raised:
        Catalog(path)
    assert not isinstance(raised.value, CatalogUnusable)
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
