"""
One backup, from pickers and snapshotters to the manifest.

All stages run in one task group; the manifest is written after that group has
ended well, and only then. Whatever ends a run early leaves locked contents that
a later run can use, no manifest, and no multipart upload.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from sysbackup import logs
from sysbackup.concurrency.task_groups import one_error
from sysbackup.config.sections import Config, Prices
from sysbackup.contents.cache import content_store, forget_all
from sysbackup.contents.cache_directory import exclusive
from sysbackup.contents.cutting import BY_CONTENT
from sysbackup.contents.terms import Terms, terms_of
from sysbackup.disk.sorting import Sorter
from sysbackup.errors import CatalogUnusable, ConfigError
from sysbackup.files.owners import Owners
from sysbackup.formats.run_result import Summary
from sysbackup.model import Clock, Problem, StoredObject
from sysbackup.pipeline.ending import leaving_calmly, outlasting, set_aside, tidied
from sysbackup.pipeline.entry_spool import EntrySpool
from sysbackup.pipeline.examining import Examiners, examiners
from sysbackup.pipeline.gathering import gather, gather_again
from sysbackup.pipeline.recording import Recorder, lost, write_manifest
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.snapshotting import Snapshots
from sysbackup.pipeline.tally import Stage, Tally
from sysbackup.programs.discovery import Program, find_programs
from sysbackup.store.accounting import Requests
from sysbackup.store.port import ObjectStore

log = structlog.get_logger()

_PROBLEMS_MEMORY = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Programs:
    """What a run is to start, and the problems of what lies beside it and will not be started."""

    pickers: tuple[Program, ...]
    snapshotters: tuple[Program, ...]
    problems: tuple[Problem, ...]


def programs(config: Config) -> Programs:
    """What is in `pickers.d` and `snapshots.d`. `ConfigError` where that is nothing at all."""
    found: list[tuple[Program, ...]] = []
    problems = []
    for directory in (config.pickers, config.snapshotters):
        usable, passed_over = find_programs(directory)
        found.append(tuple(usable))
        problems += [
            Problem("program.refused", bytes(directory / p.name.decode("utf-8", "surrogateescape")), p.reason)
            for p in passed_over
            if not p.expected
        ]
    if not any(found) and not problems:
        raise ConfigError(
            f"there is nothing to back up: neither {config.pickers} nor {config.snapshotters} holds a program."
            " Put a picker there, an executable that prints the paths of files"
        )
    return Programs(found[0], found[1], tuple(problems))


async def back_up(
    config: Config,
    store: ObjectStore,
    clock: Clock,
    watch: Callable[[Tally], None] = lambda _: None,
    *,
    rescan: bool = False,
) -> Summary:
    """
    Back this machine up once; with `rescan` every file is read, whatever is known of it.

    `watch` is given the counts, once; they grow while the run goes on, and where it
    has to begin again they do too, under another name. Raises
    `SysbackupError` where the run failed: then there is no manifest of it that can be
    relied on. `Tally.sending_as` has the name of one that may be stored all the same: its
    answer was lost, or the run was stopped meanwhile. One whose name was disputed
    stays in the bucket, and so do others of that name (`recording.write_manifest`).
    A cancellation that comes when the manifest is stored changes nothing any more.
    What went wrong with single sources is in the summary and in the manifest.
    """
    found = programs(config)
    with exclusive(config.cache):
        before = Counter(store.requests.by_kind)
        terms = terms_of(config.content, clock.now())
        with logs.about(run=terms.run), Sorter(config.cache, memory=_PROBLEMS_MEMORY) as problems:
            tally = Tally(clock, problems, terms.identity, rescan)
            watch(tally)
            run = partial(_run, config, store, tally, found, before)
            try:
                return await run(terms)
            except CatalogUnusable as exc:
                reason = str(exc)
        # Not for a mistyped bucket's sake: that is another bucket too, and none at all.
        await store.check()
        forget_all(config, reason)
        # Another name: no key is written twice, and who has read this run's index as far as it went reads on.
        terms = terms_of(config.content, clock.now())
        with logs.about(run=terms.run), Sorter(config.cache, memory=_PROBLEMS_MEMORY) as problems:
            tally.begin_again(terms.identity, problems)
            return await run(terms)


async def _run(
    config: Config,
    store: ObjectStore,
    tally: Tally,
    found: Programs,
    before: "Counter[str]",
    terms: Terms,
) -> Summary:
    clock = tally.clock
    async with leaving_calmly() as stack:
        stack.enter_context(one_error())
        _log_start(terms, store.bucket)
        contents = await stack.enter_async_context(content_store(config, store, terms, tally, clock))
        spool = stack.enter_context(closing(EntrySpool(config.cache, config.run.workers)))
        run = RunContext(config, clock, terms, tally, contents, spool, Owners())
        snapshots = stack.enter_context(closing(Snapshots(run)))
        examining = await stack.enter_async_context(examiners(run))
        await contents.learn()
        for problem in found.problems:
            tally.problem(problem)
        async with asyncio.TaskGroup() as beside:
            beside.create_task(contents.look())
            await gather(run, examining, found.pickers, found.snapshotters, snapshots)
        tally.stage = Stage.RENEWING
        await contents.promise(partial(_store_lost, run, examining, snapshots))
        tally.stage = Stage.WRITING
        recorder = Recorder(run, examining)
        stored = await outlasting(_write(run, store, recorder, snapshots), tally)
        tally.next_lock_end, unusable = await tidied(run)
        summary = _summary(store.bucket, tally, recorder, stored, store.requests.since(before), config.prices)
        tally.stage = Stage.DONE
    if unusable is not None:
        await set_aside(config, unusable)
    return summary


async def _write(run: RunContext, store: ObjectStore, recorder: Recorder, snapshots: Snapshots) -> StoredObject:
    """Store the snapshots that were cut, the index and, last of all, the manifest."""
    async with run.contents.keeping() as keeper:
        recorder.snapshots = await snapshots.finish(keeper)
        await run.contents.publish(keeper)
        return await write_manifest(run, store, keeper.sender, recorder)


def _log_start(terms: Terms, bucket: str) -> None:
    promise = terms.promised.isoformat() if terms.promised else None
    log.info("run.started", host=terms.host, bucket=bucket, promise=promise)
    if not BY_CONTENT:
        reason = "pyfastcdc is not here: large files are cut into blocks, and what is inserted moves all behind it"
        log.warning("chunks.blocks", reason=reason)
    if terms.promised is None:
        log.warning("lock.none", reason="lock_mode = none: nothing that this run stores is protected")


async def _store_lost(run: RunContext, examining: Examiners, snapshots: Snapshots) -> None:
    """Store the contents again that were relied on and are not stored any more."""
    with Sorter(run.config.cache, memory=4 << 20) as gone:
        # Set down first: the spool may not be read and added to at the same time.
        await asyncio.to_thread(lambda: gone.add_all((path, b"") for path in lost(run)))
        await gather_again(run, examining, (path for path, _ in gone.sorted()), snapshots)


def _summary(
    bucket: str, tally: Tally, recorder: Recorder, stored: StoredObject, requests: Requests, prices: Prices
) -> Summary:
    summary = msgspec.structs.replace(
        tally.summary(tally.clock.now()),
        bucket=bucket,
        manifest=stored.key,
        manifest_version=stored.version,
        entries=dict(recorder.counts),
        files=recorder.counts["f"],
        bytes=recorder.bytes,
        unchanged=recorder.unchanged,
        reused=max(0, recorder.bytes - tally.bytes_fresh),
        objects=tally.objects + 1,
        stored=tally.bytes_stored + stored.size,
        requests=dict(requests.by_kind.most_common()),
        price=round(requests.price(prices), 6),
    )
    log.info(
        "run.finished",
        run=summary.run,
        outcome=summary.outcome,
        files=summary.files,
        bytes=summary.bytes,
        read=summary.read,
        stored=summary.stored,
        requests=requests.total,
        price=summary.price,
        problems=summary.problems,
        notes=summary.notes,
        seconds=summary.seconds,
    )
    return summary
