"""
Gathering: all stages of a run side by side, in one task group.

Paths flow from pickers through a bounded channel to the examiners; small
contents to packs, larger ones straight to the uploaders, the largest to
the streamers. Each stage closes the channel of the next when all of it has
ended well. A failure anywhere cancels everything.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice

from sysbackup.concurrency.budget import Hold
from sysbackup.concurrency.channel import Channel
from sysbackup.concurrency.waits import outlast
from sysbackup.contents.keeping import Keeper
from sysbackup.formats import manifest
from sysbackup.pipeline.examining import Examined, Examiner
from sysbackup.pipeline.looking import ALLOWANCE
from sysbackup.pipeline.picking import BATCH, Batch, Picked, pick_all
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.snapshotting import snapshot_all
from sysbackup.pipeline.streaming import stream_all
from sysbackup.pipeline.tally import Stage
from sysbackup.programs.discovery import Program

# Batches of paths that may wait for a worker, and paths of large files for a streamer.
_WAITING = 32

# Seconds after which a run that goes on publishes what it has stored.
PUBLISH_EVERY = 300.0

Paths = Channel[Batch]


async def gather(
    run: RunContext, pickers: Sequence[Program], snapshotters: Sequence[Program]
) -> list[manifest.Snapshot]:
    """Run every program, examine every path, store every content; returns the snapshots taken."""
    run.tally.stage = Stage.BACKING_UP
    snapshots: list[manifest.Snapshot] = []
    picked: list[Picked] = []
    ended = asyncio.Event()
    async with run.contents.keeping() as keeper, asyncio.TaskGroup() as publishing:
        publishing.create_task(_publish_now_and_then(run, keeper, ended))
        async with asyncio.TaskGroup() as group:
            group.create_task(_keep_files(run, keeper, lambda paths: pick_all(run, pickers, paths, picked)))
            group.create_task(snapshot_all(run, keeper.sender, snapshotters, snapshots))
        run.tally.gathered = run.tally.counts()
        run.tally.stage = Stage.FINISHING
        ended.set()
    for problem in filter(None, (each.problem for each in picked)):
        run.tally.problem(problem)
    return snapshots


async def gather_again(run: RunContext, paths: Iterable[bytes]) -> None:
    """Examine these paths, whose contents were thought to be stored and are not any more."""
    run.tally.stage = Stage.STORING_AGAIN

    async def send(channel: Paths) -> None:
        left = iter(paths)
        while batch := await asyncio.to_thread(lambda: list(islice(left, BATCH))):
            await channel.send(Batch(batch))
        await channel.close()

    async with run.contents.keeping() as keeper:
        await _keep_files(run, keeper, send)


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
    run: RunContext, keeper: Keeper, produce: "Callable[[Paths], Coroutine[None, None, None]]"
) -> None:
    """From paths to stored contents and entries in the spool; `produce` sends the paths and closes the channel."""
    paths: Paths = Channel(_WAITING)
    large: Channel[bytes] = Channel(_WAITING)
    async with _threads(run) as pool, asyncio.TaskGroup() as group:
        group.create_task(produce(paths))
        group.create_task(_examine_all(run, keeper, pool, paths, large))
        group.create_task(stream_all(run, keeper, pool, large))


@asynccontextmanager
async def _threads(run: RunContext) -> AsyncIterator[ThreadPoolExecutor]:
    """The threads that work on files. Leaving waits for their last jobs, but does not hold up the loop."""
    pool = ThreadPoolExecutor(run.config.run.workers, "sysbackup")
    try:
        yield pool
    except BaseException:
        run.stop.set()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(pool.shutdown)


async def _examine_all(
    run: RunContext, keeper: Keeper, pool: ThreadPoolExecutor, paths: Paths, large: Channel[bytes]
) -> None:
    """Examine batches in threads; closes `large` behind the last."""
    lock_timeout = run.config.content.lock_timeout
    examiner = Examiner(run.contents, run.spool, run.owners, lock_timeout, run.stop, rescan=run.tally.rescan)

    async def examine() -> None:
        async for batch in paths:
            await _examine(run, keeper, examiner, pool, batch, large)

    async with asyncio.TaskGroup() as group:
        # One more than threads: the next job is ready when a thread is.
        for _ in range(run.config.run.workers + 1):
            group.create_task(examine())
    await keeper.flush()
    await large.close()


async def _examine(
    run: RunContext,
    keeper: Keeper,
    examiner: Examiner,
    pool: ThreadPoolExecutor,
    batch: Batch,
    large: Channel[bytes],
) -> None:
    """Have one batch examined in a thread, as often as it takes, and send on what is to be stored."""
    loop = asyncio.get_running_loop()
    todo = batch.paths
    allowance = ALLOWANCE
    while todo:
        run.tally.reading(todo[0])
        hold = await run.contents.budget.take(allowance)
        try:
            examined = await outlast(loop.run_in_executor(pool, examiner.examine, todo, allowance), told=run.stop.set)
        except BaseException:
            hold.release()
            raise
        found = examined.found
        if batch.picked is not None and todo is batch.paths:
            gone = set(found.vanished)
            batch.picked.missing += sum(path in gone for path in todo)
        await _send_on(run, keeper, examined, hold, large)
        todo = [path for path, _ in found.later]
        allowance = max(ALLOWANCE, found.later[0][1]) if found.later else ALLOWANCE


async def _send_on(run: RunContext, keeper: Keeper, examined: Examined, hold: Hold, large: Channel[bytes]) -> None:
    """Count what was found, and hand on what is to be stored; `hold` has its bytes."""
    found, tally = examined.found, run.tally
    hold.shrink(examined.chosen.held)
    tally.files += found.files
    tally.bytes_read += found.bytes_read
    tally.bytes_unchanged += found.bytes_unchanged
    tally.sockets += found.sockets
    for problem in found.problems:
        tally.problem(problem)
    for path in found.vanished:
        tally.vanished(path)
    for path, warning in found.warned:
        tally.warned(path, [warning])
    await keeper.keep(examined.chosen, hold)
    for path in found.large:
        await large.send(path)
