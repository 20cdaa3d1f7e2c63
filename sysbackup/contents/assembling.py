"""
Assembling: contents that were cut, put together again from their chunks.

The list comes first, some of it at a time; ranges of objects in which chunks lie one
behind the other are read several at a time, and given out in the order of the content.
Each chunk is proven by its digest before any byte of it goes on. Neither the size of
the content nor the length of its list costs memory, and no connection is held while
another one is waited for.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice

from sysbackup.concurrency.task_groups import tasks
from sysbackup.contents.at_hand import AtHand
from sysbackup.contents.reading_back import encoding_at, read_back
from sysbackup.errors import FormatError, StoreError
from sysbackup.formats import encodings
from sysbackup.formats.chunk_list import Chunk, ChunkListReader, longest
from sysbackup.model import Location
from sysbackup.store.port import ObjectStore

_RANGE = 4 << 20  # bytes that one request brings
_SPARE = 64 << 10  # so much more than what is wanted, and as much again, may be read with it: cheaper than a request
_CHUNKS = 512  # in one range: a hole is one chunk, again and again; and lines of a list that are understood at a time
_AHEAD = 4  # ranges that are read while the one before them is put together; of a list's own chunks, one


@dataclass(slots=True)
class _Range:
    """Chunks that one request brings, in the order of the content. `end` None: the object as a whole."""

    at: Location
    start: int
    end: int | None
    wanted: int
    chunks: list[Chunk] = field(default_factory=list)
    here: int | None = None  # the first of them lies there in the file at hand, the others behind it

    def takes(self, chunk: Chunk) -> bool:
        """Whether it brings this one too, by growing a little."""
        if self.here is not None:
            return False
        span = chunk.at.span
        if (chunk.at.key, chunk.at.version) != (self.at.key, self.at.version) or len(self.chunks) >= _CHUNKS:
            return False
        if span is None or self.end is None:
            return span is None and self.end is None and chunk[:2] == self.chunks[0][:2]
        if self.start <= span.offset and span.end <= self.end:
            return True
        begin, end, wanted = min(self.start, span.offset), max(self.end, span.end), self.wanted + span.length
        if end - begin > min(_RANGE, 2 * wanted + _SPARE):
            return False
        self.start, self.end, self.wanted = begin, end, wanted
        return True


async def assembled(
    store: ObjectStore, at: Location, size: int, at_hand: AtHand | None = None
) -> AsyncGenerator[bytes, None]:
    """
    The content of `size` bytes of which a list of chunks lies there, chunk by chunk.

    What is `at_hand` is not fetched.

    `FormatError` where the list or a chunk is damaged, or the list is of another size;
    whatever the store raises (`ObjectGone`) where one is not to be had. The digest of
    the whole is for the caller to compare.
    """
    async with (
        aclosing(_read(store, at)) as packed,
        aclosing(_understood(store, packed, size, None)) as chunks,
        aclosing(_joined(store, chunks, _AHEAD, at_hand)) as contents,
    ):
        async for content in contents:
            yield content


async def _read(store: ObjectStore, at: Location) -> AsyncGenerator[bytearray, None]:
    """An object, in requests one after the other: none goes on while what came is dealt with."""
    begin = 0
    while True:
        data = await _bytes_of(store, at, begin, _RANGE)
        if data:
            yield data
        if len(data) < _RANGE:
            return
        begin += len(data)


async def _understood(
    store: ObjectStore, packed: AsyncIterator[bytes | bytearray], size: int, levels: int | None
) -> AsyncGenerator[list[Chunk], None]:
    """The chunks of a list, or of the list that its chunks make, some at a time; `levels` where these are known."""
    reader = ChunkListReader()
    async with aclosing(_fed(reader, packed)) as listed:
        first = await anext(listed, list[Chunk]())
        if levels not in (None, reader.levels):
            raise FormatError("a list of chunks is not of what it is said to be of")
        if reader.levels == 1:
            if reader.promised != size:
                raise FormatError(f"a list of chunks is of {reader.promised} bytes, and not of {size}")
            yield first
            async for some in listed:
                yield some
            return
        if reader.promised > longest(size, reader.levels - 1):
            raise FormatError("a list of chunks is longer than that of any such content")
        async with (
            aclosing(_with(first, listed)) as chunks,
            aclosing(_joined(store, chunks, 1)) as inner,
            aclosing(_understood(store, inner, size, reader.levels - 1)) as deeper,
        ):
            async for some in deeper:
                yield some


async def _fed(reader: ChunkListReader, packed: AsyncIterator[bytes | bytearray]) -> AsyncGenerator[list[Chunk], None]:
    """What the reader makes of it; nothing before its first line is known."""
    async for piece in packed:
        chunks = reader.feed(piece)
        while some := await asyncio.to_thread(lambda of: list(islice(of, _CHUNKS)), chunks):
            yield some
        if reader.complete:
            break
    reader.finish()


async def _with(first: list[Chunk], rest: AsyncIterator[list[Chunk]]) -> AsyncGenerator[list[Chunk], None]:
    yield first
    async for some in rest:
        yield some


async def _joined(
    store: ObjectStore, chunks: AsyncIterator[list[Chunk]], ahead: int, at_hand: AtHand | None = None
) -> AsyncGenerator[bytes, None]:
    """What the chunks make, one at a time."""
    waiting: deque[tuple[_Range, asyncio.Task[bytearray | bytes | Exception]]] = deque()
    async with tasks() as group, aclosing(_ranges(chunks, at_hand)) as ranges:
        try:
            async for some in ranges:
                waiting.append((some, group.create_task(_brought(store, some, at_hand))))
                if len(waiting) > ahead:
                    async with aclosing(_proven(store, *waiting.popleft())) as contents:
                        async for content in contents:
                            yield content
            while waiting:
                async with aclosing(_proven(store, *waiting.popleft())) as contents:
                    async for content in contents:
                        yield content
        finally:
            for _, reading in waiting:  # nobody wants the rest, even where all ends well
                reading.cancel()


async def _ranges(chunks: AsyncIterator[list[Chunk]], at_hand: AtHand | None) -> AsyncGenerator[_Range, None]:
    some: _Range | None = None
    async for listed in chunks:
        places = [None] * len(listed) if at_hand is None else await asyncio.to_thread(at_hand.find, listed)
        for chunk, here in zip(listed, places, strict=True):
            if some is None or here is not None or not some.takes(chunk):
                if some is not None:
                    yield some
                some = _begun(chunk, here)
            some.chunks.append(chunk)
    if some is not None:
        yield some


def _begun(chunk: Chunk, here: int | None = None) -> _Range:
    """A range that is to have this chunk first."""
    span = chunk.at.span
    if span is None:
        return _Range(chunk.at, 0, None, 0, here=here)
    return _Range(chunk.at, span.offset, span.end, span.length, here=here)


async def _bytes_of(store: ObjectStore, at: Location, begin: int, length: int) -> bytearray:
    """That range of an object, or what there is of it."""
    data = bytearray()
    async with aclosing(store.read(at.key, at.version, begin, length)) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > length:
                raise FormatError(f"more came of the object {at.key} than was asked for")
    return data


async def _range(store: ObjectStore, some: _Range) -> bytearray:
    # one byte more than there can be: a longer object is another one
    most = encodings.largest(some.chunks[0].size) + 1 if some.end is None else some.end - some.start
    return await _bytes_of(store, some.at, some.start, most)


async def _brought(store: ObjectStore, some: _Range, at_hand: AtHand | None) -> bytearray | bytes | Exception:
    """
    The same, or why not: the error is to be raised when it is its turn, and to disturb nobody before.

    Of what is at hand: the chunk itself. What is not there any more is fetched.
    """
    try:
        if at_hand is not None and some.here is not None:
            (chunk,) = some.chunks
            if (content := await asyncio.to_thread(at_hand.read, chunk, some.here)) is not None:
                return content
            some.here = None
        return await _range(store, some)
    except (StoreError, FormatError) as exc:
        return exc


async def _proven(
    store: ObjectStore, some: _Range, reading: "asyncio.Task[bytearray | bytes | Exception]"
) -> AsyncGenerator[bytes, None]:
    """The contents of the chunks. What does not fit is read once more: it may have been the way."""
    data = await reading
    if isinstance(data, Exception):
        raise data
    if some.here is not None:
        yield bytes(data)
        return
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
            contents = _Contents(some, await _range(store, some))
            continue
        yield content
        number += 1


class _Contents:
    """The contents in the bytes of a range; one that comes again is unpacked once."""

    def __init__(self, some: _Range, data: bytearray | bytes) -> None:
        self._range = some
        self._data = memoryview(data)
        self._last: tuple[bytes, bytes] | None = None

    def of(self, number: int) -> bytes:
        """That of a chunk. `FormatError` where it is not what it should be."""
        chunk = self._range.chunks[number]
        if self._last is None or (self._last[0], len(self._last[1])) != chunk[:2]:
            span = chunk.at.span
            begin = 0 if span is None else span.offset - self._range.start
            encoded = self._data[begin:] if span is None else self._data[begin : begin + span.length]
            self._last = None
            content = read_back(encoded, chunk.sha, chunk.size, encoding_at(chunk.at), alone=span is None)
            self._last = chunk.sha, content
        return self._last[1]
