"""
Snapshotting: what snapshotters write becomes objects.

S3 takes an object's metadata when its upload begins, while a snapshotter may
describe itself last. A short one waits on disk for the program's end. A longer one
is cut into chunks as it comes; of its object, the list of these, nothing is
written before all that the run relies on has been seen to.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

import structlog
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncBufferedReader

from sysbackup.contents.chunk_lists import Unlistable
from sysbackup.contents.chunking import AT_ONCE, Chunked, Chunker, Read
from sysbackup.contents.keeping import Keeper
from sysbackup.contents.shipping import Pieces
from sysbackup.disk.sorting import spooling
from sysbackup.formats import chunk_list, gzipping, keys, manifest
from sysbackup.model import Problem, StoredObject, shown
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.saying import Said
from sysbackup.programs.discovery import Program
from sysbackup.programs.running import Running, running

log = structlog.get_logger()

# What a dump is judged by, and how many that are compressed the run's summary names.
_SAMPLE = 16 << 10
_NAMED_AT_MOST = 10
# How gzip (RFC 1952), zstd (RFC 8878), xz and bzip2 begin: of what is very regular they leave what can be packed again.
_COMPRESSED = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh")


@dataclass(slots=True)
class Taken:
    """What one snapshotter gave: stored already, or cut (`content`) and without its list."""

    program: Program
    key: str
    size: int
    sha: bytes
    said: Said
    started: datetime
    finished: datetime
    stored: StoredObject | None
    content: Chunked | None

    def close(self) -> None:
        """Let go of what is on disk."""
        if self.content is not None:
            self.content.rows.close()


class Snapshots:
    """What the snapshotters of a run gave. Close it at the end."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._taken: list[Taken] = []

    def close(self) -> None:
        """Let go of what is on disk."""
        for taken in self._taken:
            taken.close()

    async def take_all(self, keeper: Keeper, programs: Sequence[Program]) -> None:
        """Run the snapshotters, `snapshots_at_once` of them; those that did not end well are problems of the run."""
        turns = asyncio.Semaphore(self._run.config.run.snapshots_at_once)

        async def in_turn(program: Program) -> None:
            async with turns:
                taken = await take(self._run, keeper, program)
                if taken is not None:
                    self._taken.append(taken)

        async with asyncio.TaskGroup() as group:
            for program in programs:
                group.create_task(in_turn(program))

    async def lost(self) -> list[Program]:
        """The snapshotters of whose data a part is stored nowhere any more, to be run again: nothing else has it."""
        lost = [taken for taken in self._taken if not await asyncio.to_thread(self._is_there, taken)]
        for taken in lost:
            self._taken.remove(taken)
            taken.close()
            self._run.tally.snapshots -= 1
            log.warning("snapshot.lost", program=shown(taken.program.name), reason="chunks that it shares are gone")
        return [taken.program for taken in lost]

    async def finish(self, keeper: Keeper) -> list[manifest.Snapshot]:
        """Store what is left to be stored of them; returns what the manifest says."""
        found = [await self._finished(keeper, taken) for taken in self._taken]
        return [snapshot for snapshot in found if snapshot is not None]

    def _is_there(self, taken: Taken) -> bool:
        if taken.content is None:
            return True
        for some in taken.content.rows.some():
            wanted = {sha for sha, _ in some}
            if len(self._run.contents.find(wanted, staying=True)) < len(wanted):
                return False
        return True

    async def _finished(self, keeper: Keeper, taken: Taken) -> manifest.Snapshot | None:
        stored, encoding = taken.stored, None
        if stored is None:
            assert taken.content is not None
            lock = self._run.terms.lasting(self._run.clock.now()).promise
            try:
                stored = await keeper.chunks.keep_under(taken.content, taken.key, lock, taken.said.metadata())
            except Unlistable as exc:
                self._run.tally.snapshots -= 1
                self._run.tally.problem(Problem("snapshotter.failed", taken.program.name, str(exc)))
                return None
            encoding = chunk_list.NAME
            _log_stored(taken, stored)
        description, restore = taken.said.understood()
        return manifest.Snapshot(
            name=shown(taken.program.name),
            key=stored.key,
            version=stored.version,
            encoding=encoding,
            size=taken.size,
            sha=taken.sha.hex(),
            description=description,
            restore=restore,
            started=taken.started,
            finished=taken.finished,
        )


