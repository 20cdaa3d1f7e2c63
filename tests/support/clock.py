"""A clock that a test turns."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

TURNS = 60
"""Turns of an event loop in which everything is done that one event leads to."""

START = datetime(2026, 11, 23, 4, 15, tzinfo=UTC)


class ManualClock:
    """Stands still until it is turned; sleeping turns it."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def turn(self, **by: float) -> None:
        """Let time pass: `turn(days=14)`."""
        self._now += timedelta(**by)

    async def sleep(self, seconds: float) -> None:
        self.turn(seconds=seconds)


class WakingClock:
    """
    The two clocks that a machine has: one that people set, and one that only goes on.

    Neither goes by itself: `go_on` lets time pass, and wakes every sleeper at its
    moment; `turn` sets the first one alone, as somebody (or NTP, or the end of a
    suspension) does, and wakes nobody.
    """

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._elapsed = timedelta()
        self._sleepers: list[tuple[timedelta, int, asyncio.Future[None]]] = []
        self._slept = 0

    def now(self) -> datetime:
        return self._now

    def turn(self, **by: float) -> None:
        """Set the clock forward, or back: `turn(hours=-3)`."""
        self._now += timedelta(**by)

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slept += 1
        sleeper = (self._elapsed + timedelta(seconds=seconds), self._slept, woken)
        heapq.heappush(self._sleepers, sleeper)
        try:
            await woken
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    async def go_on(self, **by: float) -> None:
        """Let time pass; whoever is woken does what it has to do before time goes on."""
        await settled()
        end = self._elapsed + timedelta(**by)
        while self._sleepers and self._sleepers[0][0] <= end:
            moment, _, woken = heapq.heappop(self._sleepers)
            self._pass_until(moment)
            if not woken.done():
                woken.set_result(None)
            await self._asleep_again()
        self._pass_until(end)
        await settled()

    async def _asleep_again(self) -> None:
        """Until whoever was woken sleeps again, and a little longer; where nobody does, until all is done."""
        before = self._slept
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self._slept != before:
                break
        for _ in range(5):
            await asyncio.sleep(0)

    def _pass_until(self, moment: timedelta) -> None:
        self._now += moment - self._elapsed
        self._elapsed = moment


async def settled() -> None:
    """Until nothing is left to do that could be done without time passing: more turns of the loop than that takes."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
