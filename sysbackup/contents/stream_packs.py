"""
Stream packs on their way: each is sent in parts while it fills.

Whoever has chunks adds them to the one that is open. It is closed when it is full, or
when somebody wants what is in it to be there.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from sysbackup.concurrency.channel import Channel
from sysbackup.formats import pack
from sysbackup.formats.stream_pack import StreamPackWriter
from sysbackup.model import Member
from sysbackup.store.port import Body

PART = 20 << 20
"""Bytes that are sent at a time: thirteen parts for 256 MiB, and three requests more for each pack."""

# Packs that are sent at the same time: one fills while the one before is joined and its lock read back.
_AT_ONCE = 2

# What a row of the list takes at the most where contents are chunks: digits of a hash hardly compress.
_LISTED = 112


class Packed(NamedTuple):
    """A chunk's digest, the pieces of its gzip member, its size."""

    sha: bytes
    pieces: Sequence[bytes | memoryview]
    size: int

    @property
    def length(self) -> int:
        """That of the member."""
        return sum(map(len, self.pieces))


class _Memory:
    """Memory for parts, used again when nobody looks at it any more: fresh memory costs as much as copying into it."""

    def __init__(self) -> None:
        self._parts: list[bytearray] = []

    def part(self) -> memoryview:
        """Memory for one; nobody need say when it is free."""
        free, used = list[bytearray](), list[bytearray]()
        for part in self._parts:
            (free if _is_free(part) else used).append(part)
        part = free.pop() if free else bytearray(PART)
        self._parts = [*used, part, *free[:1]]  # the others are given back
        return memoryview(part)


def _is_free(part: bytearray) -> bool:
    """Whether nobody looks at it: as long as somebody does it may not be resized (BufferError)."""
    try:
        part.append(0)
    except BufferError:
        return False
    del part[PART:]
    return True


class Filling:
    """A pack that is being filled: what is put in comes out in parts, as a stream's source."""

    def __init__(self, number: int, memory: _Memory) -> None:
        self.number = number
        self._memory = memory
        self._writer = StreamPackWriter()
        self._parts: deque[memoryview] = deque()  # what is full
        self._part, self._end = memoryview(b""), 0  # what fills, and how far it has
        self._held = 0
        self._wanted = PART
        self._ended = False
        self._change = asyncio.Condition()

    @property
    def contents(self) -> Sequence[Member]:
        """What is in it so far."""
        return self._writer.contents

    def has_room(self, length: int, size: int) -> bool:
        """Whether a pack of `size` bytes takes a member of that length, and the list; an empty one takes any."""
        number = len(self._writer.contents)
        return not number or (
            number < pack.CONTENTS_AT_MOST and len(self._writer) + length + _LISTED * (number + 1) <= size
        )

    async def put(self, packed: Packed) -> None:
        """The next chunk, of which a copy is made; waits while a part is waiting to be fetched."""
        await self._append(packed.pieces)
        self._writer.add(packed.sha, packed.length, packed.size)

    async def end(self) -> None:
        """There are no more; the list follows."""
        last = await asyncio.to_thread(self._writer.end)
        await self._append([last])
        async with self._change:
            self._ended = True
            self._change.notify_all()

    async def ready(self, size: int) -> None:
        """See `shipping.Source`."""
        async with self._change:
            self._wanted = size
            self._change.notify_all()
            await self._change.wait_for(lambda: self._ended or self._held >= size)

    async def take(self, size: int) -> Body:
        """See `shipping.Source`."""
        if (
            self._parts and len(self._parts[0]) == size
        ):  # as it is but for the last, unless the store takes no such parts
            body = self._parts.popleft()
        else:
            whole = memoryview(b"".join([*self._parts, self._part[: self._end]]))
            body, rest = whole[:size], whole[size:]
            self._parts = deque([rest] * bool(rest))
            self._part, self._end = memoryview(b""), 0
        async with self._change:
            self._held -= len(body)
            self._change.notify_all()
        return body

    async def _append(self, pieces: Sequence[bytes | memoryview]) -> None:
        async with self._change:
            await self._change.wait_for(lambda: self._held < self._wanted)
            for piece in pieces:
                self._copy(memoryview(piece))
                self._held += len(piece)
            self._change.notify_all()

    def _copy(self, piece: memoryview) -> None:
        while piece:
            if self._end == len(self._part):
                if self._end:
                    self._parts.append(self._part)
                self._part, self._end = self._memory.part(), 0
            room = min(len(self._part) - self._end, len(piece))
            self._part[self._end : self._end + room] = piece[:room]
            self._end += room
            piece = piece[room:]


class StreamPacks:
    """
    The stream packs of one pool of uploaders, of up to `size` bytes each.

    `send` stores one; tasks of `group` see to that until this is closed.
    """

    def __init__(self, group: asyncio.TaskGroup, send: Callable[[Filling], Awaitable[None]], size: int) -> None:
        self._send = send
        self._size = size
        self._memory = _Memory()
        self._fillings: Channel[Filling] = Channel(1)
        for _ in range(_AT_ONCE):
            group.create_task(self._send_all())
        self._open: Filling | None = None
        self._turn = asyncio.Lock()
        self._begun = 0
        self._under_way: set[int] = set()
        self._change = asyncio.Condition()

    async def add(self, packed: Sequence[Packed]) -> None:
        """Chunks of one content: nobody else's come between them."""
        async with self._turn:
            for each in packed:
                if self._open is not None and not self._open.has_room(each.length, self._size):
                    await self._close()
                await (self._open or await self._begin()).put(each)

    @property
    def latest(self) -> int:
        """The number of the pack that was begun last: what was added before lies in it, or in an earlier one."""
        return self._begun

    def stored(self, number: int) -> bool:
        """Whether that pack is stored, and all before it."""
        return number < min(self._under_way, default=self._begun + 1)

    async def flush(self) -> None:
        """Wait until all that was added is stored; a new pack is begun with what comes next."""
        async with self._turn:
            await self._close()
            number = self._begun
        async with self._change:
            await self._change.wait_for(lambda: self.stored(number))

    async def close(self) -> None:
        """Nothing more will be added, and all is stored."""
        await self._fillings.close()

    async def _begin(self) -> Filling:
        self._begun += 1
        self._under_way.add(self._begun)
        filling = self._open = Filling(self._begun, self._memory)
        await self._fillings.send(filling)
        return filling

    async def _close(self) -> None:
        filling, self._open = self._open, None
        if filling is not None:
            await filling.end()

    async def _send_all(self) -> None:
        async for filling in self._fillings:
            await self._send(filling)
            async with self._change:
                self._under_way.discard(filling.number)
                self._change.notify_all()
