"""
Gathering: all stages of a run side by side, in one task group.

Paths flow from pickers through a bounded channel to the examiners; packs and
contents of their own from these to the uploaders, the paths of the largest files to
the streamers. Each stage closes the channel of the next when all of it has
ended well. A failure anywhere cancels everything.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice

from sysbackup.concurrency.channel import Channel
from sysbackup.contents.keeping import Keeper
from sysbackup.pipeline.examining import Examiners
from sysbackup.pipeline.picking import BATCH, Batch, Picked, pick_all
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.snapshotting import Snapshots
from sysbackup.pipeline.streaming import stream_all
from sysbackup.pipeline.tally import Stage
from sysbackup.programs.discovery import Program

# Batches of paths that may wait for a worker, and paths of large files for a streamer.
_WAITING = 16

# Seconds after which a run that goes on publishes what it has stored.
PUBLISH_EVERY = 300.0

Paths = Channel[Batch]


async def gather(
    run: RunContext,
    examiners: Examiners,
    pickers: Sequence[Program],
    snapshotters: Sequence[Program],
    snapshots: Snapshots,
) -> None:
    """Run every program, examine every path, store every content."""
    run.tally.stage = Stage.BACKING_UP
    picked: list[Picked] = []
    ended = asyncio.Event()
    async with run.contents.keeping() as keeper, asyncio.TaskGroup() as publishing:
        publishing.create_task(_publish_now_and_then(run, keeper, ended))
        async with asyncio.TaskGroup() as group:
            group.create_task(_keep_files(run, keeper, examiners, lambda paths: pick_all(run, pickers, paths, picked)))
            group.create_task(snapshots.take_all(keeper, snapshotters))
        run.tally.gathered = run.tally.counts()
        run.tally.stage = Stage.FINISHING
        ended.set()
    for problem in filter(None, (each.problem for each in picked)):
        run.tally.problem(problem)


async def gather_again(run: RunContext, examiners: Examiners, paths: Iterable[bytes], snapshots: Snapshots) -> None:
    """Examine these paths, whose contents were thought to be stored and are not any more; and take such snapshots."""
    run.tally.stage = Stage.STORING_AGAIN

    async def send(channel: Paths) -> None:
        left = iter(paths)
        while batch := await asyncio.to_thread(lambda: list(islice(left, BATCH))):
            await channel.send(Batch(batch))
        await channel.close()

    lost = await snapshots.lost()
    async with run.contents.keeping() as keeper, asyncio.TaskGroup() as group:
        group.create_task(_keep_files(run, keeper, examiners, send, anew=True))
        group.create_task(snapshots.take_all(keeper, lost))


async def _publish_now_and_then(run: RunContext, keeper: Keeper, ended: asyncio.Event) -> None:
    """While a long run goes on, tell the others what is stored: an interrupted one is not lost to them."""
    number = 0
    while True:
        try:
            async with asyncio.timeout(PUBLISH_EVERY):
                await ended.wait()
        except TimeoutError:
            number += 1
            await run.contents.publish(keeper, number)
        else:
            return


async def _keep_files(
    run: RunContext,
    keeper: Keeper,
    examiners: Examiners,
    produce: "Callable[[Paths], Coroutine[None, None, None]]",
    *,
    anew: bool = False,
) -> None:
    """From paths to stored contents and entries in the spool; `produce` sends the paths and closes the channel."""
    paths: Paths = Channel(_WAITING)
    large: Channel[bytes] = Channel(_WAITING)
    async with _threads(run) as pool, asyncio.TaskGroup() as group:
        group.create_task(produce(paths))
        group.create_task(examiners.examine_all(keeper, paths, large, anew=anew))
        group.create_task(stream_all(run, keeper, pool, large))
    await asyncio.to_thread(run.spool.set_down)


@asynccontextmanager
async def _threads(run: RunContext) -> AsyncIterator[ThreadPoolExecutor]:
    """The threads that read large files. Leaving waits for their last jobs, but does not hold up the loop."""
    pool = ThreadPoolExecutor(run.config.run.workers, "sysbackup")
    try:
        yield pool
    except BaseException:
        run.stop.set()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(pool.shutdown)
