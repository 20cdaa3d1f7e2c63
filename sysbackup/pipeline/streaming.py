"""
Streaming: files too large for memory, cut into chunks as they are read.

Each is read once, see `files.large`. What changed meanwhile, and did not merely grow,
is read again; after the last try what was read is kept, with a warning. What was
stored of it on the way is there for the next try, or the next run.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import TypeVar

from sysbackup.concurrency.channel import Channel
from sysbackup.concurrency.waits import outlast
from sysbackup.contents.content_store import Seen
from sysbackup.contents.crossing import states_to_bytes
from sysbackup.contents.keeping import Keeper
from sysbackup.files import reading
from sysbackup.files.folders import Folders, missing
from sysbackup.files.large import LargeFile
from sysbackup.files.nodes import node
from sysbackup.formats import manifest
from sysbackup.model import Problem
from sysbackup.pipeline.entries import spooled
from sysbackup.pipeline.file_facts import describe_file, moves, settled, state_of, unreadable
from sysbackup.pipeline.run_context import RunContext

T = TypeVar("T")

# Large files stored at the same time: two keep both disk and network busy without holding parts of many.
_STREAMS = 2
# What one thread job hashes again: between two of them a run can be cancelled.
_SLICE = 64 << 20


async def stream_all(run: RunContext, keeper: Keeper, pool: Executor, large: Channel[bytes]) -> None:
    """Store the files at these paths, and put their entries into the spool."""
    streamer = _Streamer(run, keeper, pool)

    async def stream() -> None:
        async for path in large:
            await streamer.store(path)

    async with asyncio.TaskGroup() as group:
        for _ in range(_STREAMS):
            group.create_task(stream())


class _Streamer:
    """Stores large files one call at a time; calls may overlap."""

    def __init__(self, run: RunContext, keeper: Keeper, pool: Executor) -> None:
        self._run = run
        self._keeper = keeper
        self._pool = pool

    async def store(self, path: bytes) -> None:
        """Store one file's content and put its entry into the spool, or note why not."""
        for attempt in range(1, reading.TRIES + 1):
            last = attempt == reading.TRIES
            try:
                if await self._try(path, last=last):
                    return
            except (OSError, reading.Replaced) as exc:
                if moves(exc) and await self._in_thread(lambda: missing(path)):
                    self._run.tally.vanished(path)
                    return
                if last or not moves(exc):
                    self._run.tally.problem(unreadable(path, exc))
                    return

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await outlast(asyncio.get_running_loop().run_in_executor(self._pool, work), told=self._run.stop.set)

    async def _try(self, path: bytes, *, last: bool) -> bool:
        """Read and store it once; False where it is to be read again."""
        with ExitStack() as stack:
            folders = stack.enter_context(Folders())
            place = folders.find(path)
            patience = reading.Patience(self._run.config.content.lock_timeout, self._run.stop)
            # registered before it is opened: a cancellation meanwhile must not lose descriptor and lock
            file = stack.enter_context(LargeFile())
            await self._in_thread(lambda: file.open(place, patience))
            self._run.tally.reading(path)
            look = next(self._run.looks)
            begun = time.time_ns()
            dealt_with = stack.enter_context(self._run.tally.under_way())
            chunker = stack.enter_context(self._keeper.chunks.chunker(self._run.config.content.chunk_size, self._pool))
            while await chunker.feed(file.read):
                dealt_with(chunker.size)
            steady = file.steady
            if not steady and not last and not await self._grew(file, chunker.digest):
                return False
            shortfalls: list[Problem] = []
            entry = node(place, os.fstat(file.fd), self._run.owners, shortfalls, file.fd)
            for shortfall in shortfalls:
                self._run.tally.problem(shortfall)
            assert isinstance(entry, manifest.File)
            warnings = [] if file.locked else [reading.UNLOCKED]
            warnings += [] if steady else [reading.CHANGED]
            content = await chunker.end()
            await self._keeper.chunks.keep(content)
            describe_file(entry, file.before, content.size, content.sha, warnings)
            await self._in_thread(lambda: self._run.spool.add(spooled(path, entry, look)))
            if not warnings and settled(file.before, begun):
                seen = Seen([states_to_bytes([state_of(file.before, content.sha)])], [], [])
                await self._in_thread(lambda: self._run.contents.remember(seen))
            dealt_with(0)  # before: who looks on from another thread must not see it twice
            self._run.tally.files += 1
            self._run.tally.bytes_read += content.size
            self._run.tally.warned(path, warnings)
            return True

    async def _grew(self, file: LargeFile, digest: bytes) -> bool:
        """Whether what was read is still what the file begins with."""
        while await self._in_thread(lambda: file.read_again(_SLICE)):
            pass
        return file.agrees(digest)
