"""Snapshotting: what a snapshotter writes is stored whole, with what it says of itself, or not at all."""

import hashlib
from pathlib import Path

import pytest

from sysbackup.formats import keys, manifest
from sysbackup.pipeline.snapshotting import snapshot_all, take
from tests.support import backups
from tests.support.memory_store import MemoryStore
from tests.support.stages import programmed, staged

MIB = 1 << 20

SAYS = """\
    #!/usr/bin/python3
    import os, sys
    print("All of it")
    print("::restore-through::cat")
    with open(int(sys.argv[1]), "wb") as out:
        {}
    """


def taken(base: Path, store: MemoryStore, body: str, **run: object) -> tuple[manifest.Snapshot | None, list[str]]:
    """The snapshot that this body of a program gives, and the problems of the run."""

    async def work() -> tuple[manifest.Snapshot | None, list[str]]:
        async with staged(base, store, run=run) as context, context.contents.keeping() as keeper:
            program = programmed(base / "snapshots.d", SAYS.format(body))
            found = await take(context, keeper.sender, program)
            assert context.contents.budget.used == 0
            return found, [problem.reason for problem in context.tally.first_problems]

    return backups.run(work())


@pytest.mark.parametrize("size", [1, 3 * MIB, 40 * MIB], ids=["small", "beyond the spool", "in parts"])
def test_what_it_writes_is_stored_with_what_it_says(tmp_path: Path, size: int) -> None:
    """Description and restore command in the manifest's entry; in the metadata where they were said in time."""
    store = MemoryStore()
    found, problems = taken(tmp_path, store, f"out.write(bytes({size}))", spool_limit=2 * MIB)
    assert problems == []
    assert found is not None
    kept = store.memory.find(found.key, found.version)
    assert (found.size, found.sha) == (size, hashlib.sha256(bytes(size)).hexdigest())
    assert kept.body == bytes(size)
    assert (found.description, found.restore) == ("All of it", "cat")
    assert kept.lock is not None
    if size == 1:
        assert kept.metadata == {keys.DESCRIPTION: "All of it", keys.RESTORE: "cat"}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("out.write(b'half'); sys.exit(3)", "exit status 3"),
        ("pass", "wrote no data"),
        ("out.write(bytes(40 << 20)); out.flush(); os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_one_that_fails_leaves_nothing(tmp_path: Path, body: str, why: str) -> None:
    """Neither object nor upload, however much it had written; the run has a problem, and goes on."""
    store = MemoryStore()
    found, (problem,) = taken(tmp_path, store, body)
    assert found is None
    assert why in problem
    assert not store.memory.objects
    assert not store.memory.uploads


def test_so_many_at_once_as_are_allowed(tmp_path: Path) -> None:
    """Each of the others waits; a failing one takes nobody's place for good."""
    script = """\
        #!/bin/sh
        echo begin >> {log}
        sleep 0.2
        echo end >> {log}
        case $0 in *2) exit 1;; esac
        echo data >&"$1"
        """
    store, log = MemoryStore(), tmp_path / "log"

    async def work() -> list[manifest.Snapshot]:
        snapshots: list[manifest.Snapshot] = []
        async with staged(tmp_path, store, run={"snapshots_at_once": 2}) as context:
            programs = [programmed(tmp_path / f"{n}", script.format(log=log), f"program{n}") for n in range(6)]
            async with context.contents.keeping() as keeper:
                await snapshot_all(context, keeper.sender, programs, snapshots)
        return snapshots

    assert sorted(s.name for s in backups.run(work())) == [f"program{n}" for n in (0, 1, 3, 4, 5)]
    going = most = 0
    for line in log.read_text().split():
        going += 1 if line == "begin" else -1
        most = max(most, going)
    assert most == 2
