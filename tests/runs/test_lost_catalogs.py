"""The catalog is a cache: lost, damaged, foreign or mixed up, it costs time and never a backup."""

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sysbackup.errors import BucketUnusable
from sysbackup.formats import manifest
from sysbackup.pipeline.backup import back_up
from sysbackup.pipeline.tally import Stage, Tally
from tests.support import backups
from tests.support.clock import ManualClock
from tests.support.machines import Machine
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.mortal import remove

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def machine(tmp_path: Path, clock: ManualClock) -> Machine:
    machine = Machine(tmp_path, "alpha", MemoryBucket(clock), clock, {"pack_size": 100_000})
    for n in range(400):
        machine.write(f"small{n}", os.urandom(900))
    machine.write("middle", os.urandom(MIB))
    return machine


def foreign_text(path: Path) -> None:
    path.write_text("these are my notes, not a database\n" * 100)


def foreign_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE objects (id INTEGER)")


def other_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 99")


def other_bucket(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE bucket SET name = 'bucket at https://elsewhere.example'")


def no_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE pieces")


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def no_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(4096))


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (foreign_text, "not a database"),
    "another program's": (foreign_database, "not made by sysbackup"),
    "a later version's": (other_version, "version 99"),
    "about another bucket": (other_bucket, "elsewhere.example"),
    "without a table": (no_table, "tables"),
    "cut in half": (cut_in_half, "malformed"),
    "without a header": (no_header, "not a database"),
}


@pytest.mark.parametrize(("spoil", "reason"), UNUSABLE.values(), ids=[name.replace(" ", "-") for name in UNUSABLE])
def test_a_catalog_that_cannot_be_used_is_set_aside(
    machine: Machine, spoil: Callable[[Path], None], reason: str
) -> None:
    """With a warning that says why; the run reads all, stores nothing twice, and the next one is as cheap as ever."""
    machine.back_up()
    spoil(machine.catalog)
    second = machine.back_up()
    (warning,) = second.said("catalog.set_aside")
    assert reason in warning["reason"]
    assert Path(warning["path"]).exists()
    assert second.kinds == {"manifests": 1}
    assert machine.restores(second)
    third = machine.back_up()
    assert third.summary.unchanged == third.summary.files
    assert not third.said("catalog.set_aside")


