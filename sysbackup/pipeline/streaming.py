"""
Streaming: files too large for memory, each as a content object of its own.

Read twice, see `files.large`. Where the second reading does not see what
the first one did, the upload is aborted and all begins again; after the last
try the file is stored as it came, under a key that does not claim to be its
hash.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import TypeVar

from sysbackup.concurrency.channel import Channel
from sysbackup.concurrency.waits import outlast
from sysbackup.contents.content_store import Seen
from sysbackup.contents.crossing import states_to_bytes
from sysbackup.contents.keeping import Keeper
from sysbackup.contents.shipping import Refused, Source
from sysbackup.files import reading
from sysbackup.files.folders import Folders, missing
from sysbackup.files.large import LargeFile
from sysbackup.files.nodes import node
from sysbackup.formats import keys, manifest
from sysbackup.formats.encodings import Encoding
from sysbackup.model import Location, Problem
from sysbackup.pipeline.entries import spooled
from sysbackup.pipeline.file_facts import describe_file, moves, settled, state_of, unreadable
from sysbackup.pipeline.run_context import RunContext
from sysbackup.store.port import Body

T = TypeVar("T")

# Large files stored at the same time: two keep both disk and network busy without holding parts of many.
_STREAMS = 2
# What one thread job hashes: between two of them a run can be cancelled.
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


class _Twice:
    """The second reading as a stream's source: approved if it saw what the first one did."""

    def __init__(self, file: LargeFile, pool: Executor, dealt_with: Callable[[int], None]) -> None:
        self._file = file
        self._pool = pool
        self._dealt_with = dealt_with

    async def ready(self, size: int) -> None:
        """Nothing to wait for."""

    async def take(self, size: int) -> Body:
        body = await outlast(asyncio.get_running_loop().run_in_executor(self._pool, self._file.take, size))
        self._dealt_with((self._file.size + self._file.position) // 2)
        return body

    async def approve(self) -> None:
        if not self._file.agrees:
            raise Refused


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
        async with AsyncExitStack() as stack:
            folders = stack.enter_context(Folders())
            place = folders.find(path)
            patience = reading.Patience(self._run.config.content.lock_timeout, self._run.stop)
            # registered before it is opened: a cancellation meanwhile must not lose descriptor and lock
            file = stack.enter_context(LargeFile())
            await self._in_thread(lambda: file.open(place, patience))
            self._run.tally.reading(path)
            look = next(self._run.looks)
            begun = time.time_ns()
            # Each of the two readings counts for half.
            dealt_with = stack.enter_context(self._run.tally.under_way())
            while await self._in_thread(lambda: file.hash_on(_SLICE)):
                dealt_with(file.position // 2)
            stored = file.size == 0 or await self._store_once(file, dealt_with)
            if not stored and not last:
                return False
            at = None if stored else await self._store_moving(path, file)
            shortfalls: list[Problem] = []
            entry = node(place, os.fstat(file.fd), self._run.owners, shortfalls, file.fd)
            for shortfall in shortfalls:
                self._run.tally.problem(shortfall)
            assert isinstance(entry, manifest.File)
            warnings = [] if file.locked else [reading.UNLOCKED]
            warnings += [] if file.steady and at is None else [reading.CHANGED]
            describe_file(entry, file.before, file.size, file.sha, warnings)
            if at is not None:
                entry.place(at)
            await self._in_thread(lambda: self._run.spool.add(spooled(path, entry, look)))
            if not warnings and at is None and settled(file.before, begun):
                seen = Seen([states_to_bytes([state_of(file.before, file.sha)])], [], [])
                await self._in_thread(lambda: self._run.contents.remember(seen))
            dealt_with(0)  # before: who looks on from another thread must not see it twice
            self._run.tally.files += 1
            self._run.tally.bytes_read += file.size
            self._run.tally.warned(path, warnings)
            return True

    async def _store_once(self, file: LargeFile, dealt_with: Callable[[int], None]) -> bool:
        """Store the content under its hash unless it is there; False where it changed under our hands."""

        async def begin() -> tuple[Encoding, Source]:
            encoding = await self._in_thread(file.encoding)
            file.begin_again(encoding)
            return encoding, _Twice(file, self._pool, dealt_with)

        return await self._keeper.keep_stream(file.sha, file.size, begin)

    async def _store_moving(self, path: bytes, file: LargeFile) -> Location:
        """Store the file as it comes, in one reading, under this run's own key for it."""
        moving = _Once(file, self._pool)
        terms = self._run.terms
        key = keys.moving_file_key(terms.host, terms.run, path)
        lock = terms.lasting(self._run.clock.now()).promise
        stored = await self._keeper.sender.send(key, lock, moving, length=None)
        file.sha, file.size = moving.sha, moving.size
        self._run.tally.stored(stored, plain=file.size)
        return Location(stored.key, stored.version)


class _Once:
    """One reading of whatever the file holds now, hashed on its way."""

    def __init__(self, file: LargeFile, pool: Executor) -> None:
        self._fd = file.fd
        self._pool = pool
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha(self) -> bytes:
        return self._hash.digest()

    async def ready(self, size: int) -> None:
        """Nothing to wait for."""

    async def take(self, size: int) -> Body:
        return await outlast(asyncio.get_running_loop().run_in_executor(self._pool, self._take, size))

    def _take(self, size: int) -> bytes:
        parts = []
        left = size
        while left and (got := os.pread(self._fd, min(left, 1 << 20), self.size)):
            parts.append(got)
            self._hash.update(got)
            self.size += len(got)
            left -= len(got)
        return b"".join(parts)

    async def approve(self) -> None:
        """Whatever came is kept."""
