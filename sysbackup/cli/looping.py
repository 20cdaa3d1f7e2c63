"""Running a command's coroutine: under uvloop, cancelled by SIGINT and SIGTERM."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")


class Stopped(BaseException):
    """A signal stopped the command, after it had cleaned up. As KeyboardInterrupt, it is no `Exception`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """
    Run it to its end on a new uvloop and return what it returns.

    SIGINT or SIGTERM cancels it; when it has cleaned up, `Stopped` is raised. A
    second one cancels the cleaning up. What ended well in spite of a signal has
    ended well.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_cancelled_by_signals(coroutine))


async def _cancelled_by_signals(coroutine: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []
    task = loop.create_task(coroutine)

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    stopping = (signal.SIGINT, signal.SIGTERM)
    for number in stopping:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Stopped(received[0]) from None
        raise
    finally:
        for number in stopping:
            loop.remove_signal_handler(number)
