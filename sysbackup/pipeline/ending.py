"""
The end of a run: from the moment its manifest is on its way, a stop may come too late to undo it.

Then the run has ended well, whatever befalls it, and says so under the name
that the manifest has: nobody else could tell that name.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import structlog

from sysbackup.concurrency.waits import outlast, settled
from sysbackup.config.sections import Config
from sysbackup.contents.cache import forget_all
from sysbackup.errors import AccessDenied, BucketUnusable, CatalogUnusable, SpoolError, StoreError, expected
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally

log = structlog.get_logger()

T = TypeVar("T")

# Seconds that a manifest on its way, and the look that follows, get when the run is told to stop: less than the
# daemon waits for a run to clean up, and enough for two requests to a store that answers.
_WITHIN = 4.0


async def outlasting(writing: Coroutine[Any, Any, T], tally: Tally) -> T:
    """
    What `writing`, which stores the manifest, returns.

    A cancellation waits a few seconds for it where the manifest is on its way
    (`Tally.sending_as`), and is forgotten where it ends well. A second one does not
    wait. Where it is not known whether the manifest is stored, `sending_as` keeps its name.
    """
    # A task of its own, so that a cancellation reaches it when we say so; it never outlives this call.
    task = asyncio.create_task(writing, name="manifest")
    try:
        result = await _awaited(task, tally)
    except BaseException as error:
        causes = expected(error) or [StoreError()]
        if all(not isinstance(e, StoreError) or isinstance(e, AccessDenied | BucketUnusable) for e in causes):
            tally.sending_as = None  # it was never sent, or refused
        raise
    tally.sending_as = None
    return result


async def _awaited(task: "asyncio.Task[T]", tally: Tally) -> T:
    cancelled = await settled(task, patience=lambda: _WITHIN if tally.sending_as else 0.0, hurried=True)
    if cancelled is not None and task.cancelled():
        raise cancelled
    result = task.result()
    if cancelled is not None:
        _outlived()
    return result


@asynccontextmanager
async def leaving_calmly() -> AsyncIterator[AsyncExitStack]:
    """A stack of what a run has open; when its block has ended well, so has the run: no stop disturbs the closing."""
    async with AsyncExitStack() as stack:
        yield stack
        closing = asyncio.create_task(stack.pop_all().aclose(), name="closing")
        try:
            await outlast(closing)
        except asyncio.CancelledError:
            _outlived()
            closing.result()


class Tidied(NamedTuple):
    """When the next of all locks ends, and why the catalog is to be set aside, should it be."""

    next_lock_end: datetime | None = None
    unusable: str | None = None


async def tidied(run: RunContext) -> Tidied:
    """
    What is of no use any more is forgotten.

    The manifest is stored: whatever befalls the catalog now, the run has ended well.
    """
    tidying = asyncio.get_running_loop().run_in_executor(None, run.contents.tidy, run.terms.started)
    try:
        return Tidied(next_lock_end=await outlast(tidying))
    except asyncio.CancelledError:
        _outlived()
    except CatalogUnusable as exc:
        # Not left to the next run, which may step on nothing of the damage before its own end.
        return Tidied(unusable=str(exc))
    except SpoolError as exc:
        log.warning("catalog.untidy", reason=str(exc))
    return Tidied()


async def set_aside(config: Config, reason: str) -> None:
    """Set the catalog aside, which nothing has open any more, after a run that has ended well."""
    forgetting = asyncio.get_running_loop().run_in_executor(None, forget_all, config, reason)
    try:
        await outlast(forgetting)
    except asyncio.CancelledError:
        _outlived()
    except SpoolError as exc:
        log.warning("catalog.untidy", reason=f"{reason}; it cannot be set aside: {exc}")


def _outlived() -> None:
    """Forget that we were cancelled."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
    log.info("run.outlived", reason="it was told to stop when its manifest was stored already")
