"""Every end of a run is one result, told alike whoever made it."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from structlog.testing import capture_logs

from sysbackup.concurrency.event_loop import Stopped
from sysbackup.disk.sorting import Sorter
from sysbackup.errors import AccessDenied, BusyError, ConfigError, StoreUnavailable
from sysbackup.formats import run_result
from sysbackup.formats.run_result import RunResult, Summary
from sysbackup.model import RunIdentity
from sysbackup.pipeline.tally import Tally
from sysbackup.service import history, messages
from sysbackup.service.attempts import Processes
from sysbackup.service.messages import Began, Progress
from sysbackup.service.one_run import Made, OneRun
from tests.support import backups
from tests.support.clock import START, ManualClock
from tests.unit.test_hooks import summary

RUN = RunIdentity("alpha", "20261123T041500Z-3fa91c22", START, None)


@pytest.fixture
def tally(tmp_path: Path) -> Iterator[Tally]:
    with Sorter(tmp_path) as spool:
        yield Tally(ManualClock(), spool, RUN)


def made(act: Callable[[], object], tally: Tally | None = None, *, by_daemon: bool = False) -> Made:
    """A run that has got so far (`tally`) when this happens."""
    one = OneRun("alpha", ManualClock(), by_daemon=by_daemon)

    async def work() -> Summary:
        if tally is not None:
            one.watch(tally)
        act()
        await asyncio.sleep(0)
        return summary()

    return one.make(work(), signal.SIG_DFL)  # type: ignore[arg-type]  # as good as a handler


def told(result: RunResult) -> tuple[str, int, str | None, str | None]:
    return result.outcome, result.exit_code, result.run, result.reason


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise error

    return act


def test_a_run_that_ends_well() -> None:
    """With its summary, and nothing to raise."""
    assert made(lambda: None) == Made(run_result.with_manifest(summary()))


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (StoreUnavailable("it is away"), 1, "it is away"),
        (ConfigError(["one mistake", "another"]), 78, "one mistake\nanother"),
        (ExceptionGroup("", [AccessDenied("no"), StoreUnavailable("away")]), 77, "no; away"),
    ],
)
def test_a_run_that_fails_as_runs_do(tally: Tally, error: Exception, status: int, reason: str) -> None:
    """The status of the first cause, and all reasons; before it has a name, and after."""
    for counts, name in ((None, None), (tally, RUN.run)):
        found = made(raising(error), counts)
        assert told(found.result) == ("failed", status, name, reason)
        assert (found.error, found.bug) == (error, None)


def test_a_run_that_fails_as_nobody_has_thought_of() -> None:
    """That it is a bug is said wherever its end is told."""
    error = ZeroDivisionError("division by zero")
    found = made(raising(error))
    reason = "this is a bug, please report it with the log: ZeroDivisionError: division by zero"
    assert told(found.result) == ("failed", 1, None, reason)
    assert found.bug is error


def test_a_run_that_finds_another_in_progress_is_no_attempt() -> None:
    """It is told of as such."""
    assert history.no_attempt(made(raising(BusyError("another run is in progress"))).result)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("by_daemon", [False, True])
def test_a_run_that_is_stopped(tally: Tally, number: signal.Signals, by_daemon: bool) -> None:
    """Whoever stops their own gets 128 and the signal's number; a daemon's is 1, and is not by hand."""
    found = made(lambda: os.kill(os.getpid(), number), tally, by_daemon=by_daemon)
    assert told(found.result) == ("stopped", 1 if by_daemon else 128 + number, RUN.run, f"stopped by {number.name}")
    assert found.result.by_hand is not by_daemon
    assert isinstance(found.error, Stopped)
    assert found.bug is None


def test_a_run_that_is_cancelled_without_a_signal(tally: Tally) -> None:
    """It has not failed either; nobody is to blame."""
    found = made(raising(asyncio.CancelledError()), tally)
    assert told(found.result) == ("stopped", 1, RUN.run, "cancelled")
    assert (isinstance(found.error, asyncio.CancelledError), found.bug) == (True, None)


def test_a_run_whose_manifest_may_be_stored(tally: Tally) -> None:
    """People read its name in the reason, programs in a field."""
    tally.sending_as = RUN.run + "d0d0d0d0"
    found = made(raising(StoreUnavailable("its answer was lost")), tally).result
    assert found.sent_as == RUN.run + "d0d0d0d0"
    assert f"on its way as {found.sent_as}, and may be stored" in (found.reason or "")
    tally.sending_as = None
    assert not made(raising(StoreUnavailable("away")), tally).result.sent_as


# ---- runs whose process does not tell


BEGAN = messages.write(Began(*msgspec.structs.astuple(RUN)))


def leaves_silently() -> None:
    sys.exit(7)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def says_what_nobody_understands() -> None:
    os.write(1, BEGAN + b'{"type":"over","ended":{"format":99,"finished":"2026-11-23T04:16:00Z"}}\n')


def begins_and_waits() -> None:
    os.write(1, BEGAN)
    signal.pause()


def ended(tmp_path: Path, work: Callable[[], None], *, stop: bool = False) -> RunResult:
    """How the daemon tells of a run whose process does that."""

    async def follow() -> RunResult:
        begun = asyncio.Event()

        def heard(_: Began | Progress) -> None:
            begun.set()

        runner = Processes(f"{__name__}:{work.__name__}", ManualClock())
        attempt = await runner.start(backups.configured(tmp_path), heard)
        ending = asyncio.ensure_future(attempt.end())
        if stop:
            await begun.wait()
            attempt.stop()
        return await ending

    with capture_logs():
        return backups.run(follow())


@pytest.mark.parametrize(
    ("work", "name", "reason"),
    [
        (leaves_silently, None, "ended with exit status 7 and said nothing"),
        (is_killed, None, "was killed by SIGKILL (for want of memory? see the kernel's log)"),
        (
            says_what_nobody_understands,
            RUN.run,
            "ended with exit status 0, and what it said was not understood: it may be of a later version than the"
            " daemon, which is to be restarted then",
        ),
    ],
)
def test_a_process_that_does_not_tell(tmp_path: Path, work: Callable[[], None], name: str | None, reason: str) -> None:
    """The daemon tells in its place."""
    assert told(ended(tmp_path, work)) == ("failed", 1, name, f"the process of the run {reason}")


def test_a_process_that_is_stopped_and_does_not_tell(tmp_path: Path) -> None:
    """It was asked to end, and so has not failed."""
    reason = "stopped before it had cleaned up: an unfinished upload may be left"
    assert told(ended(tmp_path, begins_and_waits, stop=True)) == ("stopped", 1, RUN.run, reason)
