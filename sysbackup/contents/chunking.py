"""
Chunking: a large content is cut as it is read, and what is new of it stored.

It is read once. Nobody knows its digest before its end, and nobody needs to: each
chunk is a content of its own. Which ones make it is set down, for its list.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from sysbackup.concurrency.waits import outlast
from sysbackup.contents.chunk_rows import ChunkRows
from sysbackup.contents.cutting import Cutter
from sysbackup.formats import gzipping
from sysbackup.store.port import Body

AT_ONCE = 4 << 20
"""Bytes that are read at a time: some milliseconds of hashing, in one go."""

Chunks = Sequence[tuple[bytes, bytes]]
"""Digests, and what they are of."""


class Chunked(NamedTuple):
    """A content that has been cut: its digest and size, its chunks, and the last pack that one was put into."""

    sha: bytes
    size: int
    rows: ChunkRows
    pack: int


class Chunker:
    """
    Takes one content: `feed` it until its end, then `end`. What was stored when it is left before serves later runs.

    `store` stores those chunks that are not stored yet, and returns the latest pack. Two pieces are in
    work at a time: one is read and cut in a thread of `pool`, the chunks of the one before are stored.
    """

    def __init__(
        self, directory: Path, average: int, store: Callable[[Chunks], Awaitable[int]], pool: Executor | None = None
    ) -> None:
        self._cutter = Cutter(average)
        self._store = store
        self._pool = pool
        self._hash = hashlib.sha256()
        self._rows = ChunkRows(directory)
        self._cut: list[bytes] = []
        self._pack = 0
        self._ended = False
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if not self._ended:
            self._rows.close()

    async def feed(self, read: Callable[[], Body]) -> int:
        """Take the next piece, by a call of `read` in a thread; returns how long it was, 0 at the end."""

        chunks, self._cut = self._cut, []
        taking = asyncio.get_running_loop().run_in_executor(self._pool, self._take, read)
        try:
            await self._stored(chunks)
        finally:
            # what is read may be closed as soon as we are done, also where the chunks could not be stored
            took = await outlast(taking)
        return took

    @property
    def digest(self) -> bytes:
        """SHA-256 of what has been read."""
        return self._hash.digest()

    async def end(self) -> Chunked:
        """All of it is stored, or on its way; the rows are the caller's from now on."""
        await self._stored([*self._cut, *self._cutter.end()])
        self._ended = True
        return Chunked(self.digest, self.size, self._rows, self._pack)

    def _take(self, read: Callable[[], Body]) -> int:
        piece = read()
        self._hash.update(piece)
        self.size += len(piece)
        self._cut += self._cutter.feed(piece)
        return len(piece)

    async def _stored(self, cut: list[bytes]) -> None:
        if cut:
            chunks = await asyncio.to_thread(lambda: [(hashlib.sha256(chunk).digest(), chunk) for chunk in cut])
            self._pack = await self._store(chunks)
            await asyncio.to_thread(self._rows.add_all, [(sha, len(chunk)) for sha, chunk in chunks])


def packed(chunks: Chunks) -> list[tuple[bytes, bytes, int]]:
    """Chunks as they stand in a pack."""
    return [(sha, gzipping.sampled_member(chunk), len(chunk)) for sha, chunk in chunks]
