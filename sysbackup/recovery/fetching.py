"""
Contents on their way from the bucket to the disk: several objects at once, within a bound of memory.

What a read brings arrives whole and is taken apart by a helper, one job for all of
a read; what is too large for that streams.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing

from msgspec.structs import replace

from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.task_groups import tasks
from sysbackup.concurrency.threads import Threads
from sysbackup.contents.assembling import assembled
from sysbackup.contents.at_hand import AtHand
from sysbackup.errors import AccessDenied, FormatError, StoreError, StoreUnavailable
from sysbackup.model import Location
from sysbackup.recovery.fetches import Fetch
from sysbackup.recovery.landing import Room
from sysbackup.recovery.placing import Placer, where
from sysbackup.recovery.placing_processes import TargetWork
from sysbackup.recovery.refusals import reason
from sysbackup.recovery.restore_report import Outcome
from sysbackup.recovery.streamed import Doubted, Streamed
from sysbackup.store.port import ObjectStore

_FEED = 1 << 20  # bytes of a large content per trip to a worker thread
_DENIED = 32  # so many objects denied and none read: it will not get better


class Fetcher:
    """
    Brings contents from the bucket to their places.

    `target` writes what was read whole, `placer` is for what streams; `report` gets
    each job's outcome, on the event loop. `at_once` reads are in flight at the most,
    and hold no more than `memory` grants. With `looks` the target holds something
    already: what of it is right is not fetched.
    """

    def __init__(
        self,
        store: ObjectStore,
        threads: Threads,
        placing: Threads,
        placer: Callable[[], AbstractContextManager[Placer]],
        target: TargetWork,
        report: Callable[[Outcome], None],
        memory: Budget,
        *,
        at_once: int,
        looks: bool,
    ) -> None:
        self._store = store
        self._threads = threads
        self._placing = placing
        self._placer = placer
        self._target = target
        self._looks = looks
        self._report = report
        self._memory = memory
        self._reads = asyncio.Semaphore(at_once)
        self._read = 0
        self._denied: list[AccessDenied] = []

    async def bring(self, fetches: Iterator[Fetch], planner: Threads) -> None:
        """
        All that is to be fetched. What cannot be had costs its own files alone.

        `StoreUnavailable` where the store is gone; `AccessDenied` where it
        denies every object.
        """
        async with tasks() as group:
            while (fetch := await planner.run(next, fetches, None)) is not None:
                await self._reads.acquire()
                more = fetch.read_most if fetch.large and self._target.takes_large else 0
                group.create_task(self._one(fetch, await self._memory.take(fetch.cost + more)))
        if self._denied and not self._read:
            raise self._denied[0]

    async def _one(self, fetch: Fetch, hold: Hold) -> None:
        try:
            if self._looks:
                outcome, fetch = await self._placing.run(self._target.look, fetch)
                self._report(outcome)
            if not fetch.contents:
                return
            if fetch.chunked:
                await self._assemble(fetch)
            elif fetch.large and not self._target.takes_large:
                await self._stream(fetch, self._chunks(fetch))
            else:
                await self._hold(fetch, hold)
        finally:
            hold.release()
            self._reads.release()

    async def _hold(self, fetch: Fetch, hold: Hold) -> None:
        """What does not fit is read once more, before it is called damaged: it may have been the way."""
        damaged = await self._try(fetch, hold)
        if damaged and fetch.key:
            fetch = fetch.part([fetch.contents[number] for number in damaged])
            damaged = await self._try(fetch, hold)
        if damaged:
            self._report(await self._threads.run(self._fail, fetch, damaged))

    async def _try(self, fetch: Fetch, hold: Hold) -> dict[int, str]:
        """Read and place; returns the numbers of contents that do not fit, and why."""
        with self._target.room(fetch.read_most) as room:
            async with aclosing(self._chunks(fetch)) as chunks:
                try:
                    over = await self._fill(room, chunks) if fetch.key else None
                except StoreError as exc:
                    reasons = dict.fromkeys(range(len(fetch.contents)), self._judged(exc))
                    self._report(await self._threads.run(self._fail, fetch, reasons))
                    return {}
                if over is not None and fetch.large:
                    await self._stream(fetch, _continued(room, over, chunks))
                    return {}
            if over is not None:
                why = "the object is larger than what was stored there"
                return dict.fromkeys(range(len(fetch.contents)), why)
            if fetch.large:
                hold.shrink(fetch.cost + room.length)
            placed = await self._placing.run(self._target.place, fetch, room)
        self._report(placed.outcome)
        return placed.damaged

    def _fail(self, fetch: Fetch, reasons: Mapping[int, str]) -> Outcome:
        with self._placer() as placer:
            for number, why in reasons.items():
                placer.fail(fetch.contents[number], f"{why} ({where(fetch)})")
            return placer.outcome

    def _chunks(self, fetch: Fetch) -> AsyncGenerator[bytes, None]:
        """What a fetch asks for."""
        return self._store.read(fetch.key, fetch.version, fetch.start, fetch.length)

    async def _fill(self, room: Room, chunks: AsyncGenerator[bytes, None]) -> bytes | None:
        """Read it, fewer bytes where the object ends early; returns the first chunk for which there is no room."""
        async for chunk in chunks:
            if not room.take(chunk):
                return chunk
        self._read += 1
        return None

    async def _stream(self, fetch: Fetch, chunks: AsyncGenerator[bytes, None]) -> None:
        with self._placer() as placer:
            if not await self._streamed(Streamed(placer, fetch), chunks, last=False):
                await self._streamed(Doubted(placer, fetch), self._chunks(fetch), last=True)
            self._report(placer.outcome)

    async def _assemble(self, fetch: Fetch) -> None:
        """A list that does not fit is read once more, too; chunks were."""
        wanted = fetch.contents[0]
        whole = replace(fetch, contents=[replace(wanted, encoding=None)])
        with self._placer() as placer:
            # what is to be replaced may have most of it already
            there = await self._threads.run(placer.there, wanted) if self._looks else -1
            try:
                for last in (False, True):
                    at = Location(fetch.key, fetch.version)
                    chunks = assembled(self._store, at, wanted.size, AtHand(there) if there >= 0 else None)
                    if await self._streamed(Streamed(placer, whole), chunks, last=last):
                        break
            finally:
                if there >= 0:
                    os.close(there)
            self._report(placer.outcome)

    async def _streamed(self, stream: Streamed | Doubted, chunks: AsyncGenerator[bytes, None], *, last: bool) -> bool:
        """Whether the content is dealt with. Not so where it does not fit and this was not the last try."""
        try:
            if await self._threads.run(stream.begin):
                await self._feed(stream, chunks)
        except FormatError as exc:
            if not last:
                return False
            await self._threads.run(stream.fail, str(exc))
        except StoreError as exc:
            await self._threads.run(stream.fail, self._judged(exc))
        except OSError as exc:
            await self._threads.run(stream.fail, reason(exc))
        finally:
            stream.close()
        return True

    async def _feed(self, stream: Streamed | Doubted, read: AsyncGenerator[bytes, None]) -> None:
        """Read the next bytes while a thread unpacks, hashes and writes the last ones."""
        feeding: asyncio.Task[None] | None = None
        waiting: list[bytes] = []
        size = 0
        async with aclosing(read) as chunks, tasks() as group:
            async for chunk in chunks:
                waiting.append(chunk)
                size += len(chunk)
                if size >= _FEED:
                    if feeding is not None:
                        await feeding
                    feeding = group.create_task(self._threads.run(stream.feed, waiting))
                    waiting, size = [], 0
            self._read += 1
            if feeding is not None:
                await feeding
        await self._threads.run(stream.feed, waiting)
        await self._threads.run(stream.finish)

    def _judged(self, exc: StoreError) -> str:
        """The reason for the files of one object; raises where it is the reason for all that follows."""
        if isinstance(exc, StoreUnavailable):
            raise exc
        if isinstance(exc, AccessDenied) and not self._read:  # once one was read, they decide nothing
            self._denied.append(exc)
            if len(self._denied) >= _DENIED:
                raise exc
        return str(exc)


async def _continued(room: Room, over: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What has landed, then what did not fit, then the rest."""
    for at in range(0, room.length, _FEED):
        yield bytes(room.view[at : min(at + _FEED, room.length)])
    yield over
    async for chunk in chunks:
        yield chunk
