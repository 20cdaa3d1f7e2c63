"""Waiting for a thread's job."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from sysbackup.concurrency.waits import finished
from tests.support import backups


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
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
            waiting = asyncio.create_task(finished(running.run_in_executor(pool, job), stop))
            await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert waiting.cancelled()
            del waiting
        gc.collect()

    backups.run(work(), loop=loop)
    assert complaints == []
