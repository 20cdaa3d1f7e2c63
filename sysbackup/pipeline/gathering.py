"""
Gathering: all stages of a run side by side, in one task group.

Paths flow from pickers through a bounded channel to the examiners; small
contents to the packer, larger ones straight to the uploaders, the largest to
the streamers. Each stage closes the channel of the next when all of it has
ended well. A failure anywhere cancels everything.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from sysbackup.catalog.known import Catalog
from sysbackup.config import Config
from sysbackup.formats import keys, manifest
from sysbackup.formats.pack import Packed
from sysbackup.model import Clock, StoredObject
from sysbackup.pipeline.budget import Budget, Hold
from sysbackup.pipeline.channel import Channel
from sysbackup.pipeline.examining import ALLOWANCE, Examined, Examiner, Whole
from sysbackup.pipeline.naming import Naming
from sysbackup.pipeline.packing import Packer
from sysbackup.pipeline.picking import pick
from sysbackup.pipeline.report import Tally
from sysbackup.pipeline.shipping import Freight, Sender, Shipment, upload_freight
from sysbackup.pipeline.snapshotting import Snapshotting
from sysbackup.pipeline.streaming import Streamer
from sysbackup.sources.owners import Owners
from sysbackup.sources.programs import Program
from sysbackup.sources.sorting import Sorter
from sysbackup.store.port import ObjectStore

# Large files stored at the same time: two keep both disk and network busy without holding parts of many.
_STREAMS = 2
# Batches of paths that may wait for a worker, and paths of large files for a streamer.
_WAITING = 32
# Pickers at work at the same time: each costs a process and pipes, and they all read the same disks.
_PICKERS = 8


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
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._tally = tally
        self._catalog = catalog
        self._spool = spool
        self._names = names
        self._owners = Owners()
        self._budget = Budget(config.run.memory // 2)
        self._paths: Channel[list[bytes]] = Channel(_WAITING)
        self._large: Channel[bytes] = Channel(_WAITING)

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
        workers = self._config.run.workers
        snapshots: list[manifest.Snapshot] = []
        with ThreadPoolExecutor(workers, "sysbackup") as pool:
            async with self.sending() as sender, asyncio.TaskGroup() as group:
                group.create_task(self._pick_all(pickers))
                group.create_task(self._examine_all(sender.freight, pool, workers + 1))
                group.create_task(self._stream_all(sender, pool))
                group.create_task(self._snapshot_all(sender, snapshotters, snapshots))
        return snapshots

    async def _pick_all(self, pickers: Sequence[Program]) -> None:
        turns = asyncio.Semaphore(_PICKERS)

        async def in_turn(program: Program) -> None:
            async with turns:
                await pick(program, self._paths, self._tally, self._config.run.picker_idle_limit)

        async with asyncio.TaskGroup() as group:
            for program in pickers:
                group.create_task(in_turn(program))
        await self._paths.close()

    async def _examine_all(self, freight: Channel[Freight], pool: ThreadPoolExecutor, workers: int) -> None:
        content = self._config.content
        examiner = Examiner(self._catalog, self._spool, self._owners, content.pack_below, content.lock_timeout)
        packer = Packer(freight, self._catalog, self._budget, self._names.contents, content.pack_size, self._tally)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._examine(examiner, packer, freight, pool))
        await packer.flush()
        await self._large.close()

    async def _examine(
        self, examiner: Examiner, packer: Packer, freight: Channel[Freight], pool: ThreadPoolExecutor
    ) -> None:
        """One worker: takes batches, has them examined in a thread, sends on what is to be stored."""
        loop = asyncio.get_running_loop()
        async for batch in self._paths:
            todo = batch
            allowance = ALLOWANCE
            while todo:
                self._tally.reading(todo[0])
                hold = await self._budget.take(allowance)
                try:
                    found = await loop.run_in_executor(pool, examiner.examine, todo, allowance)
                except BaseException:
                    hold.release()
                    raise
                hold.shrink(found.held)
                await self._send_on(found, hold, packer, freight)
                todo = [path for path, _ in found.later]
                allowance = max(ALLOWANCE, found.later[0][1]) if found.later else ALLOWANCE

    async def _send_on(self, found: Examined, hold: Hold, packer: Packer, freight: Channel[Freight]) -> None:
        tally = self._tally
        tally.files += found.files
        tally.bytes_read += found.bytes_read
        tally.sockets += found.sockets
        for problem in found.problems:
            tally.problem(problem)
        for path, warning in found.warned:
            tally.warned(path, [warning])
        for whole in found.whole:
            await freight.send(self._shipment(whole, hold.split(len(whole.body))))
        if found.small:
            await packer.add(found.small, hold)
        hold.release()
        for path in found.large:
            await self._large.send(path)

    def _shipment(self, whole: Whole, hold: Hold) -> Shipment:
        contents, encoding = [Packed(whole.sha, 0, 0, whole.size)], whole.encoding

        async def confirmed(stored: StoredObject) -> None:
            await asyncio.to_thread(self._catalog.confirm, stored, encoding, contents)
            self._tally.stored(stored)

        return Shipment(
            keys.content_key(whole.sha),
            whole.body,
            self._names.contents,
            hold,
            confirmed,
            metadata={keys.ENCODING: whole.encoding} if whole.encoding else {},
            sha256=None if whole.encoding else whole.sha,
        )

    async def _stream_all(self, sender: Sender, pool: ThreadPoolExecutor) -> None:
        streamer = Streamer(
            sender,
            self._catalog,
            self._spool,
            self._owners,
            self._tally,
            pool,
            self._names,
            self._config.content.lock_timeout,
        )

        async def stream() -> None:
            async for path in self._large:
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
