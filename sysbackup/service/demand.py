"""Runs that are asked for, and who waits to hear how they end."""

import asyncio
from datetime import datetime, timedelta
from math import inf

from sysbackup.formats.run_result import RunResult

AGAIN = 60.0
"""Seconds until a run is tried again that found another in progress: `sysbackup run`, or what a killed daemon left."""


class Demand:
    """However often a run is asked for, one answers all who asked before it began."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[RunResult]] = []
        self._wanted: str | None = None
        self._again: tuple[str, datetime] | None = None

    def __bool__(self) -> bool:
        """Whether there is to be a run, now or later."""
        return self._wanted is not None or self._again is not None

    def answer(self) -> "asyncio.Future[RunResult]":
        """What the end of the next run is told by; a run is not asked for by this alone."""
        self._waiting = [future for future in self._waiting if not future.done()]
        self._waiting.append(asyncio.get_running_loop().create_future())
        return self._waiting[-1]

    def ask(self, who: str) -> bool:
        """Ask for a run; False where one is asked for already."""
        if self._wanted is not None:
            return False
        self._wanted = who
        return True

    def try_again(self, why: str, now: datetime) -> None:
        """A run is to be tried once more in a while."""
        self._again = (why, now + timedelta(seconds=AGAIN))

    def due(self, now: datetime) -> str | None:
        """Why a run is to be made now; None where none is."""
        if self._wanted is None and self._again is not None and self.rest(now) <= 0:
            return self._again[0]
        return self._wanted

    def rest(self, now: datetime) -> float:
        """Seconds until one is to be tried again; none where the clock was set back meanwhile."""
        if self._again is None:
            return inf
        rest = (self._again[1] - now).total_seconds()
        return rest if rest <= AGAIN else 0.0

    def take(self) -> "list[asyncio.Future[RunResult]]":
        """A run begins: who waits for its end. Whoever asks from now on asks for another one."""
        waiting, self._waiting, self._wanted, self._again = self._waiting, [], None, None
        return waiting

    def refuse(self, result: RunResult) -> None:
        """There will be no more runs: tell all who wait."""
        tell(self._waiting, result)


def tell(waiting: "list[asyncio.Future[RunResult]]", result: RunResult) -> None:
    """How a run ended, to those who still wait."""
    for future in waiting:
        if not future.done():
            future.set_result(result)
