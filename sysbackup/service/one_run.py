"""
One run, and how it ends: whatever that end is, a `RunResult`.

Whoever makes a run in its own process, `sysbackup run` and the process that the daemon starts for it, makes it
here (`OneRun`). What such a process could not say itself, since it was killed, or never began, the daemon says in
its place (`lost`, `never`, `died`). So equal ends are told alike, in the history, to hooks and to people.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sysbackup.concurrency.event_loop import Handler, Stopped, run
from sysbackup.errors import SysbackupError, expected
from sysbackup.formats.run_result import Outcome, RunResult, Summary, with_manifest, without_manifest
from sysbackup.model import Clock, RunIdentity
from sysbackup.pipeline.tally import Tally
from sysbackup.programs.endings import signal_name

NOT_BEGUN = "starting: nothing is known of the bucket yet"
"""What a run does that has no counts yet, for the log."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a run has ended; `error` is what ended it early, for whoever sits at a terminal."""

    result: RunResult
    error: BaseException | None = None

    @property
    def bug(self) -> BaseException | None:
        """The error, where it is none that anybody has thought of."""
        return self.error if isinstance(self.error, Exception) and expected(self.error) is None else None


class OneRun:
    """
    A run of `host` in this process; `watch` is what `back_up` is to be given, and `tally` then has its counts.

    `by_daemon`: it is a daemon that signals this process. A run that somebody else
    stops ends as programs do that a signal ended, with 128 and its number. One that
    the daemon stops ends with 1: whoever asked for it (`sysbackup trigger`) got no
    signal, and by that number the two are told apart (`RunResult.by_hand`).
    """

    def __init__(self, host: str, clock: Clock, *, by_daemon: bool) -> None:
        self._host = host
        self._clock = clock
        self._by_daemon = by_daemon
        self._started = clock.now()
        self.tally: Tally | None = None

    def watch(self, tally: Tally) -> None:
        """Follow these counts."""
        self.tally = tally

    def make(self, work: Coroutine[Any, Any, Summary], afterwards: Handler) -> Made:
        """Run it to its end, whatever that is (`event_loop.run`, which `afterwards` is for)."""
        try:
            return Made(with_manifest(run(work, afterwards)))
        except (Exception, asyncio.CancelledError, Stopped) as error:  # noqa: BLE001 - all must hear of it, whatever it is
            return Made(self._ended_by(error), error)

    def _ended_by(self, error: BaseException) -> RunResult:
        outcome, status = Outcome.FAILED, SysbackupError.exit_code
        if isinstance(error, Stopped):
            outcome, reason = Outcome.STOPPED, str(error)
            status = status if self._by_daemon else error.exit_code
        elif isinstance(error, asyncio.CancelledError):
            outcome, reason = Outcome.STOPPED, "cancelled"
        elif causes := expected(error):
            status, reason = causes[0].exit_code, "; ".join(map(str, causes))
        else:
            reason = f"this is a bug, please report it with the log: {type(error).__name__}: {error}"
        tally = self.tally
        return without_manifest(
            outcome,
            status,
            tally.at_the_end(reason) if tally else reason,
            host=self._host,
            run=tally.run if tally else None,
            started=tally.identity.started if tally else self._started,
            finished=self._clock.now(),
            sent_as=tally.sending_as if tally else None,
        )


def lost(
    host: str,
    began: RunIdentity | None,
    started: datetime,
    finished: datetime,
    *,
    status: int,
    asked_to_stop: bool,
    misheard: bool,
) -> RunResult:
    """
    A run whose process did not live to tell how it ended, or told it in a way that we do not understand.

    `began` is what it had said of itself, `started` when it was started; `status` its
    exit status, or the negative number of the signal that killed it.
    """
    outcome = Outcome.STOPPED if asked_to_stop else Outcome.FAILED
    if not asked_to_stop:
        reason = f"the process of the run {_death(status, misheard=misheard)}"
    elif began is None:
        reason = "stopped before it had begun"
    else:
        reason = "stopped before it had cleaned up: an unfinished upload may be left"
    return without_manifest(
        outcome,
        SysbackupError.exit_code,
        reason,
        host=host,
        run=began.run if began else None,
        started=began.started if began else started,
        finished=finished,
    )


def _death(status: int, *, misheard: bool) -> str:
    if status < 0:
        return f"was killed by {signal_name(-status)}"
    if misheard:
        return (
            f"ended with exit status {status}, and what it said was not understood: it may be of a later version than"
            " the daemon, which is to be restarted then"
        )
    return f"ended with exit status {status} and said nothing"


def never(host: str, now: datetime, reason: str, outcome: Outcome = Outcome.STOPPED) -> RunResult:
    """A run that was asked for and came to none."""
    return without_manifest(outcome, SysbackupError.exit_code, reason, host=host, run=None, started=now, finished=now)


def died(host: str, run: str | None, started: datetime, now: datetime) -> RunResult:
    """A run that ended with its daemon, which nobody has told of until `now`."""
    reason = "the daemon, or the machine, died during this run"
    return without_manifest(
        Outcome.FAILED, SysbackupError.exit_code, reason, host=host, run=run, started=started, finished=now
    )
