"""
`[run] bandwidth`: bodies go out, and come in, no faster than it says.

Bodies that are sent are held back where they are sent (`bodies`), slice by
slice; those that are read, chunk by chunk in `Limited`. Both share one `Limit`.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, tzinfo

from sysbackup.config.bandwidth import Bandwidth
from sysbackup.model import Clock
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import ObjectStore

# So many grants make up a second: few enough to cost nothing, and so small that each of many
# uploads gets its turn long before a server takes its connection for dead (S3 does after about 20 s).
_GRANTS = 64
_LEAST_GRANT = 1 << 10

# What was not used is made up for, but for no longer than this: timers are late by a moment.
_CATCH_UP_SECONDS = 0.25

# Timers may be early by a moment, too; what is more than that is no timer's fault.
_ODD_SECONDS = 1.0


@dataclass(slots=True)
class Held:
    """For how long the limit has held the bodies of a request back, in seconds of the loop's clock."""

    seconds: float = 0.0


_held: ContextVar[Held | None] = ContextVar("held", default=None)


@contextmanager
def held_back() -> Iterator[Held]:
    """Count how long bodies are held back that are sent in here, by tasks begun in here too."""
    held = Held()
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


class Limit:
    """
    Grants bytes at the rate of `bandwidth`, first come first served; None grants all at once.

    Whoever asks waits for its turn, and the one whose turn it is for its bytes: so
    each of those who go on asking gets an equal share, and a rate that changes
    with the time of day (in `zone`) holds from the next grant on.
    """

    def __init__(self, bandwidth: Bandwidth | None, clock: Clock, zone: tzinfo = UTC) -> None:
        self._bandwidth = bandwidth
        self._clock = clock
        self._zone = zone
        self._turn = asyncio.Lock()
        self._due = clock.now().timestamp()
        self._last = 0.0

    @property
    def ever(self) -> bool:
        """Whether it limits anything at any time."""
        return self._bandwidth is not None

    async def grant(self, most: int) -> int:
        """Wait until bytes may pass; how many, `most` of them at the most."""
        if self._bandwidth is None:
            return most
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with self._turn:
                return await self._next(most, self._bandwidth)
        finally:
            if held := _held.get():
                held.seconds += loop.time() - began

    async def passed(self, size: int) -> None:
        """Wait until `size` bytes, which are here already, may have passed."""
        while size > 0:
            size -= await self.grant(size)

    async def _next(self, most: int, bandwidth: Bandwidth) -> int:
        wait = self._due - self._clock.now().timestamp()
        if wait > self._last + _ODD_SECONDS:
            # what was granted last does not take that long: the clock has been set back
            self._due += self._last - wait
            wait = self._last
        if wait > 0:
            await self._clock.sleep(wait)
        moment = self._clock.now()
        now, rate = moment.timestamp(), bandwidth.at(moment.astimezone(self._zone))
        if rate is None:
            self._due, self._last = now, 0.0
            return most
        size = min(most, max(_LEAST_GRANT, rate // _GRANTS))
        self._last = size / rate
        self._due = max(self._due, now - _CATCH_UP_SECONDS) + self._last
        return size


class Limited(Delegating):
    """`ObjectStore` whose reads keep to a limit."""

    def __init__(self, store: ObjectStore, limit: Limit) -> None:
        super().__init__(store)
        self._limit = limit

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._store.read(key, version, start, length)) as chunks:
            async for chunk in chunks:
                await self._limit.passed(len(chunk))
                yield chunk
