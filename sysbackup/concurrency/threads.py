"""Blocking work in threads that nobody walks away from, and tasks that fail with one error."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from sysbackup.concurrency.flag import Flag

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """
    A few threads for work that holds files open.

    Who is cancelled while such work runs still waits for its end: files it
    writes to must not be closed, or given away, meanwhile. `stop` is set then,
    which the work heeds.
    """

    def __init__(self, number: int, stop: Flag) -> None:
        self._stop = stop
        self._pool = ThreadPoolExecutor(number, thread_name_prefix="restore")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._pool.shutdown()

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `work` returns."""
        job = self._pool.submit(work, *args, **kwargs)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stop.set()
            job.cancel()
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
            if not future.cancelled():
                future.exception()  # seen: the cancellation is what counts now
            raise


@asynccontextmanager
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first error comes out as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from failed
