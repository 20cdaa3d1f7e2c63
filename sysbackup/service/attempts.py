"""
Runs as the daemon sees them: started, followed, ended early if need be.

Each is a process of its own. Its memory goes back to the system when it ends,
an idle daemon has no S3 library loaded, and whatever a run dies of (for want
of memory, in a library's machine code), the daemon lives to tell.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

import structlog

from sysbackup.config.sections import Config
from sysbackup.formats.lines import UNREADABLE
from sysbackup.model import Clock
from sysbackup.pipeline.tally import Ended, badly
from sysbackup.programs import adopting
from sysbackup.programs.endings import signal_name
from sysbackup.programs.workers import Worker, start_worker
from sysbackup.service import messages
from sysbackup.service.messages import Began, Over, Progress

log = structlog.get_logger()

LEAVE_WITHIN = 30.0
"""Seconds that a run's process gets to go away once it has said how the run ended."""

Heard = Callable[[Began | Progress], None]
"""Is told how a run goes on."""


class Attempt(Protocol):
    """One run under way."""

    async def end(self) -> Ended:
        """Wait for its end, which always comes as a value: a run that fails is no error of the daemon's."""
        ...

    def stop(self) -> None:
        """Ask it to end, cleaned up and without a manifest."""
        ...

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        ...

    def describe(self) -> None:
        """Have it log what it is doing."""
        ...


class Runner(Protocol):
    """Starts runs."""

    async def start(self, config: Config, heard: Heard) -> Attempt:
        """Start one by this configuration. OSError where that cannot be done."""
        ...


class Processes:
    """The runner of real life; `work` names what the process does, see `workers.start_worker`."""

    def __init__(self, work: str, clock: Clock) -> None:
        self._work = work
        self._clock = clock

    async def start(self, config: Config, heard: Heard) -> "InProcess":
        """See `Runner`."""
        since = adopting.moment()
        worker = await start_worker(self._work, messages.write_config(config))
        return InProcess(worker, since, config, self._clock, heard)


class InProcess:
    """A run in a process, started not before `since` (`adopting.moment`)."""

    def __init__(self, worker: Worker, since: int, config: Config, clock: Clock, heard: Heard) -> None:
        self._worker = worker
        self._since = since
        self._host = config.content.host
        self._clock = clock
        self._heard = heard
        self._started = clock.now()
        self._began: Began | None = None
        self._asked_to_stop = False

    async def end(self) -> Ended:
        """See `Attempt`."""
        ended: Ended | None = None
        try:
            ended = await self._listen()
            status = await self._status(over=ended is not None)
            if ended is None:
                ended = self._lost(status)
        finally:
            self._worker.release()
            await asyncio.to_thread(self._clear, killed=ended is None or ended.summary is None)
        return ended

    def stop(self) -> None:
        """See `Attempt`."""
        self._asked_to_stop = True
        self._worker.signal(signal.SIGTERM)

    def kill(self) -> None:
        """See `Attempt`. `end` then ends what it leaves behind."""
        self._asked_to_stop = True
        self._worker.signal(signal.SIGKILL)

    def describe(self) -> None:
        """See `Attempt`."""
        if self._began is None:  # it has no ear for that yet
            log.info("run.described", stage="starting: nothing is known of the bucket yet")
        else:
            self._worker.signal(signal.SIGUSR2)

    async def _listen(self) -> Ended | None:
        """What it says, up to its last word; None where it ends without one."""
        async with aclosing(self._worker.lines()) as lines:
            async for line in lines:
                message = _message(line)
                if isinstance(message, Over):
                    return message.ended
                if isinstance(message, Began):
                    self._began = message
                if message is not None:
                    self._heard(message)
        return None

    async def _status(self, *, over: bool) -> int:
        """How the process ends. One that has said its last word and does not go away is no longer waited for."""
        try:
            async with asyncio.timeout(LEAVE_WITHIN if over else None):
                return await self._worker.status()
        except TimeoutError:
            log.warning("run.hung", reason=f"its process had not gone {LEAVE_WITHIN:.0f} s after its last word")
            return 0

    def _clear(self, *, killed: bool) -> None:
        """What the process has left behind; one that ended well has ended its programs itself."""
        if killed and (number := adopting.end_adopted(self._since)):
            log.warning("programs.ended", processes=number, reason="the run had left them behind")
        adopting.reap_adopted()

    def _lost(self, status: int) -> Ended:
        """It did not live to tell how it ended."""
        if not self._asked_to_stop:
            outcome, reason = "failed", f"the process of the run {_death(status)}"
        elif self._began is None:
            outcome, reason = "stopped", "stopped before it had begun"
        else:
            outcome, reason = "stopped", "stopped before it had cleaned up: an unfinished upload may be left"
        return badly(
            outcome,
            1,
            reason,
            host=self._host,
            run=self._began.run if self._began else None,
            started=self._began.started if self._began else self._started,
            finished=self._clock.now(),
        )


def _message(line: bytes) -> messages.Message | None:
    try:
        return messages.read(line)
    except UNREADABLE:
        log.warning("run.said", line=line[:200].decode("utf-8", "backslashreplace"))
        return None


def _death(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status} and said nothing"
    return f"was killed by {signal_name(-status)}"
