"""
Shipping: the pool of uploaders, and streams of parts through it.

Whatever goes to the store waits in one channel: whole objects and parts of
multipart uploads alike, so that at most `uploads` requests with bodies are
under way, and what waits is bounded by the budget that its bytes were taken
from.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.channel import Channel
from sysbackup.model import Lock, StoredObject
from sysbackup.store.port import NO_METADATA, Body, Limits, ObjectStore, Upload

MIB = 1 << 20

PART = 16 * MIB
# Parts of a stream whose length nobody knows: the first 64 are small, then each is larger by this much, so that
# S3's 10,000 cover 6 TiB (its limit was 5 TiB for long, and is 48.8 TiB for lengths known in advance).
_GROWTH = 128 << 10
_EVEN = 64


def part_bytes(number: int, length: int | None, limits: Limits, least: int | None = None) -> int:
    """
    How large part `number` (from 1) of an object of `length` bytes is to be, `least` at the least but for the last.

    `length` None: not known. Every length that is known is covered by as many parts as
    `limits` allow.
    """
    least = max(least or PART, limits.least_part)
    if length is None:
        return least + max(0, number - _EVEN) * _GROWTH
    needed = -(-length // limits.most_parts)
    return max(least, -(-needed // MIB) * MIB)


class Held(Protocol):
    """What a body takes for as long as it is on its way."""

    def release(self) -> None:
        """The body is where it was to go."""
        ...


class Freight(Protocol):
    """What an uploader carries."""

    async def ship(self, store: ObjectStore) -> None:
        """Bring it to the store and tell whoever waits."""
        ...


@dataclass(slots=True)
class Shipment:
    """
    One whole object. Once the store has confirmed it, `confirmed` is awaited and then `hold` released.

    `once`: its key names its content, so what is there already may serve.
    `sha256`: the body's digest where it is known already.
    """

    key: str
    body: Body
    lock: Lock
    hold: Held
    confirmed: Callable[[StoredObject], Awaitable[None]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    once: bool = True
    sha256: bytes | None = None

    async def ship(self, store: ObjectStore) -> None:
        stored = await store.put(
            self.key, self.body, self.lock, metadata=self.metadata, once=self.once, sha256=self.sha256
        )
        await self.confirmed(stored)
        self.body = b""
        self.hold.release()


@dataclass(slots=True)
class Part:
    """One part of a multipart upload; `sent` is told how it went, so that whoever made the part knows."""

    upload: Upload
    number: int
    body: Body
    hold: Hold
    sent: asyncio.Future[None]

    async def ship(self, _: ObjectStore) -> None:
        try:
            await self.upload.part(self.number, self.body)
        except Exception as exc:  # noqa: BLE001  # raised again where the part's maker asks for it
            if not self.sent.done():
                self.sent.set_exception(exc)
            return
        finally:
            self.body = b""
            self.hold.release()
        if not self.sent.done():
            self.sent.set_result(None)


class Parts:
    """
    Sends one upload's parts through the channel and waits for all of them.

    A part that fails makes the next `send`, or `finish`, fail with its error.
    """

    def __init__(self, upload: Upload, freight: "Channel[Freight]") -> None:
        self._upload = upload
        self._freight = freight
        self._under_way: set[asyncio.Future[None]] = set()
        self.number = 1

    async def send(self, body: Body, hold: Hold) -> None:
        """Hand on the next part; it is on its way when this returns, not yet there."""
        for sent in [s for s in self._under_way if s.done()]:
            self._under_way.discard(sent)
            sent.result()
        sent = asyncio.get_running_loop().create_future()
        # Nobody may be left to ask for the error of a part once another part's has ended the upload.
        sent.add_done_callback(lambda s: s.cancelled() or s.exception())
        self._under_way.add(sent)
        await self._freight.send(Part(self._upload, self.number, body, hold, sent))
        self.number += 1

    async def finish(self) -> StoredObject:
        """Wait for every part, then join them."""
        for sent in self._under_way:
            await sent
        return await self._upload.finish()


async def upload_freight(freight: "Channel[Freight]", store: ObjectStore) -> None:
    """One uploader: carries what the channel has until it is closed and empty."""
    async for load in freight:
        await load.ship(store)
        del load  # while this uploader waits for its next load, the last one's bytes must be free


class Source(Protocol):
    """Where a stream's bytes come from."""

    async def ready(self, size: int) -> None:
        """Wait until the next `size` bytes, or the end, are at hand: before memory is taken for them."""
        ...

    async def take(self, size: int) -> Body:
        """The next `size` bytes; fewer only at the end, none after it."""
        ...


class Pieces:
    """Bytes that are made piece by piece, of any size, as a stream's source; they are made in a thread."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._carry = bytearray()

    async def ready(self, size: int) -> None:
        """Nothing to wait for."""

    async def take(self, size: int) -> Body:
        """See `Source`."""
        return await asyncio.to_thread(self._take, size)

    def _take(self, size: int) -> bytearray:
        out = self._carry
        while len(out) < size and (piece := next(self._pieces, None)) is not None:
            out += piece
        self._carry = out[size:]
        del out[size:]
        return out


class Arriving:
    """Bytes that come piece by piece, of any size, as a stream's source."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._carry = bytearray()

    async def ready(self, size: int) -> None:
        """Nothing to wait for."""

    async def take(self, size: int) -> Body:
        """See `Source`."""
        out = self._carry
        while len(out) < size and (piece := await anext(self._pieces, None)) is not None:
            out += piece
        self._carry = out[size:]
        del out[size:]
        return out


class Sender:
    """Sends streams: short ones as one object, others in parts, all through the pool of uploaders."""

    def __init__(self, store: ObjectStore, freight: "Channel[Freight]", budget: Budget) -> None:
        self._store = store
        self.freight = freight
        self._budget = budget

    async def send(
        self,
        key: str,
        lock: Lock,
        source: Source,
        *,
        length: int | None,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        part: int | None = None,
    ) -> StoredObject:
        """
        Store what `source` gives under `key`; `length` (bytes, at most) where it is known, in parts of `part` at least.
        """
        first, hold = await self._take(source, 1, length, part)
        try:
            if len(first) < part_bytes(1, length, self._store.limits, part):
                return await self._put(key, first, lock, hold, metadata, once=once)
            async with self._store.upload(key, lock, metadata=metadata, once=once) as upload:
                parts = Parts(upload, self.freight)
                body, first = first, b""
                while body:
                    await parts.send(body, hold)
                    body = b""  # its bytes are the part's alone, to be let go of when that has been sent
                    body, hold = await self._take(source, parts.number, length, part)
                hold.release()
                return await parts.finish()
        except BaseException:
            hold.release()
            raise

    async def _take(self, source: Source, number: int, length: int | None, part: int | None) -> tuple[Body, Hold]:
        size = part_bytes(number, length, self._store.limits, part)
        await source.ready(size)
        hold = await self._budget.take(size)
        try:
            body = await source.take(size)
        except BaseException:
            hold.release()
            raise
        hold.shrink(len(body))
        return body, hold

    async def _put(
        self, key: str, body: Body, lock: Lock, hold: Hold, metadata: Mapping[str, str], *, once: bool
    ) -> StoredObject:
        stored: asyncio.Future[StoredObject] = asyncio.get_running_loop().create_future()

        async def confirmed(there: StoredObject) -> None:
            if not stored.done():
                stored.set_result(there)

        await self.freight.send(Shipment(key, body, lock, hold, confirmed, metadata, once))
        return await stored
