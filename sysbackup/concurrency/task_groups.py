"""Tasks that fail with one error."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sysbackup.errors import foremost


@asynccontextmanager
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that fails with one error; see `one_error`."""
    with one_error():
        async with asyncio.TaskGroup() as group:
            yield group


@contextmanager
def one_error() -> Iterator[None]:
    """What comes out of here as a group of errors is raised as the `foremost` of them, the group its cause."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise foremost(group) from group
