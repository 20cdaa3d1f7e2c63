"""Picking: pickers run, and the paths they print go on in batches."""

import structlog

from sysbackup.model import Problem, shown
from sysbackup.pipeline.channel import Channel
from sysbackup.pipeline.report import Tally
from sysbackup.sources.programs import Program, running
from sysbackup.sources.records import Records, path_problem

log = structlog.get_logger()

# Paths in one job: a hop between loop and thread costs as much as examining two small files.
BATCH = 128


async def pick(program: Program, paths: Channel[list[bytes]], tally: Tally, idle_limit: float) -> None:
    """
    Run one picker to its end and send on what it prints.

    What it printed before it failed counts: a picker's failure is a problem of
    the run, no reason to keep less.
    """
    records = Records()
    batch: list[bytes] = []
    picked = 0
    async with running(program, idle_limit=idle_limit) as picker:
        async for chunk in picker.output():
            for record in records.feed(chunk):
                if (reason := path_problem(record)) is not None:
                    _refuse(program, record, reason, tally)
                    continue
                picked += 1
                batch.append(record)
                if len(batch) == BATCH:
                    await paths.send(batch)
                    batch = []
        for record in records.finish():
            if (reason := path_problem(record)) is not None:
                _refuse(program, record, reason, tally)
            else:
                picked += 1
                batch.append(record)
        for start in range(0, len(batch), BATCH):
            await paths.send(batch[start : start + BATCH])
        for beginning in records.overlong:
            _refuse(program, beginning, "longer than any path can be", tally)
        failure = await picker.result()
    if failure is not None:
        tally.problem(Problem("picker.failed", program.name, failure))
    log.info("picker.finished", program=shown(program.name), paths=picked, failed=failure is not None)


def _refuse(program: Program, record: bytes, reason: str, tally: Tally) -> None:
    tally.problem(Problem("path.refused", record[:4096], f"{reason} (printed by {shown(program.name)})"))
