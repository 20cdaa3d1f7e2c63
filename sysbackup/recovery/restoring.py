"""
Putting files back: from a run's manifest to a tree beneath a target directory.

First the manifest is read, all of it or what is asked for. Then directories are
made, closed to everybody else; then files in the order of the objects that hold
them, then links and devices, and last the directories get their owners, rights
and times.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial

from sysbackup.concurrency.budget import Budget
from sysbackup.concurrency.flag import Flag
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.concurrency.threads import Threads
from sysbackup.errors import SysbackupError
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import holds_something, open_target
from sysbackup.model import Problem
from sysbackup.programs.pool import ProcessPool
from sysbackup.recovery.fetches import RANGE
from sysbackup.recovery.fetching import Fetcher
from sysbackup.recovery.judging import StoredRun
from sysbackup.recovery.placing import placing_in
from sysbackup.recovery.placing_helper import Order
from sysbackup.recovery.placing_processes import by_caller, by_processes, placing_pool
from sysbackup.recovery.planning import Plan
from sysbackup.recovery.restore_report import EVENT, Counts, Options, Outcome, Report, RestoreWatcher, Silent
from sysbackup.recovery.selecting import Selection
from sysbackup.recovery.skeleton import Skeleton
from sysbackup.recovery.stored_runs import batches
from sysbackup.store.port import ObjectStore

_ENTRY = 64  # bytes of a manifest in which there is a file, or more than one
_STREAMS = 2  # threads for large contents: hashing and unpacking them leaves the interpreter to others


async def restore(
    store: ObjectStore,
    run: StoredRun,
    paths: Sequence[bytes],
    target: bytes,
    options: Options | None = None,
    progress: RestoreWatcher | None = None,
) -> Report:
    """
    Restore what `paths` select (nothing: all) of a run beneath `target`.

    One damaged, missing or denied object costs its files alone: they are
    problems of the report. `FormatError` where the manifest is damaged, and
    `RestoreError` where the target cannot be used: then nothing was written.
    `StoreUnavailable`, `AccessDenied` where the store ends it all; what had been
    restored by then is whole and stays.
    """
    options = options or Options()
    selection = Selection(paths)
    with ExitStack() as stack:
        stop = stack.enter_context(Flag())
        planner = stack.enter_context(Threads(1, stop))
        plan = stack.enter_context(Plan(selection, options.spool))
        wanted = selection.stretches(above=True)
        # helpers that will surely be needed start while the manifest is read
        pool = None
        if wanted is None and run.size >= options.many * _ENTRY and (workers := options.helpers):
            pool = stack.enter_context(placing_pool(workers, stop))
        async with aclosing(batches(store, run, options.spool, wanted)) as entries:
            async for batch in entries:
                await planner.run(plan.take, batch)
        fd, made = await planner.run(open_target, target)
        stack.callback(os.close, fd)
        job = _Restore(plan, fd, options, progress or Silent(), stop, pool)
        for path in selection.unmatched:
            job.unmatched(path)
        await job.run(store, planner, target_made=made)
        return job.report()


class _Restore:
    """One restore, from its plan on."""

    def __init__(
        self,
        plan: Plan,
        root: int,
        options: Options,
        progress: RestoreWatcher,
        stop: Flag,
        pool: ProcessPool | None,
    ) -> None:
        self._plan = plan
        self._root = root
        self._options = options
        self._progress = progress
        self._stop = stop
        self._pool = pool
        self._outcome = Outcome()
        self._owners = Owners(numeric=options.numeric_owner)

    async def run(self, store: ObjectStore, planner: Threads, *, target_made: bool) -> None:
        """Do it all. Directories get their rights even where the store ended the rest."""
        self._progress.planned(self._plan.files, self._plan.bytes)
        self._took(self._plan.outcome)
        overwrite = self._options.overwrite
        looks = not target_made and await planner.run(holds_something, self._root)
        with (
            Threads(_STREAMS, self._stop) as threads,
            Skeleton(self._root, self._owners, self._stop, self._options.spool, overwrite=overwrite) as skeleton,
        ):
            make = partial(skeleton.make_directories, self._plan.directories(), target_made=target_made)
            try:
                # its processes start while directories are made
                with self._fetching(store, threads, looks=looks) as fetcher:
                    await planner.run(make)
                    await fetcher.bring(self._plan.fetches(), planner)
                await planner.run(skeleton.make_others, self._plan.others())
            except SysbackupError:
                self._stop.clear()  # it stopped the other reads; what is there gets its rights all the same
                await planner.run(skeleton.finish)
                raise
            await planner.run(skeleton.finish)
            self._took(skeleton.outcome)

    @contextmanager
    def _fetching(self, store: ObjectStore, threads: Threads, *, looks: bool) -> Iterator[Fetcher]:
        """What brings contents. Processes of our own place them where there are many, a thread where there are few."""
        options = self._options
        placer = partial(placing_in, self._root, self._owners, self._stop, overwrite=options.overwrite)
        with ExitStack() as stack:
            target = by_caller(placer)
            writers = 1
            pool = self._pool
            if pool is None and options.helpers and self._plan.files >= options.many:
                pool = stack.enter_context(placing_pool(options.helpers, self._stop))
            if pool is not None:
                writers = pool.number
                slots = stack.enter_context(SharedSlots(options.fetches, RANGE))
                order = Order(options.overwrite, options.numeric_owner)
                target = by_processes(pool, order, self._root, slots, options.memory)
            placing = stack.enter_context(Threads(writers, self._stop))
            memory = Budget(options.memory)
            yield Fetcher(
                store, threads, placing, placer, target, self._took, memory, at_once=options.fetches, looks=looks
            )

    def unmatched(self, path: bytes) -> None:
        """Note that a path asked for is not in the run."""
        self._tell(Problem(EVENT, path, "the run holds no such path"))

    def report(self) -> Report:
        """What came of it. For root, what could not be set is a problem; others were told beforehand."""
        done = self._outcome
        problems = list(done.problems)
        warnings = []
        for sentence, lack in done.shortfalls.items():
            if os.geteuid() == 0:
                also = "" if lack.count == 1 else f" (and for {lack.count - 1} more)"
                problems.append(lacking := Problem(EVENT, lack.first, sentence + also))
                self._progress.problem(lacking)
            else:
                warnings.append(f"{sentence} ({lack.count} entries)")
        counts = Counts(
            done.files, done.size, done.hard_links, done.directories, done.symlinks, done.specials, done.kept,
            done.present, done.failed, done.blocked,
        )  # fmt: skip
        return Report(tuple(problems), tuple(warnings), counts)

    def _took(self, outcome: Outcome) -> None:
        named = self._outcome.add(outcome)
        dealt = outcome.files + outcome.hard_links + outcome.present + outcome.failed
        self._progress.done(dealt, outcome.size + outcome.present_size)
        for problem in named:
            self._progress.problem(problem)

    def _tell(self, problem: Problem) -> None:
        self._outcome.fail(problem.source, problem.reason)
        self._progress.problem(problem)
