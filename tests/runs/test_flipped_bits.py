"""A disk that changes bytes without a word: what the catalog says is proven row by row, or the catalog is set aside."""

import hashlib
import os
import random
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from sysbackup.catalog.blocks import ENTRY
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.contents import census
from sysbackup.formats import keys
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject
from tests.support.catalogs import of_version
from tests.support.clock import ManualClock
from tests.support.machines import Machine
from tests.support.memory_store import MemoryBucket
from tests.support.mortal import remove
from tests.support.promising import decoded

FILES = 60
CONTENTS = 20_000  # hundreds for each file of the tree; more make a trial slower, and add no other kind of page
# Each trial is a whole run; whoever has changed something that they guard may ask for fewer or more.
SHARES = 4
TRIALS = int(os.environ.get("SYSBACKUP_FLIPS", "2000"))

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose catalog knows far more contents than its tree has, as one that shares a bucket does."""
    # the synthetic objects are in no bucket: that is another test's matter
    monkeypatch.setattr(census, "PAGES", 0)
    clock = ManualClock()
    machine = Machine(tmp_path, "alpha", MemoryBucket(clock), clock, {"pack_size": 20_000})
    for n in range(FILES):
        machine.write(f"file{n}", os.urandom(700))
    machine.back_up()
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60))
    with SqliteCatalog(machine.catalog) as catalog:
        known = catalog.begin(machine.sql("SELECT name FROM bucket")[0][0], "alpha", lock, clock.now()).contents
        for number in range(CONTENTS // 1000):
            sha = hashlib.sha256(b"%d" % number).digest()
            stored = StoredObject(keys.pack_key(sha), sha.hex()[:32], 1 << 20, lock)
            members = [
                Member(hashlib.sha256(b"%d %d" % (number, n)).digest(), 2000, Span(n * 1000, 1000)) for n in range(1000)
            ]
            known.confirm(stored, "gzip", members)
    with closing(sqlite3.connect(machine.catalog)) as db:
        db.execute("UPDATE objects SET news = 0")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return machine


def places_that_matter(machine: Machine, whole: bytes) -> list[int]:
    """Where in the catalog's file the rows of the machine's own files, contents and objects lie."""
    blocks = [entries for (entries,) in machine.sql("SELECT entries FROM files")]
    marks = [entry[4] for entries in blocks for entry in ENTRY.iter_unpack(entries)]
    marks += [f"{row[0]}".encode() for row in machine.sql("SELECT key FROM objects LIMIT 4")]
    places = []
    for mark in marks:
        at = whole.find(mark)
        while at >= 0:
            places.append(at)
            at = whole.find(mark, at + 1)
    return places


def flipped(whole: bytes, places: list[int], dice: random.Random) -> dict[int, int]:
    """One to a hundred bytes that are others now, by their places: next to each other or all over the file."""
    start = dice.choice(places) + dice.randrange(-60, 80) if dice.random() < 0.5 else dice.randrange(len(whole))
    number = dice.choice([1, 1, 2, 10, dice.randint(1, 100)])
    spread = dice.random() < 0.3
    changed = {}
    for n in range(number):
        at = dice.randrange(len(whole)) if spread and n else min(start + n, len(whole) - 1)
        changed[at] = whole[at] ^ (1 << dice.randrange(8)) if dice.random() < 0.5 else dice.randrange(256)
    return changed


@pytest.mark.lengthy
@pytest.mark.parametrize("seed", range(SHARES))
def test_flipped_bytes_never_cost_a_backup(machine: Machine, seed: int) -> None:
    """Whatever they hit, the run that follows is complete, and its manifest names what is there and right."""
    whole = machine.catalog.read_bytes()
    places = places_that_matter(machine, whole)
    assert len(places) > FILES
    true = {f"file{n}": hashlib.sha256((machine.tree / f"file{n}").read_bytes()).hexdigest() for n in range(FILES)}
    quick = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else machine.base) / f"flips-{os.getpid()}-{seed}"
    shutil.rmtree(machine.config.cache)
    quick.mkdir()
    os.symlink(quick, machine.config.cache)
    stored = {key: list(versions) for key, versions in machine.bucket.objects.items()}
    dice = random.Random(seed)
    set_aside = 0
    try:
        machine.catalog.write_bytes(whole)
        for trial in range(TRIALS // SHARES):
            changed = flipped(whole, places, dice)
            with machine.catalog.open("r+b") as file:
                for at, byte in changed.items():
                    file.seek(at)
                    file.write(bytes([byte]))
            told = machine.back_up()
            assert told.summary.exit_code == 0, (trial, told.summary.first_problems)
            set_aside += bool(told.said("catalog.set_aside"))
            files = machine.files(told)
            assert {name: file.sha for name, file in files.items()} == true
            for name, said in files.items():
                place = said.location
                assert place is not None
                kept = machine.bucket.find(place.key, place.version)
                assert decoded(machine.bucket, place) == true[name]
                assert kept.lock is not None
                assert told.summary.promise is not None
                assert kept.lock.until >= told.summary.promise
            if trial % 50 == 0:
                assert machine.restores(told)
                shutil.rmtree(machine.base / "restored")
            # as it was before, and only where it is not
            machine.bucket.objects = {key: list(versions) for key, versions in stored.items()}
            for path in quick.glob("*unusable*"):
                path.unlink()
            remove(machine.catalog)
            machine.catalog.write_bytes(whole)
    finally:
        shutil.rmtree(quick)
    assert set_aside > TRIALS // SHARES // 10


COLUMNS = {
    "files": ("block", "oldest", "entries"),
    "pieces": ("object", "count", "members"),
    "hints": ("bucket", "hints"),
    "hinted": ("bits", "start", "up_to"),
    "objects": ("key", "version", "mode", "until", "encoding"),
}


@pytest.mark.parametrize("value", [7, -1, 1 << 40, "text", b"\xff\xfe", None, "COMPLIANCE"], ids=repr)
@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in COLUMNS.items() for c in columns])
def test_no_column_can_be_other_than_it_was_written(tmp_path: Path, table: str, column: str, value: object) -> None:
    """A changed value of whatever type in every row: the catalog is set aside, and the run is complete."""
    clock = ManualClock()
    machine = Machine(tmp_path, "alpha", MemoryBucket(clock), clock, {"pack_size": 5000})
    for n in range(20):
        machine.write(f"file{n}", os.urandom(700))
    machine.back_up()
    with closing(sqlite3.connect(machine.catalog)) as db, db:
        db.execute("PRAGMA ignore_check_constraints = 1")
        try:
            db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        except sqlite3.IntegrityError:
            pytest.skip("SQLite itself holds no such value")
    told = machine.back_up()
    assert told.summary.exit_code == 0
    assert machine.restores(told)


@pytest.mark.parametrize("version", [1, 2])
def test_a_catalog_of_an_earlier_version_is_taken_over(tmp_path: Path, version: int) -> None:
    """Its rows are written anew; nothing is read or stored again for that."""
    clock = ManualClock()
    machine = Machine(tmp_path, "alpha", MemoryBucket(clock), clock)
    for n in range(20):
        machine.write(f"file{n}", os.urandom(700))
    machine.back_up()
    of_version(machine.catalog, version)
    told = machine.back_up()
    assert not told.said("catalog.set_aside")
    assert told.summary.unchanged == told.summary.files == 20
    assert machine.restores(told)
    assert machine.sql("PRAGMA user_version") == [(3,)]
