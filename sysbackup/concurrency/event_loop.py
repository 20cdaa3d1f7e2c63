"""Running a command's coroutine: under uvloop, cancelled by SIGINT and SIGTERM."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")

Handler = Callable[[int, FrameType | None], object]
"""Of a signal: see `signal.signal`."""

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal stopped the command, after it had cleaned up. As KeyboardInterrupt, it is no `Exception`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number


def run(coroutine: Coroutine[Any, Any, Result], afterwards: Handler | None = None) -> Result:
    """
    Run it to its end on a new uvloop and return what it returns.

    SIGINT or SIGTERM cancels it; when it has cleaned up, `Stopped` is raised. A
    second one cancels the cleaning up. What ended well in spite of a signal has
    ended well. From its end on the two are handled by `afterwards`, or as they
    were before: the loop's threads are still waited for then.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_cancelled_by_signals(coroutine, afterwards))


async def _cancelled_by_signals(coroutine: Coroutine[Any, Any, Result], afterwards: Handler | None) -> Result:
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []
    task = loop.create_task(coroutine)

    def stop(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        loop.call_soon_threadsafe(task.cancel)

    # Python's own, not the loop's: these are replaced without a moment in which SIGTERM would kill us.
    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Stopped(received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, afterwards or handler)
