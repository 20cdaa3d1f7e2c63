"""
Chunking: a large content is cut as it is read, and what is new of it stored.

It is read once. Nobody knows its digest before its end, and nobody needs to: each
chunk is a content of its own. Which ones make it is set down, for its list.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from sysbackup.concurrency.waits import outlast, settled
from sysbackup.contents.chunk_rows import ChunkRows
from sysbackup.contents.cutting import Cuts
from sysbackup.contents.stream_packs import Packed
from sysbackup.formats import gzipping

AT_ONCE = 4 << 20
"""Bytes that are read at a time: some milliseconds of hashing, in one go."""

Chunks = Sequence[tuple[bytes, memoryview]]
"""Digests, and what they are of: good until the next pieces have been stored."""

Read = Callable[[memoryview], int]
"""Fills the beginning of a buffer; returns how many bytes that is, 0 at the end."""


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
    work at a time, each in a buffer of its own: one is read and cut in a thread of `pool`, the chunks of the one before
    are stored from where they were read.
    """

    def __init__(
        self, directory: Path, average: int, store: Callable[[Chunks], Awaitable[int]], pool: Executor | None = None
    ) -> None:
        self._cuts = Cuts(average)
        self._store = store
        self._pool = pool
        self._hash = hashlib.sha256()
        self._rows = ChunkRows(directory)
        size = self._cuts.longest + AT_ONCE
        self._idle, self._buffer = memoryview(bytearray(size)), memoryview(bytearray(size))
        self._left = self._buffer[:0]  # of the piece before: it begins a chunk
        self._cut: list[memoryview] = []
        self._pack = 0
        self._ended = False
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if not self._ended:
            self._rows.close()

    async def feed(self, read: Read) -> int:
        """Take the next piece, by a call of `read` in a thread; returns how long it was, 0 at the end."""
        chunks, self._cut = self._cut, []
        taking = asyncio.get_running_loop().run_in_executor(self._pool, self._take, read)
        try:
            await self._stored(chunks)
        except BaseException:
            # what is read may be closed as soon as we are done; what became of the reading is of no interest any more
            await settled(taking)
            if not taking.cancelled():
                taking.exception()
            raise
        return await outlast(taking)

    @property
    def digest(self) -> bytes:
        """SHA-256 of what has been read."""
        return self._hash.digest()

    async def end(self) -> Chunked:
        """All of it is stored, or on its way; the rows are the caller's from now on."""
        await self._stored(self._cut)
        await self._stored(_between(self._left, self._cuts.ends(self._left, last=True)))
        self._ended = True
        return Chunked(self.digest, self.size, self._rows, self._pack)

    def _take(self, read: Read) -> int:
        # nobody stores anything from this buffer any more
        self._idle, self._buffer = self._buffer, self._idle
        left = len(self._left)
        self._buffer[:left] = self._left
        took = read(self._buffer[left : left + AT_ONCE])
        held = self._buffer[: left + took]
        self._hash.update(held[left:])
        self.size += took
        ends = self._cuts.ends(held, last=False)
        self._cut = _between(held, ends)
        self._left = held[ends[-1] if ends else 0 :]
        return took

    async def _stored(self, cut: list[memoryview]) -> None:
        if cut:
            chunks = await asyncio.to_thread(lambda: [(hashlib.sha256(chunk).digest(), chunk) for chunk in cut])
            self._pack = await self._store(chunks)
            if self._rows.add_all((sha, len(chunk)) for sha, chunk in chunks):
                await outlast(asyncio.to_thread(self._rows.set_down))


def _between(held: memoryview, ends: Sequence[int]) -> list[memoryview]:
    return [held[begin:end] for begin, end in pairwise((0, *ends))]


def packed(chunks: Chunks) -> list[Packed]:
    """Chunks as they stand in a pack."""
    return [Packed(sha, gzipping.member_pieces(chunk), len(chunk)) for sha, chunk in chunks]
