"""Waits that a cancellation does not cut short: what is waited for works on what the caller is about to close."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds after which a task that was cancelled, and went on, is cancelled again: it may have caught the first one.
_AGAIN = 4.0


async def outlast(work: Awaitable[T], *, told: Callable[[], object] | None = None, seconds: float | None = None) -> T:
    """
    The result of `work`, which a cancellation of the caller does not cut short.

    Cancelled meanwhile, it waits as `settled` does, then raises the cancellation; an
    error of `work` is only a note on that then. Whatever `work` used may be closed when this is over.
    """
    job = asyncio.ensure_future(work)
    cancelled = await settled(job, told=told, patience=lambda: seconds)
    if cancelled is None:
        return job.result()
    # Looked at in any case: asyncio would log that nobody has.
    if not job.cancelled() and (failure := job.exception()):
        cancelled.add_note(f"While being cancelled: {failure}")
    raise cancelled


async def settled(
    job: "asyncio.Future[Any]",
    *,
    told: Callable[[], object] | None = None,
    patience: Callable[[], float | None] = lambda: None,
    hurried: bool = False,
) -> asyncio.CancelledError | None:
    """
    Wait until `job` is done, however often we are cancelled; returns the first cancellation, None where there was none.

    At the first one `told` is called, for the job to end what waiting it does, and
    `patience`, for how many seconds the job may still take (None: as many as it
    needs). After these it is cancelled, and waited for all the same; with `hurried`
    at a second cancellation already. What a thread does cannot be cancelled: it
    must be given all the time it needs.
    """
    loop = asyncio.get_running_loop()
    first: asyncio.CancelledError | None = None
    deadline: float | None = None
    while not job.done():
        try:
            await asyncio.wait((job,), timeout=None if deadline is None else max(0.0, deadline - loop.time()))
        except asyncio.CancelledError as cancelled:
            if first is None:
                first = cancelled
                if told is not None:
                    told()
                left = patience()
                deadline = None if left is None else loop.time() + left
            elif hurried:
                deadline = loop.time()
        if deadline is not None and loop.time() >= deadline and not job.done():
            job.cancel()
            deadline = loop.time() + _AGAIN
    return first
