"""
Gathering: all stages of a run side by side, in one task group.

Paths flow from pickers through a bounded channel to the examiners; small
contents to the packer, larger ones straight to the uploaders, the largest to
the streamers. Each stage closes the channel of the next when all of it has
ended well. A failure anywhere cancels everything.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice

from sysbackup.catalog.known import Catalog
from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.channel import Channel
from sysbackup.concurrency.waits import outlast
from sysbackup.config.sections import Config
from sysbackup.disk.sorting import Sorter
from sysbackup.files.owners import Owners
from sysbackup.formats import keys, manifest
from sysbackup.formats.index import Seal
from sysbackup.formats.pack import Packed
from sysbackup.model import Clock, StoredObject
from sysbackup.pipeline.examining import ALLOWANCE, Examined, Examiner, Whole
from sysbackup.pipeline.naming import Naming
from sysbackup.pipeline.packing import Packer
from sysbackup.pipeline.picking import BATCH, Batch, Picked, pick
from sysbackup.pipeline.sharing import publish
from sysbackup.pipeline.shipping import Freight, Sender, Shipment, upload_freight
from sysbackup.pipeline.snapshotting import Snapshotting
from sysbackup.pipeline.streaming import Streamer
from sysbackup.pipeline.tally import Tally
from sysbackup.programs.discovery import Program
from sysbackup.store.port import ObjectStore

# Large files stored at the same time: two keep both disk and network busy without holding parts of many.
_STREAMS = 2
# Batches of paths that may wait for a worker, and paths of large files for a streamer.
_WAITING = 32
# Pickers at work at the same time: each costs a process and pipes, and they all read the same disks.
_PICKERS = 8


# Seconds after which a run that goes on publishes what it has stored.
PUBLISH_EVERY = 300.0


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a worker that examines needs, and where it sends what it finds."""

    examiner: Examiner
    packer: Packer
    freight: Channel[Freight]
    large: Channel[bytes]
    pool: ThreadPoolExecutor


