"""
Examining: batches of paths go to examiners, what these find is counted and sent on.

A small run has one examiner, in a thread. Where more paths wait, processes
take over, one after another and as many as `workers`: looking at files, reading,
hashing and compressing cost most of a run's processor time, and threads would pass
the interpreter's lock to and fro.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import structlog

from sysbackup.concurrency import pointer
from sysbackup.concurrency.channel import Channel
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.contents.content_store import Seen
from sysbackup.contents.keeping import Keeper
from sysbackup.errors import ProgramError
from sysbackup.model import Problem, shown
from sysbackup.pipeline.examiner_messages import Done, Examine, Merge, Merged, SetDown
from sysbackup.pipeline.merging import Range, Runs, ranges, within
from sysbackup.pipeline.picking import BATCH, Batch
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.seats import Lost, Seat

log = structlog.get_logger()

# So many paths must wait before another process is started: it costs what some hundred files do.
CROWD = 2 * BATCH

# Processes that may end over one range of the manifest.
_TRIES = 10

# Files whose states wait to be written down together.
_NOTED = 5000

# Seconds between two looks at what examiners look at, and after how many of them a file is said to hang.
WATCH_EVERY = 10.0
HANGING = 6


class Examiners:
    """All seats of a run, made by `examiners`."""

    def __init__(self, run: RunContext, seats: Sequence[Seat]) -> None:
        self._run = run
        self._seats = seats
        self._crowded = False
        self._seen = Seen([], [], [])
        self._noted = 0

    async def examine_all(
        self, keeper: Keeper, paths: Channel[Batch], large: Channel[bytes], *, anew: bool = False
    ) -> None:
        """
        Examine what comes, and store what is new of it; closes `large`, which gets the paths of large files.

        `anew`: what was thought to be stored is not, or is not to stay.
        """
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            async with asyncio.TaskGroup() as working:
                working.create_task(self._work(self._seats[0], keeper, paths, large, anew=anew))
                working.create_task(self._grow(working, keeper, paths, large, anew=anew))
            async with asyncio.TaskGroup() as ending:
                for seat in self._taken:
                    ending.create_task(self._set_down(seat, keeper))
            watching.cancel()
        await self._note(least=1)
        await large.close()

    @property
    def _taken(self) -> list[Seat]:
        return [seat for seat in self._seats if seat.taken]

    async def _grow(
        self,
        working: asyncio.TaskGroup,
        keeper: Keeper,
        paths: Channel[Batch],
        large: Channel[bytes],
        *,
        anew: bool,
    ) -> None:
        """Let more and more examiners begin, while many paths wait."""

        def crowd(waiting: Collection[Batch]) -> bool:
            return sum(len(batch.paths) for batch in waiting) >= CROWD

        for seat in self._seats[1:]:
            if not await paths.until(crowd):
                return
            self._crowded = True
            if not seat.taken:
                await seat.take(process=True)
            working.create_task(self._work(seat, keeper, paths, large, anew=anew))
        self._crowded = self._crowded or await paths.until(crowd)

    async def _work(
        self, seat: Seat, keeper: Keeper, paths: Channel[Batch], large: Channel[bytes], *, anew: bool
    ) -> None:
        async for batch in paths:
            if seat.in_thread and self._crowded:
                await seat.leave()
            if not seat.taken:
                await seat.take(process=self._crowded or len(batch.paths) >= CROWD)
            self._run.tally.reading(batch.paths[0])
            await self._examine(seat, keeper, batch, large, anew=anew)

    async def _examine(self, seat: Seat, keeper: Keeper, batch: Batch, large: Channel[bytes], *, anew: bool) -> None:
        """
        Have one batch examined.

        Where that is an examiner's end, another does it again, then path by path:
        what ends two of them by itself is a problem of the run.
        """
        todo = deque([(batch.paths, 0)])
        while todo:
            paths, lost = todo.popleft()
            job = Examine(next(self._run.looks), b"\0".join(paths), self._run.tally.rescan or anew, anew)
            try:
                with self._run.contents.claims.looking() as begun:
                    done = await seat.job(job, keeper, begun)
            except Lost as exc:
                await self._replace(seat, exc, paths)
                if not lost:
                    todo.appendleft((paths, 1))
                elif len(paths) > 1:
                    todo.extendleft(([path], 0) for path in reversed(paths))
                else:
                    reason = f"looking at it ended the process that did so, twice ({exc})"
                    self._run.tally.problem(Problem("file.unexaminable", paths[0], reason))
                continue
            assert isinstance(done, Done)
            if batch.picked is not None:
                gone = set(done.vanished)
                batch.picked.missing += sum(path in gone for path in paths)
            await self._count(done, large)

    async def _replace(self, seat: Seat, lost: Lost, paths: Sequence[bytes] = ()) -> None:
        log.warning(
            "examiner.lost",
            examiner=seat.number + 1,
            reason=str(lost),
            path=shown(seat.looked_at or (paths[0] if paths else b"")),
            hint="another one takes its place, and does again what it was at",
        )
        await seat.leave()
        await seat.take(process=True)

    async def _count(self, done: Done, large: Channel[bytes]) -> None:
        tally = self._run.tally
        tally.files += done.files
        tally.bytes_read += done.bytes_read
        tally.bytes_unchanged += done.bytes_unchanged
        tally.sockets += done.sockets
        for event, source, reason in done.problems:
            tally.problem(Problem(event, source, reason))
        for path in done.vanished:
            tally.vanished(path)
        for path, warning in done.warned:
            tally.warned(path, [warning])
        self._seen.states.append(done.states)
        self._seen.met.extend(done.met)
        self._seen.used.append(done.used)
        self._noted += done.files
        await self._note(least=_NOTED)
        for path in done.large:
            await large.send(path)

    async def _note(self, least: int) -> None:
        """Write down what was found out about files, where that is much."""
        if self._noted >= least:
            seen, self._seen, self._noted = self._seen, Seen([], [], []), 0
            await asyncio.to_thread(self._run.contents.remember, seen)

    async def _set_down(self, seat: Seat, keeper: Keeper) -> None:
        while True:
            try:
                await seat.job(SetDown(), keeper, self._run.contents.claims.now)
            except Lost as exc:
                await self._replace(seat, exc)
            else:
                return

    async def _watch(self) -> None:
        """Name the files that examiners do not get on with."""
        before: dict[int, tuple[bytes, int]] = {}
        while True:
            await asyncio.sleep(WATCH_EVERY)
            for seat in self._taken:
                path = seat.looked_at
                known, looks = before.get(seat.number, (b"", 0))
                looks = looks + 1 if path and path == known else 0
                before[seat.number] = path, looks
                if looks == HANGING:
                    log.warning("file.hangs", path=shown(path), examiner=seat.number + 1, seconds=HANGING * WATCH_EVERY)
                if looks >= HANGING:
                    self._run.tally.reading(path)

    @asynccontextmanager
    async def merged(self) -> AsyncIterator[AsyncIterator[tuple[int, Merged]]]:
        """The members of the manifest, in order, by ranges of paths; each with the seat whose file has them."""
        runs = self._run.spool.runs()
        seats = self._taken or [self._seats[0]]
        idle: asyncio.Queue[Seat] = asyncio.Queue()
        for seat in seats:
            idle.put_nowait(seat)
        ready: Channel[asyncio.Task[tuple[int, Merged]]] = Channel(2 * len(seats))

        async def begin_all(group: asyncio.TaskGroup) -> None:
            for each in ranges(runs):
                await ready.send(group.create_task(self._merge(idle, runs, each)))
            await ready.close()

        async def in_order() -> AsyncIterator[tuple[int, Merged]]:
            async for task in ready:
                yield await task

        async with asyncio.TaskGroup() as group:
            beginning = group.create_task(begin_all(group))
            yield in_order()
            beginning.cancel()

    async def _merge(self, idle: "asyncio.Queue[Seat]", runs: Runs, each: Range) -> tuple[int, Merged]:
        seat = await idle.get()
        try:
            if not seat.taken:
                await seat.take(process=False)
            job = Merge(each.begin, each.end, within(runs, each), not self._run.contents.gaps)
            for attempt in range(1, _TRIES + 1):
                try:
                    done = await seat.job(job, None, 0)
                except Lost as exc:
                    await self._replace(seat, exc)
                    if attempt == _TRIES:
                        raise ProgramError(f"the process that writes the manifest ended each time: {exc}") from exc
                else:
                    assert isinstance(done, Merged)
                    return seat.number, done
            raise AssertionError  # the last try returns or raises
        finally:
            idle.put_nowait(seat)


@asynccontextmanager
async def examiners(run: RunContext) -> AsyncIterator[Examiners]:
    """The examiners of a run; all of them have ended when this is left."""
    seats: list[Seat] = []
    workers = run.config.run.workers
    with SharedSlots(workers + 1, pointer.SIZE) as cells:
        try:
            seats += (Seat(number, run, cells) for number in range(workers))
            yield Examiners(run, seats)
        except BaseException:
            for seat in seats:
                seat.kill()
            raise
        finally:
            async with asyncio.TaskGroup() as leaving:
                for seat in seats:
                    leaving.create_task(seat.leave())
