"""Picking: pickers run, and the paths they print go on in batches."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from sysbackup.concurrency.channel import Channel
from sysbackup.model import Problem, shown
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from sysbackup.programs.discovery import Program
from sysbackup.programs.picker_output import Records, all_paths, path_problem
from sysbackup.programs.running import running

log = structlog.get_logger()

# Paths in one job: what goes to an examiner and back for each costs as much as examining some small files.
BATCH = 512
# Pickers at work at the same time: each costs a process and pipes, and they all read the same disks.
_AT_ONCE = 8


@dataclass(slots=True)
class Picked:
    """How many paths one picker printed, and how many of these were not there when they were looked at."""

    program: Program
    paths: int = 0
    missing: int = 0

    @property
    def problem(self) -> Problem | None:
        """
        What is wrong where nothing of it was there.

        Single files go all the time, also where a picker prints no more than one. But
        one of which nothing at all is there must not pass for a complete backup.
        """
        if self.paths < 2 or self.missing < self.paths:
            return None
        reason = f"all {self.paths:,} paths that it printed are missing: is a file system not mounted?"
        return Problem("picker.missed", self.program.name, reason)


class Batch(NamedTuple):
    """Some paths, and the picker that printed them; None where they are examined once more."""

    paths: list[bytes]
    picked: Picked | None = None


async def pick_all(run: RunContext, pickers: Sequence[Program], paths: Channel[Batch], picked: list[Picked]) -> None:
    """Run the pickers, some at a time, and close the channel behind the last; `picked` gets what came of each."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(program: Program) -> None:
        async with turns:
            picked.append(await pick(program, paths, run.tally, run.config.run.picker_idle_limit))

    async with asyncio.TaskGroup() as group:
        for program in pickers:
            group.create_task(in_turn(program))
    await paths.close()


async def pick(program: Program, paths: Channel[Batch], tally: Tally, idle_limit: float) -> Picked:
    """
    Run one picker to its end and send on what it prints; who looks at a batch counts in it what is missing.

    What it printed before it failed counts: a picker's failure is a problem of
    the run, no reason to keep less.
    """
    records = Records()
    batch: list[bytes] = []
    picked = Picked(program)

    async def take(found: list[bytes]) -> None:
        nonlocal batch
        good = found
        if not all_paths(found):
            good = [record for record in found if path_problem(record) is None]
            for record in found:
                if (reason := path_problem(record)) is not None:
                    _refuse(program, record, reason, tally)
        picked.paths += len(good)
        batch += good
        while len(batch) >= BATCH:
            full, batch = batch[:BATCH], batch[BATCH:]
            await paths.send(Batch(full, picked))

    async with running(program, idle_limit=idle_limit) as picker:
        async for chunk in picker.output():
            await take(records.feed(chunk))
        await take(records.finish())
        if batch:
            await paths.send(Batch(batch, picked))
        for beginning in records.overlong:
            _refuse(program, beginning, "longer than any path can be", tally)
        failure = await picker.result()
    if failure is not None:
        tally.problem(Problem("picker.failed", program.name, failure))
    log.info("picker.finished", program=shown(program.name), paths=picked.paths, failed=failure is not None)
    return picked


def _refuse(program: Program, record: bytes, reason: str, tally: Tally) -> None:
    tally.problem(Problem("path.refused", record[:4096], f"{reason} (printed by {shown(program.name)})"))
