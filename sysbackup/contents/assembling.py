"""
Assembling: contents that were cut, put together again from their chunks.

The list comes first, piece by piece; ranges of objects in which chunks lie one
behind the other are read several at a time, and given out in the order of the content.
Each chunk is proven by its digest before any byte of it goes on. Neither the size of
the content nor the length of its list costs memory.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from sysbackup.concurrency.task_groups import tasks
from sysbackup.contents.reading_back import encoding_at, read_back
from sysbackup.errors import FormatError
from sysbackup.formats import encodings
from sysbackup.formats.chunk_list import LEVELS_AT_MOST, Chunk, ChunkListReader
from sysbackup.model import Location
from sysbackup.store.port import ObjectStore

_RANGE = 4 << 20  # bytes that one request brings, unless one chunk takes more
_GAP = 256 << 10  # what lies between two chunks is read too, if it is no more than this
_CHUNKS = 512  # in one range: a hole is one chunk, again and again
_AHEAD = 6  # ranges that are read while the one before them is put together

MEMORY = (_AHEAD + 2) * _RANGE
"""About as much as one content takes while it is put together, in bytes, if its chunks are of the usual sizes."""


@dataclass(slots=True)
class _Range:
    """Chunks that one request brings, in the order of the content. `end` None: the object as a whole."""

    at: Location
    start: int
    end: int | None
    chunks: list[Chunk] = field(default_factory=list)

    def takes(self, chunk: Chunk) -> bool:
        """Whether it brings this one too, by growing a little."""
        span = chunk.at.span
        if (chunk.at.key, chunk.at.version) != (self.at.key, self.at.version) or len(self.chunks) >= _CHUNKS:
            return False
        if span is None or self.end is None:
            return span is None and self.end is None and chunk.sha == self.chunks[0].sha
        begin, end = min(self.start, span.offset), max(self.end, span.end)
        if end - begin > _RANGE or end - begin - (self.end - self.start) > span.length + _GAP:
            return False
        self.start, self.end = begin, end
        return True


async def assembled(store: ObjectStore, at: Location) -> AsyncGenerator[bytes, None]:
    """
    The content of which a list of chunks lies there, chunk by chunk.

    `FormatError` where the list or a chunk is damaged; whatever the store raises
    (`ObjectGone`) where one is not to be had. The digest of the whole is for the caller to compare.
    """
    async with (
        aclosing(_read(store, at)) as packed,
        aclosing(_taken_apart(store, packed, None)) as chunks,
        aclosing(_joined(store, chunks)) as contents,
    ):
        async for content in contents:
            yield content


async def _read(store: ObjectStore, at: Location) -> AsyncGenerator[bytes, None]:
    begin, length = at.span or (0, None)
    async with aclosing(store.read(at.key, at.version, begin, length)) as pieces:
        async for piece in pieces:
            yield piece


async def _taken_apart(
    store: ObjectStore, packed: AsyncIterator[bytes], levels: int | None
) -> AsyncGenerator[Chunk, None]:
    """The chunks of a list, or of the list that its chunks make; it must have so many `levels` where that is known."""
    reader = ChunkListReader()
    listed = _fed(reader, packed)
    async with aclosing(listed):
        first = await anext(listed, None)
        if not 1 <= reader.levels <= LEVELS_AT_MOST or levels not in (None, reader.levels):
            raise FormatError("a list of chunks is not of what it is said to be of")
        chunks = _with(first, listed)
        if reader.levels == 1:
            async for chunk in chunks:
                yield chunk
            return
        inner = _joined(store, chunks)
        async with aclosing(inner), aclosing(_taken_apart(store, inner, reader.levels - 1)) as deeper:
            async for chunk in deeper:
                yield chunk


async def _fed(reader: ChunkListReader, packed: AsyncIterator[bytes]) -> AsyncGenerator[Chunk, None]:
    async for piece in packed:
        for chunk in reader.feed(piece):
            yield chunk
    reader.finish()


async def _with(first: Chunk | None, rest: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    if first is not None:
        yield first
    async for chunk in rest:
        yield chunk


async def _joined(store: ObjectStore, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[bytes, None]:
    """What the chunks make, one at a time."""
    waiting: deque[tuple[_Range, asyncio.Task[bytes | Exception]]] = deque()
    async with tasks() as group:
        try:
            async for some in _ranges(chunks):
                waiting.append((some, group.create_task(_brought(store, some))))
                if len(waiting) > _AHEAD:
                    async for content in _proven(store, *waiting.popleft()):
                        yield content
            while waiting:
                async for content in _proven(store, *waiting.popleft()):
                    yield content
        finally:
            for _, reading in waiting:  # nobody wants the rest
                reading.cancel()


async def _ranges(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[_Range, None]:
    some: _Range | None = None
    async for chunk in chunks:
        if some is None or not some.takes(chunk):
            if some is not None:
                yield some
            span = chunk.at.span
            some = _Range(chunk.at, span.offset, span.end) if span else _Range(chunk.at, 0, None)
        some.chunks.append(chunk)
    if some is not None:
        yield some


async def _bytes_of(store: ObjectStore, some: _Range) -> bytes:
    """What the range of the object holds."""
    most = encodings.largest(some.chunks[0].size) if some.end is None else some.end - some.start
    data = bytearray()
    length = None if some.end is None else most
    async with aclosing(store.read(some.at.key, some.at.version, some.start, length)) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > most:
                raise FormatError(f"the object {some.at.key} is larger than what was stored there")
    return bytes(data)


async def _brought(store: ObjectStore, some: _Range) -> bytes | Exception:
    """The same, or why not: the error is to be raised when it is its turn, and to disturb nobody before."""
    try:
        return await _bytes_of(store, some)
    except Exception as exc:  # noqa: BLE001  # raised again by `_proven`
        return exc


async def _proven(
    store: ObjectStore, some: _Range, reading: "asyncio.Task[bytes | Exception]"
) -> AsyncGenerator[bytes, None]:
    """The contents of the chunks. What does not fit is read once more: it may have been the way."""
    data = await reading
    if isinstance(data, Exception):
        raise data
    contents = _Contents(some, data)
    number = 0
    again = False
    while number < len(some.chunks):
        try:
            content = await asyncio.to_thread(contents.of, number)
        except FormatError as exc:
            if again:
                chunk = some.chunks[number]
                raise FormatError(
                    f"the chunk {chunk.sha.hex()} is damaged: {exc} (object {some.at.key}, version {some.at.version})"
                ) from exc
            again = True
            contents = _Contents(some, await _bytes_of(store, some))
            continue
        yield content
        number += 1


class _Contents:
    """The contents in the bytes of a range; one that comes again is unpacked once."""

    def __init__(self, some: _Range, data: bytes) -> None:
        self._range = some
        self._data = memoryview(data)
        self._last: tuple[bytes, bytes] | None = None

    def of(self, number: int) -> bytes:
        """That of a chunk. `FormatError` where it is not what it should be."""
        chunk = self._range.chunks[number]
        if self._last is None or self._last[0] != chunk.sha or len(self._last[1]) != chunk.size:
            span = chunk.at.span
            begin = 0 if span is None else span.offset - self._range.start
            encoded = self._data[begin:] if span is None else self._data[begin : begin + span.length]
            content = read_back(encoded, chunk.sha, chunk.size, encoding_at(chunk.at), alone=span is None)
            self._last = chunk.sha, content
        return self._last[1]
