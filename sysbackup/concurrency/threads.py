"""Blocking work in threads that nobody walks away from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from sysbackup.concurrency.flag import Flag
from sysbackup.concurrency.waits import outlast

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
        self._pool = ThreadPoolExecutor(number, thread_name_prefix="sysbackup")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._pool.shutdown()

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `work` returns."""
        job = self._pool.submit(work, *args, **kwargs)

        def stop() -> None:
            self._stop.set()
            job.cancel()  # where it has not begun

        return await outlast(asyncio.wrap_future(job), told=stop)
