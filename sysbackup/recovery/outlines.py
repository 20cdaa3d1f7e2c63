"""
What manifests say of themselves, read from their two ends: whose, until when promised, how much, how it ended.

What is between the ends is not looked at: a restore may still find it damaged.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sysbackup.errors import AccessDenied, FormatError, StoreError, StoreUnavailable
from sysbackup.formats.ends import end_in, ends
from sysbackup.formats.manifest import End, RunHeader
from sysbackup.recovery import stored_runs
from sysbackup.recovery.judging import StoredRun
from sysbackup.store.port import ObjectStore

_AT_ONCE = 8

# A manifest of this size is read at once.
_WHOLE = 64 << 10
# The last line of a larger one is in these last bytes; one that older versions wrote cannot be read from its end.
_TAIL = 2 << 10


@dataclass(frozen=True, slots=True)
class Outline:
    """
    What one manifest says of itself; `trouble` says why it cannot be known, or not all.

    `end` is None where the manifest is large and of an older version, too.
    `denied`: we may not read it.
    """

    header: RunHeader | None = None
    end: End | None = None
    trouble: str | None = None
    denied: bool = False


async def outlines(store: ObjectStore, runs: Sequence[StoredRun]) -> list[Outline]:
    """
    The outlines of these runs, each by its `used` version, in their order; one or two small reads for each.

    What is called damaged was read twice, for it may have been its way. What is
    wrong with one manifest costs that one alone. `StoreUnavailable` where the store
    is gone.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(run: StoredRun) -> Outline:
        async with slots:
            try:
                return await _outline(store, run)
            except StoreUnavailable:
                raise
            except AccessDenied as exc:
                return Outline(trouble=str(exc), denied=True)
            except (FormatError, StoreError) as exc:
                return Outline(trouble=str(exc))

    async with asyncio.TaskGroup() as group:
        found = [group.create_task(one(run)) for run in runs]
    return [task.result() for task in found]


async def _outline(store: ObjectStore, run: StoredRun) -> Outline:
    if run.size > _WHOLE:
        header = await stored_runs.header(store, run)
        return _believed(header, end_in(await _bytes(store, run, run.size - _TAIL, _TAIL)))
    try:
        return await _whole(store, run)
    except FormatError:
        return await _whole(store, run)  # the bytes may have been damaged on their way


async def _whole(store: ObjectStore, run: StoredRun) -> Outline:
    header, end = await asyncio.to_thread(ends, await _bytes(store, run, 0, run.size))
    stored_runs.check(header, run)
    return _believed(header, end)


def _believed(header: RunHeader, end: End | None) -> Outline:
    """JSON knows no largest number, terminals do, and nobody has so many bytes."""
    if end is not None and any(not 0 <= number < 1 << 63 for number in (*end.counts.values(), end.bytes, end.problems)):
        return Outline(header, trouble="its last line has numbers that cannot be")
    return Outline(header, end)


async def _bytes(store: ObjectStore, run: StoredRun, start: int, length: int) -> bytes:
    data = bytearray()
    async with aclosing(store.read(run.key, run.version, start, length)) as chunks:
        async for chunk in chunks:
            data += chunk
    return bytes(data)