def another_sum(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE objects SET sum = sum + 1")


@pytest.mark.parametrize("spoil", [other_bucket, another_sum])
def test_a_run_that_begins_again_is_watched_once(machine: Machine, spoil: Callable[[Path], None]) -> None:
    """Found at its beginning, or in the middle: one run to whoever follows it, and nothing of it counts twice."""
    backups.program(machine.config.pickers, "relative", "#!/bin/sh\necho not/absolute\n")
    machine.back_up()
    spoil(machine.catalog)
    watched: list[Tally] = []
    with capture_logs() as log:
        store = MemoryStore(machine.bucket)
        found = backups.run(back_up(machine.config, store, machine.clock, watched.append))
    assert [line["event"] for line in log].count("catalog.set_aside") == 1
    (tally,) = watched
    assert (tally.stage, tally.run) == (Stage.DONE, found.run)
    assert (found.files, found.problems) == (401, 1)
    assert found.examined is not None
    assert found.examined.files == 401
    said = backups.entries(store, found)
    assert [entry.event for entry in said if isinstance(entry, manifest.Log)] == ["path.refused"]


def test_random_damage_never_costs_a_backup(machine: Machine) -> None:
    """Pages of noise or zeros, an end cut off: found at once, later, or never where they are not needed."""
    machine.back_up()
    whole = machine.catalog.read_bytes()
    dice = random.Random(7)
    set_aside = 0
    for _ in range(40):
        remove(machine.catalog)
        machine.catalog.write_bytes(whole)
        with machine.catalog.open("r+b") as file:
            for _ in range(dice.randrange(1, 9)):
                file.seek(dice.randrange(len(whole)) // 4096 * 4096)
                file.write(dice.choice([dice.randbytes(4096), bytes(4096)]))
            if dice.random() < 0.3:
                file.truncate(dice.randrange(len(whole)))
        told = machine.back_up()
        set_aside += bool(told.said("catalog.set_aside"))
        assert told.summary.exit_code == 0
        assert machine.restores(told)
    assert set_aside > 20


def test_damage_that_is_found_after_the_manifest(machine: Machine) -> None:
    """The run has ended well, and says so; the catalog is set aside when nothing has it open any more."""
    machine.back_up()
    (machine.tree / "middle").unlink()
    # an object that nothing asks for but the look for the next end of a lock
    machine.sql("UPDATE objects SET until = until - 86400 WHERE key LIKE 'content/%'")
    told = machine.back_up()
    assert told.summary.exit_code == 0
    assert told.summary.unchanged == told.summary.files == 400
    assert len(told.said("catalog.set_aside")) == 1
    assert not machine.catalog.exists()
    assert machine.restores(told)
    third = machine.back_up()
    assert not third.said("catalog.set_aside")
    assert third.kinds == {"manifests": 1}


def test_what_is_set_aside_does_not_pile_up(machine: Machine) -> None:
    """The last one is kept to look into, those before it are not."""
    machine.back_up()
    for _ in range(3):
        foreign_text(machine.catalog)
        machine.back_up()
    assert len([*machine.catalog.parent.glob("*unusable*")]) == 1


def test_requests_made_in_vain_are_counted(machine: Machine) -> None:
    """A run that begins again with a new catalog says what both attempts cost."""
    machine.back_up()
    machine.sql("UPDATE indexes SET key = 'index/alpha/99991231T235959Z-0000.jsonl.gz'")
    twice = machine.back_up()
    assert twice.said("catalog.set_aside")
    assert twice.requests["ListObjectsV2"] == 3  # one of them asks whether the bucket is there at all


def test_a_lost_catalog_is_built_from_the_index(machine: Machine) -> None:
    """Deleted, also with something left beside it: all is read, nothing is stored but the manifest."""
    machine.back_up()
    wal = machine.catalog.with_name(machine.catalog.name + "-wal")
    for leave in (b"", os.urandom(5000)):
        remove(machine.catalog)
        if leave:
            wal.write_bytes(leave)
        told = machine.back_up()
        assert told.kinds == {"manifests": 1}
        assert told.summary.unchanged == 0
        assert machine.restores(told)


def test_a_catalog_from_the_past_knows_less_and_nothing_wrong(machine: Machine, clock: ManualClock) -> None:
    """A machine put back to last month: what its catalog says is still so, or is found out."""
    machine.back_up()
    old = machine.catalog.read_bytes()
    for _ in range(3):
        clock.turn(days=12)
        machine.write("changing", os.urandom(900))
        machine.back_up()
    machine.bucket.expire()
    remove(machine.catalog)
    machine.catalog.write_bytes(old)
    told = machine.back_up()
    assert told.kinds == {"manifests": 1}
    assert machine.restores(told)


def test_a_mistyped_bucket_does_not_cost_the_catalog(machine: Machine) -> None:
    """It is another bucket, too, but there is none: the run fails, and with the right name all is as it was."""
    machine.back_up()
    other_bucket(machine.catalog)

    class Missing(MemoryStore):
        """A bucket that does not exist."""

        async def check(self) -> None:
            raise BucketUnusable("there is no such bucket")

    with pytest.raises(BucketUnusable):
        machine.back_up(Missing(machine.bucket))
    assert not [*machine.catalog.parent.glob("*unusable*")]


def test_another_bucket_of_the_same_name_is_noticed(machine: Machine, clock: ManualClock) -> None:
    """Deleted and made anew, or another account's: the catalog knows of an index that must be there."""
    machine.back_up()
    machine.bucket = MemoryBucket(clock)
    told = machine.back_up()
    assert "another bucket" in told.said("catalog.set_aside")[0]["reason"]
    assert machine.restores(told)


def test_a_hidden_index_is_no_reason_to_give_up_a_catalog(machine: Machine) -> None:
    """A delete marker over it is noticed and said; nothing is read or stored again for that."""
    first = machine.back_up()
    (key,) = (key for key in first.stored if key.startswith("index/"))
    machine.bucket.hide(key)
    told = machine.back_up()
    assert [line["key"] for line in told.said("index.hidden")] == [key]
    assert not told.said("catalog.set_aside")
    assert told.summary.unchanged == told.summary.files
