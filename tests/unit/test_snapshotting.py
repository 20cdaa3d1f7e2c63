"""Snapshotting: what a snapshotter writes is stored whole, with what it says of itself, or not at all."""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sysbackup.formats import chunk_list, keys, manifest
from sysbackup.model import Location
from sysbackup.pipeline.snapshotting import Snapshots
from tests.support import backups
from tests.support.chunking import content
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


def taken(
    base: Path, store: MemoryStore, body: str, content: Mapping[str, int] | None = None
) -> tuple[list[manifest.Snapshot], list[str]]:
    """The snapshots that this body of a program gives, and the problems of the run."""

    async def work() -> tuple[list[manifest.Snapshot], list[str]]:
        async with staged(base, store, content) as context, context.contents.keeping() as keeper:
            with closing(Snapshots(context)) as snapshots:
                await snapshots.take_all(keeper, [programmed(base / "snapshots.d", SAYS.format(body))])
                await keeper.chunks.finish()
                assert not await snapshots.lost()
                found = await snapshots.finish(keeper)
            assert context.contents.budget.used == 0
            return found, [problem.reason for problem in context.tally.first_problems]

    return backups.run(work())


@pytest.mark.parametrize("size", [1, 3 * MIB, 30 * MIB], ids=["small", "large", "in parts"])
def test_what_it_writes_is_stored_with_what_it_says(tmp_path: Path, size: int) -> None:
    """Description and restore command in the manifest's entry and in the metadata, whenever they were said."""
    store = MemoryStore()
    body = f"out.write(bytes({size})); out.close(); sys.stdout.flush()"
    (found,), problems = taken(tmp_path, store, body, {"snapshot_chunk_from": 32 * MIB})
    assert problems == []
    kept = store.memory.find(found.key, found.version)
    assert (found.size, found.sha) == (size, hashlib.sha256(bytes(size)).hexdigest())
    assert kept.body == bytes(size)
    assert (found.description, found.restore) == ("All of it", "cat")
    assert kept.lock is not None
    assert kept.metadata == {keys.DESCRIPTION: "All of it", keys.RESTORE: "cat"}
    assert found.encoding is None


@pytest.mark.parametrize("more", [0, 1, 5 * MIB])
def test_what_is_longer_is_cut(tmp_path: Path, more: int) -> None:
    """Its object is the list then, with the same metadata; equal chunks are stored once."""
    store, size = MemoryStore(), 8 * MIB + more
    (found,), problems = taken(tmp_path, store, f"out.write(bytes({size}))", {"snapshot_chunk_from": 8 * MIB})
    assert problems == []
    assert found.encoding == (chunk_list.NAME if more else None)
    assert content(store.memory, Location(found.key, found.version, None, found.encoding)) == bytes(size)
    metadata = store.memory.find(found.key, found.version).metadata
    assert metadata == {keys.DESCRIPTION: "All of it", keys.RESTORE: "cat"} | (
        {keys.ENCODING: chunk_list.NAME} if more else {}
    )
    if more:
        assert sum(len(kept.body) for versions in store.memory.objects.values() for kept in versions) < 50_000


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("out.write(b'half'); sys.exit(3)", "exit status 3"),
        ("pass", "wrote no data"),
        ("out.write(bytes(40 << 20)); out.flush(); os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_one_that_fails_leaves_nothing(tmp_path: Path, body: str, why: str) -> None:
    """No object of its own, and no upload, however much it had written; the run has a problem, and goes on."""
    store = MemoryStore()
    found, (problem,) = taken(tmp_path, store, body)
    assert found == []
    assert why in problem
    assert not [key for key in store.memory.objects if not key.startswith("packs/")]
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
        async with staged(tmp_path, store, run={"snapshots_at_once": 2}) as context:
            programs = [programmed(tmp_path / f"{n}", script.format(log=log), f"program{n}") for n in range(6)]
            async with context.contents.keeping() as keeper:
                with closing(Snapshots(context)) as snapshots:
                    await snapshots.take_all(keeper, programs)
                    return await snapshots.finish(keeper)

    assert sorted(s.name for s in backups.run(work())) == [f"program{n}" for n in (0, 1, 3, 4, 5)]
    going = most = 0
    for line in log.read_text().split():
        going += 1 if line == "begin" else -1
        most = max(most, going)
    assert most == 2


@pytest.mark.parametrize(
    ("written", "warned"),
    [
        ("gzip.compress(random.randbytes(3 << 20), 1)", True),
        ("gzip.compress(b''.join(b'%d ' % n for n in range(999_999)), 1)", True),
        ("b''.join(b'row %d\\n' % n for n in range(999_999))", False),
        ("gzip.compress(random.randbytes(100_000))", False),  # short: stored as it is
    ],
)
def test_a_compressed_dump_is_named(tmp_path: Path, written: str, *, warned: bool) -> None:
    """It shares nothing with other nights': the log says so, and the summary, for check-config."""

    async def work() -> list[str]:
        async with staged(tmp_path, MemoryStore()) as context, context.contents.keeping() as keeper:
            with closing(Snapshots(context)) as snapshots:
                script = SAYS.format(f"import gzip, random; out.write({written})")
                await snapshots.take_all(keeper, [programmed(tmp_path / "snapshots.d", script)])
            return context.tally.compressed

    with capture_logs() as log:
        named = backups.run(work())
    assert named == (["program"] if warned else [])
    assert [line["program"] for line in log if line["event"] == "snapshot.compressed"] == named
