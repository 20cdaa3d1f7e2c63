"""Waits that a cancellation does not cut short."""

import asyncio
import threading
from typing import TypeVar

T = TypeVar("T")


async def finished(job: "asyncio.Future[T]", stop: threading.Event | None = None) -> T:
    """
    What a thread's job returns; a cancellation waits for its end first.

    What the job works on, a descriptor above all, may be closed after this.
    `stop` is set by a cancellation, for the job to end what waiting it does.
    """
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        # An error of its own is of no interest any more; asyncio would log that nobody has looked at it.
        job.add_done_callback(lambda job: job.cancelled() or job.exception())
        await asyncio.wait([job])
        raise
