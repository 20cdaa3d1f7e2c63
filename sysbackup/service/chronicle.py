"""Telling how a daemon's runs go: the history, the mark of a run that goes on, and whoever listens."""

import asyncio
from collections.abc import Coroutine
from typing import Protocol

import structlog

from sysbackup.config.sections import Config
from sysbackup.formats.run_result import Outcome, RunResult
from sysbackup.model import Clock
from sysbackup.service import history, one_run
from sysbackup.service.history import Past
from sysbackup.service.ledger import Ledger
from sysbackup.service.messages import Began
from sysbackup.service.status_file import Current

log = structlog.get_logger()

TELL_WITHIN = 1.5
"""Seconds that hooks get when the daemon is stopped, see `scheduler.KILL_AFTER`."""


class Listener(Protocol):
    """
    Who must hear how runs go: metrics, hooks. Nothing of theirs may raise, or last for ever.

    `began` and `ended` are called in the order of events, but not waited for: a
    later one may be called before an earlier one has returned.
    """

    def configured(self, config: Config) -> None:
        """What holds from now on."""
        ...

    async def began(self, began: Began) -> None:
        """A run has begun."""
        ...

    async def ended(self, ended: RunResult) -> None:
        """A run has ended."""
        ...

    async def close(self) -> None:
        """The daemon ends."""
        ...


class Chronicle:
    """What is known of runs (`past`), and all who must hear of them; those are told by tasks of `group`."""

    def __init__(self, config: Config, listener: Listener, past: Past, clock: Clock, group: asyncio.TaskGroup) -> None:
        self.past = past
        self._host = config.content.host
        self._listener = listener
        self._ledger = Ledger(config)
        self._clock = clock
        self._group = group
        self._telling: set[asyncio.Task[None]] = set()

    def began(self, began: Began, current: Current, *, again: bool) -> None:
        """A run has a name, or, where it begins `again`, another one."""
        if not again:
            self._tell(self._listener.began(began))
        self._tell(self._ledger.begun(current))

    async def ended(self, ended: RunResult) -> None:
        """All who must know of a run's end hear of it."""
        # Set down first: who sees in the status that it has ended finds it in the history.
        await self._ledger.ended(ended)
        self.past = self.past.after(history.brief(ended))
        self._tell(self._listener.ended(ended))

    async def tell_of_the_dead(self) -> bool:
        """A run that died together with an earlier daemon has not been told of; whether there is one."""
        if (dead := await self._ledger.dead()) is None:
            return False
        ended = one_run.died(self._host, dead.run, dead.started, self._clock.now())
        log_end(ended)
        await self.ended(ended)
        return True

    async def close(self) -> None:
        """Wait a little for those who are still being told."""
        if self._telling:
            _, late = await asyncio.wait(self._telling, timeout=TELL_WITHIN)
            for task in late:
                task.cancel()

    def _tell(self, telling: Coroutine[None, None, None]) -> None:
        task = self._group.create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


def log_end(ended: RunResult) -> None:
    """The canonical line of a run, at the level that a reader of the journal looks for."""
    level = _LEVELS.get(ended.outcome, "error")
    getattr(log, level)("run.ended", run=ended.run, outcome=ended.outcome, reason=ended.reason, status=ended.exit_code)


_LEVELS: dict[str, str] = {Outcome.COMPLETE: "info", Outcome.INCOMPLETE: "warning"}