class Gathering:
    """The stages of one run and what they share."""

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        clock: Clock,
        tally: Tally,
        catalog: Catalog,
        spool: Sorter,
        names: Naming,
        seal: Seal | None,
        *,
        rescan: bool = False,
    ) -> None:
        self._seal = seal
        self._config = config
        self._store = store
        self._clock = clock
        self._tally = tally
        self._catalog = catalog
        self._spool = spool
        self._names = names
        self._owners = Owners()
        # The other half is for the interpreter, and for what is between one stage and the next.
        total = config.run.memory // 2
        # The open pack waits for contents, so nothing may wait for the bytes that it holds.
        self._pack_size = min(config.content.pack_size, total // 4)
        self._budget = Budget(total, reserve=self._pack_size)
        self._rescan = rescan
        self._stop = threading.Event()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[Sender]:
        """The pool of uploaders; ends when all that was sent has arrived."""
        async with asyncio.TaskGroup() as group:
            freight = self._uploaders(group)
            yield Sender(self._store, freight, self._budget)
            await freight.close()

    def _uploaders(self, group: asyncio.TaskGroup) -> Channel[Freight]:
        # What waits here is read and paid for from the budget already: one for each uploader is enough.
        freight: Channel[Freight] = Channel(self._config.run.uploads)
        for _ in range(self._config.run.uploads):
            group.create_task(upload_freight(freight, self._store))
        return freight

    async def gather(self, pickers: Sequence[Program], snapshotters: Sequence[Program]) -> list[manifest.Snapshot]:
        """Run every program, examine every path, store every content; returns the snapshots taken."""
        self._tally.stage = "backing up"
        snapshots: list[manifest.Snapshot] = []
        picked: list[Picked] = []
        ended = asyncio.Event()
        async with self.sending() as sender, asyncio.TaskGroup() as publishing:
            publishing.create_task(self._publish_now_and_then(sender, ended))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._store_files(sender, lambda paths: self._pick_all(pickers, paths, picked)))
                group.create_task(self._snapshot_all(sender, snapshotters, snapshots))
            self._tally.gathered = self._tally.amounts()
            self._tally.stage = "finishing"
            ended.set()
        for problem in filter(None, (each.problem for each in picked)):
            self._tally.problem(problem)
        return snapshots

    async def gather_again(self, paths: Iterable[bytes]) -> None:
        """Examine these paths, whose contents were thought to be stored and are not any more."""
        self._tally.stage = "storing again what was gone"

        async def send(channel: Channel[Batch]) -> None:
            left = iter(paths)
            while batch := await asyncio.to_thread(lambda: list(islice(left, BATCH))):
                await channel.send(Batch(batch))
            await channel.close()

        async with self.sending() as sender:
            await self._store_files(sender, send)

    async def _store_files(
        self, sender: Sender, produce: "Callable[[Channel[Batch]], Coroutine[None, None, None]]"
    ) -> None:
        """From paths to stored contents and entries in the spool; `produce` sends the paths and closes the channel."""
        paths: Channel[Batch] = Channel(_WAITING)
        large: Channel[bytes] = Channel(_WAITING)
        async with self._threads() as pool, asyncio.TaskGroup() as group:
            group.create_task(produce(paths))
            group.create_task(self._examine_all(sender.freight, pool, paths, large))
            group.create_task(self._stream_all(sender, pool, large))

    @asynccontextmanager
    async def _threads(self) -> AsyncIterator[ThreadPoolExecutor]:
        """The threads that work on files. Leaving waits for their last jobs, but does not hold up the loop."""
        pool = ThreadPoolExecutor(self._config.run.workers, "sysbackup")
        try:
            yield pool
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(pool.shutdown)

    async def _publish_now_and_then(self, sender: Sender, ended: asyncio.Event) -> None:
        """While a long run goes on, tell the others what is stored: an interrupted one is not lost to them."""
        number = 0
        while True:
            try:
                async with asyncio.timeout(PUBLISH_EVERY):
                    await ended.wait()
            except TimeoutError:
                number += 1
                await publish(sender, self._catalog, self._names, self._tally, self._seal, number)
            else:
                return

    async def _pick_all(self, pickers: Sequence[Program], paths: Channel[Batch], picked: list[Picked]) -> None:
        turns = asyncio.Semaphore(_PICKERS)

        async def in_turn(program: Program) -> None:
            async with turns:
                picked.append(await pick(program, paths, self._tally, self._config.run.picker_idle_limit))

        async with asyncio.TaskGroup() as group:
            for program in pickers:
                group.create_task(in_turn(program))
        await paths.close()

    async def _examine_all(
        self,
        freight: Channel[Freight],
        pool: ThreadPoolExecutor,
        paths: Channel[Batch],
        large: Channel[bytes],
    ) -> None:
        content = self._config.content
        examiner = Examiner(
            self._catalog,
            self._spool,
            self._owners,
            content.pack_below,
            content.lock_timeout,
            self._stop,
            rescan=self._rescan,
        )
        packer = Packer(freight, self._catalog, self._budget, self._names.contents, self._pack_size, self._tally)
        async with asyncio.TaskGroup() as group:
            # One more than threads: the next job is ready when a thread is.
            for _ in range(self._config.run.workers + 1):
                group.create_task(self._examine(_Stage(examiner, packer, freight, large, pool), paths))
        await packer.flush()
        await large.close()

    async def _examine(self, stage: "_Stage", paths: Channel[Batch]) -> None:
        """One worker: takes batches, has them examined in a thread, sends on what is to be stored."""
        loop = asyncio.get_running_loop()
        async for batch in paths:
            todo = batch.paths
            allowance = ALLOWANCE
            while todo:
                self._tally.reading(todo[0])
                hold = await self._budget.take(allowance)
                try:
                    found = await outlast(
                        loop.run_in_executor(stage.pool, stage.examiner.examine, todo, allowance),
                        told=self._stop.set,
                    )
                except BaseException:
                    hold.release()
                    raise
                hold.shrink(found.held)
                if batch.picked is not None and todo is batch.paths:
                    gone = set(found.vanished)
                    batch.picked.missing += sum(path in gone for path in todo)
                await self._send_on(found, hold, stage)
                todo = [path for path, _ in found.later]
                allowance = max(ALLOWANCE, found.later[0][1]) if found.later else ALLOWANCE

    async def _send_on(self, found: Examined, hold: Hold, stage: "_Stage") -> None:
        tally = self._tally
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
        for whole in found.whole:
            tally.sending += 1
            await stage.freight.send(self._shipment(whole, hold.split(len(whole.body))))
        if found.small:
            await stage.packer.add(found.small, hold)
        hold.release()
        for path in found.large:
            await stage.large.send(path)

    def _shipment(self, whole: Whole, hold: Hold) -> Shipment:
        contents, encoding = [Packed(whole.sha, 0, 0, whole.size)], whole.encoding

        async def confirmed(stored: StoredObject) -> None:
            await asyncio.to_thread(self._catalog.confirm, stored, encoding, contents)
            self._tally.sending -= 1
            self._tally.stored(stored, plain=contents[0].size)

        return Shipment(
            keys.content_key(whole.sha),
            whole.body,
            self._names.contents,
            hold,
            confirmed,
            metadata={keys.ENCODING: whole.encoding} if whole.encoding else {},
            sha256=None if whole.encoding else whole.sha,
        )

    async def _stream_all(self, sender: Sender, pool: ThreadPoolExecutor, large: Channel[bytes]) -> None:
        streamer = Streamer(
            sender,
            self._catalog,
            self._spool,
            self._owners,
            self._tally,
            pool,
            self._names,
            self._config.content.lock_timeout,
            clock=self._clock,
            stop=self._stop,
        )

        async def stream() -> None:
            async for path in large:
                await streamer.store(path)

        async with asyncio.TaskGroup() as group:
            for _ in range(_STREAMS):
                group.create_task(stream())

    async def _snapshot_all(
        self, sender: Sender, snapshotters: Sequence[Program], taken: list[manifest.Snapshot]
    ) -> None:
        run = self._config.run
        snapshotting = Snapshotting(
            sender,
            self._tally,
            self._names,
            self._clock,
            self._config.cache,
            run.spool_limit,
            run.snapshot_idle_limit,
        )
        turns = asyncio.Semaphore(run.snapshots_at_once)

        async def in_turn(program: Program) -> None:
            async with turns:
                snapshot = await snapshotting.take(program)
                if snapshot is not None:
                    taken.append(snapshot)

        async with asyncio.TaskGroup() as group:
            for program in snapshotters:
                group.create_task(in_turn(program))
