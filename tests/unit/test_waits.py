"""Waits that a cancellation does not cut short."""

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from sysbackup.concurrency.flag import Flag
from sysbackup.concurrency.threads import Threads
from sysbackup.concurrency.waits import outlast, settled
from tests.support import backups

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


async def _turns(number: int) -> None:
    """Let everybody else have so many turns."""
    for _ in range(number):
        await asyncio.sleep(0)


@LOOPS
def test_a_job_that_fails_after_it_was_given_up_is_not_complained_of(loop: str) -> None:
    """One error ends a run and is told; those of the jobs that it cancels are not logged with a traceback."""
    complaints: list[dict[str, Any]] = []

    async def work() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: complaints.append(context))
        stop = threading.Event()

        def job() -> None:
            stop.wait(30)
            raise OSError("the disk is full")

        with ThreadPoolExecutor(1) as pool:
            waiting = asyncio.create_task(outlast(running.run_in_executor(pool, job), told=stop.set))
            await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert waiting.cancelled()
            del waiting
        gc.collect()

    backups.run(work(), loop=loop)
    assert complaints == []


@LOOPS
@pytest.mark.parametrize("turns", range(1, 9))
def test_work_is_whole_whenever_it_is_cancelled(loop: str, turns: int) -> None:
    """At whatever moment the cancellation comes: the work has run to its end, and the cancellation is not lost."""

    async def work() -> None:
        steps: list[int] = []

        async def write() -> int:
            for step in range(5):
                steps.append(step)
                await asyncio.sleep(0)
            return len(steps)

        waiting = asyncio.create_task(outlast(write()))
        await _turns(turns)
        late = waiting.done()
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert waiting.cancelled() is not late
        assert steps == [0, 1, 2, 3, 4]

    backups.run(work(), loop=loop)


@LOOPS
def test_no_number_of_cancellations_leaves_a_thread_behind(loop: str) -> None:
    """A descriptor that a thread reads from is not closed while it does, however often the run is told to stop."""

    async def work() -> None:
        go, ended = threading.Event(), threading.Event()

        def job() -> None:
            go.wait(30)
            ended.set()

        async def careful() -> bool:
            try:
                await outlast(asyncio.get_running_loop().run_in_executor(None, job))
            finally:
                seen.append(ended.is_set())
            return True

        seen: list[bool] = []
        waiting = asyncio.create_task(careful())
        for _ in range(5):
            await _turns(3)
            waiting.cancel()
        await _turns(3)
        assert not waiting.done()
        go.set()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
        assert seen == [True]

    backups.run(work(), loop=loop)


def test_the_first_cancellation_is_raised_with_the_error_of_the_work_as_a_note() -> None:
    """The cancellation is what counts; what went wrong meanwhile can still be read."""

    async def work() -> None:
        go = asyncio.Event()

        async def fail() -> None:
            await go.wait()
            raise OSError("the disk is full")

        waiting = asyncio.create_task(outlast(fail()))
        await _turns(2)
        waiting.cancel("first")
        await _turns(2)
        waiting.cancel("second")
        await _turns(2)
        go.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        assert caught.value.args == ("first",)
        assert caught.value.__notes__ == ["While being cancelled: the disk is full"]

    backups.run(work())


def test_an_error_comes_out_as_itself() -> None:
    """Who is not cancelled gets what the work raised."""

    async def work() -> None:
        async def fail() -> None:
            raise OSError("the disk is full")

        with pytest.raises(OSError, match="the disk is full"):
            await outlast(fail())

    backups.run(work())


@pytest.mark.parametrize(
    ("seconds", "hurried", "cancellations", "result"),
    [
        (None, False, 3, "whole"),  # given all the time it needs
        (3600.0, False, 3, "whole"),
        (3600.0, True, 1, "whole"),
        (3600.0, True, 2, "cut short"),
        (0.0, False, 1, "cut short"),
    ],
)
def test_who_is_patient_and_how_long(seconds: float | None, hurried: bool, cancellations: int, result: str) -> None:
    """Work is cut short when its time is over, or at the second cancellation where that is meant to hurry it."""

    async def work() -> None:
        go = asyncio.Event()
        told: list[str] = []

        async def write() -> str:
            try:
                await go.wait()
            except asyncio.CancelledError:
                return "cut short"
            return "whole"

        job = asyncio.create_task(write())
        waiting = asyncio.create_task(
            settled(job, told=lambda: told.append("told"), patience=lambda: seconds, hurried=hurried)
        )
        await _turns(2)
        for _ in range(cancellations):
            waiting.cancel()
            await _turns(3)
        go.set()
        assert isinstance(await waiting, asyncio.CancelledError)
        assert job.result() == result
        assert told == ["told"]  # once, however often it was cancelled

    backups.run(work())


def test_work_that_catches_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that goes on after it was cancelled is not waited for without end."""
    monkeypatch.setattr("sysbackup.concurrency.waits._AGAIN", 0.01)

    async def work() -> None:
        caught = 0

        async def deaf() -> None:
            nonlocal caught
            while caught < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    caught += 1

        waiting = asyncio.create_task(outlast(deaf(), seconds=0))
        await _turns(2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert caught == 3

    backups.run(work())


@LOOPS
def test_a_restore_that_is_stopped_waits_for_the_thread_that_holds_its_files(loop: str) -> None:
    """The work under way is asked to stop and waited for; what waits its turn behind it never begins."""

    async def work() -> None:
        began = threading.Event()
        done: list[str] = []
        with Flag() as stop, Threads(1, stop) as threads:

            def write() -> None:
                began.set()
                while not stop.is_set():
                    threading.Event().wait(0.001)
                done.append("the first")

            def never() -> None:
                done.append("the second")

            async def both(*jobs: Callable[[], None]) -> None:
                async with asyncio.TaskGroup() as group:
                    for job in jobs:
                        group.create_task(threads.run(job))

            running = asyncio.create_task(both(write, never))
            await asyncio.to_thread(began.wait, 30)
            running.cancel()
            await asyncio.wait((running,))
            assert running.cancelled()
            assert done == ["the first"]

    backups.run(work(), loop=loop)