async def take(run: RunContext, keeper: Keeper, program: Program) -> Taken | None:
    """
    Run one snapshotter; None, and a problem noted, where it failed: then no object and no manifest tells of it.

    The cache directory takes up to `snapshot_chunk_from` bytes of it, in an unnamed file.
    """
    started = run.clock.now()
    said = Said()
    key = keys.snapshot_key(run.terms.host, run.terms.run, program.name)
    async with (
        AsyncExitStack() as stack,
        running(program, idle_limit=run.config.run.snapshot_idle_limit, with_data=True) as snapshotter,
        asyncio.TaskGroup() as group,
    ):
        # Not opened through aiofiles: a cancellation while its thread opens the file would lose sight of it.
        with spooling(run.config.cache):
            raw = stack.enter_context(tempfile.TemporaryFile(dir=run.config.cache))  # noqa: SIM115  # just that
        file = wrap(raw)
        listening = group.create_task(said.listen(snapshotter))
        data = _counted(run, snapshotter.data())
        size, ended = await _spooled(run, data, file)
        chunker = None if ended else stack.enter_context(keeper.chunks.chunker(run.config.content.snapshot_chunk_size))
        if chunker is not None:
            _warn_of_compression(run, program, os.pread(raw.fileno(), _SAMPLE, 0))
            await _cut(chunker, file, data)
        await listening
        if (failure := await _failure(snapshotter, size)) is not None:
            run.tally.problem(Problem("snapshotter.failed", program.name, failure))
            return None
        if chunker is None:
            lock = run.terms.lasting(run.clock.now()).promise
            digest = await asyncio.to_thread(hashlib.file_digest, raw, "sha256")
            await file.seek(0)
            body = Pieces(iter(lambda: raw.read(AT_ONCE), b""))
            stored = await keeper.sender.send(key, lock, body, length=size, metadata=said.metadata())
            taken = Taken(program, key, size, digest.digest(), said, started, run.clock.now(), stored, None)
            run.tally.stored(stored, contents=0, plain=size)
            _log_stored(taken, stored)
        else:
            content = await chunker.end()
            taken = Taken(program, key, content.size, content.sha, said, started, run.clock.now(), None, content)
        run.tally.snapshots += 1
        return taken


async def _counted(run: RunContext, data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in data:
        run.tally.bytes_snapshots += len(piece)
        yield piece


async def _spooled(run: RunContext, data: AsyncIterator[bytes], file: AsyncBufferedReader) -> tuple[int, bool]:
    """Set down what the program writes, a little more than `snapshot_chunk_from`; how much, and whether that is all."""
    size, ended = 0, True
    with spooling(run.config.cache):
        async for piece in data:
            await file.write(piece)
            size += len(piece)
            if size > run.config.content.snapshot_chunk_from:
                ended = False
                break
        await file.seek(0)
    return size, ended


async def _cut(chunker: Chunker, begun: AsyncBufferedReader, data: AsyncIterator[bytes]) -> None:
    """Cut what was set down, and what is still to come."""
    while piece := await begun.read(AT_ONCE):
        await chunker.feed(_given(piece))
    await begun.truncate(0)
    waiting = bytearray()
    async for piece in data:
        waiting += piece
        while len(waiting) >= AT_ONCE:
            await chunker.feed(_given(waiting[:AT_ONCE]))
            del waiting[:AT_ONCE]
    await chunker.feed(_given(waiting))


def _warn_of_compression(run: RunContext, program: Program, begun: bytes) -> None:
    """Say so where what a program writes is compressed already, or encrypted: it shares nothing with last night's."""
    if not begun.startswith(_COMPRESSED) and gzipping.pays(len(begun), len(gzipping.compress(begun))):
        return
    name = shown(program.name)
    if len(run.tally.compressed) < _NAMED_AT_MOST:
        run.tally.compressed.append(name)
    log.warning(
        "snapshot.compressed",
        program=name,
        hint="write it uncompressed: what has not changed since the last run is then not stored again",
    )


def _given(piece: bytes | bytearray) -> Read:
    """Has it read: no more than there is room for."""

    def read(buffer: memoryview) -> int:
        buffer[: len(piece)] = piece
        return len(piece)

    return read


async def _failure(snapshotter: Running, size: int) -> str | None:
    """Why what a program wrote is not to be kept; None where it ended well."""
    failure = await snapshotter.result()
    if failure is None and not size:
        return (
            "it ended well but wrote no data to the file descriptor that its argument names"
            " (standard output is for the description)"
        )
    return failure


def _log_stored(taken: Taken, stored: StoredObject) -> None:
    log.info("snapshot.stored", program=shown(taken.program.name), bytes=taken.size, key=stored.key)
