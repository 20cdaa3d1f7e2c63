"""
One backup, from pickers and snapshotters to the manifest.

All stages run in one task group; the manifest is written after that group has
ended well, and only then. Whatever ends a run early leaves locked contents that
a later run can use, no manifest, and no multipart upload.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import structlog

from sysbackup import logs
from sysbackup.catalog.known import Catalog
from sysbackup.catalog.rows import CatalogUnusable
from sysbackup.catalog.schema import set_aside
from sysbackup.config.sections import Config, Prices
from sysbackup.disk.sorting import Sorter, spooling
from sysbackup.errors import ConfigError, SysbackupError
from sysbackup.model import Clock, Problem, StoredObject
from sysbackup.pipeline.cache_directory import bucket_identity, catalog_path, exclusive
from sysbackup.pipeline.census import count_all, look_for_all
from sysbackup.pipeline.ending import outlasting, tidied
from sysbackup.pipeline.gathering import Gathering
from sysbackup.pipeline.naming import Naming, naming
from sysbackup.pipeline.recording import Recorder, lost, write_manifest
from sysbackup.pipeline.renewing import Doubt, Renewing
from sysbackup.pipeline.sealing import host_seal
from sysbackup.pipeline.sharing import Trust, learn_all, publish
from sysbackup.pipeline.streaming import finished
from sysbackup.pipeline.tally import Summary, Tally
from sysbackup.programs.running import Program, find_programs
from sysbackup.store.accounting import Requests
from sysbackup.store.port import ObjectStore

log = structlog.get_logger()


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

    `watch` is given the counts, which grow while the run goes on. Raises
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
        run = partial(_run, config, store, clock, watch, found, before, rescan=rescan)
        try:
            return await run()
        except CatalogUnusable as exc:
            # Not for a mistyped bucket's sake: that is another bucket too, and none at all.
            await store.check()
            # Nothing is lost with it: what is stored is found again through the index, or by a conditional put.
            with spooling(config.cache):
                set_aside(catalog_path(config.cache), str(exc))
            return await run()


async def _run(
    config: Config,
    store: ObjectStore,
    clock: Clock,
    watch: Callable[[Tally], None],
    found: Programs,
    before: "Counter[str]",
    *,
    rescan: bool,
) -> Summary:
    names = naming(config.content, clock.now())
    try:
        with ExitStack() as stack:
            stack.enter_context(logs.about(run=names.run))
            problems = stack.enter_context(Sorter(config.cache, memory=4 << 20))
            tally = Tally(clock, problems, names.host, names.run, names.started, names.promised)
            tally.rescan = rescan
            watch(tally)
            _log_start(names, store.bucket)
            catalog = stack.enter_context(await _catalog(config))
            spool = stack.enter_context(Sorter(config.cache))
            doubt = Doubt(config.content.verify_shared)
            identity = bucket_identity(config, store.bucket)
            seal = await asyncio.to_thread(host_seal, config.state, names.host, identity)
            catalog.begin(identity, names.host, names.promise, names.started, doubting=doubt.any)
            await _learn(store, catalog, Trust(names.host, config.content.share, doubt.any, seal), tally)
            for problem in found.problems:
                tally.problem(problem)
            gathering = Gathering(config, store, clock, tally, catalog, spool, names, seal, rescan=rescan)
            snapshots = await gathering.gather(found.pickers, found.snapshotters)
            tally.stage = "renewing locks"
            renewing = Renewing(store, catalog, names, tally, doubt, config.run.uploads)
            losses = await _renew_all(
                renewing,
                catalog,
                partial(look_for_all, store, catalog, tally),
                partial(_store_lost, gathering, spool, catalog, config),
            )
            tally.stage = "writing the manifest"
            recorder = Recorder(spool, snapshots, tally, catalog, names, losses=losses)

            async def write() -> StoredObject:
                async with gathering.sending() as sender:
                    await publish(sender, catalog, names, tally, seal)
                    return await write_manifest(store, sender, recorder, names.lasting(clock.now()), tally)

            stored = await outlasting(write(), tally)
            tally.next_lock_end = await tidied(catalog, names)
            requests = store.requests.since(before)
            summary = _summary(names, store.bucket, clock, tally, recorder, stored, requests, config.prices)
            tally.stage = "done"
    except BaseExceptionGroup as group:
        raise _first(group) from group
    return summary


async def _catalog(config: Config) -> Catalog:
    """The catalog, opened in a thread: every page of it is looked over."""
    opening = asyncio.get_running_loop().run_in_executor(None, Catalog, catalog_path(config.cache))
    try:
        return await finished(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda job: None if job.exception() else job.result().close())
        raise


async def _learn(store: ObjectStore, catalog: Catalog, trust: Trust, tally: Tally) -> None:
    """Bring the catalog up to date: with what others have published, and with what lies in the bucket."""
    # The first request: finds out, too, whether the bucket is there and lets us in.
    await learn_all(store, catalog, trust, tally.clock)
    await count_all(store, catalog, tally)


def _log_start(names: Naming, bucket: str) -> None:
    promise = names.promised.isoformat() if names.promised else None
    log.info("run.started", host=names.host, bucket=bucket, promise=promise)
    if names.promised is None:
        log.warning("lock.none", reason="lock_mode = none: nothing that this run stores is protected")


async def _renew_all(
    renewing: Renewing,
    catalog: Catalog,
    look_for_all: Callable[[str, int], Awaitable[None]],
    store_lost: Callable[[], Awaitable[None]],
) -> bool:
    """
    Renew what is due, and store again what that finds to be gone or false; returns whether anything was.

    One object that must be there and is not raises doubts about all others.
    """
    losses = looked = False
    while await renewing.see_to_all() or catalog.refuted:
        losses = True
        catalog.refuted = False
        if renewing.missed and not looked:
            looked = True
            await look_for_all(renewing.missed_key, renewing.missed)
        await store_lost()
    return losses


async def _store_lost(gathering: Gathering, spool: Sorter, catalog: Catalog, config: Config) -> None:
    """Store the contents again that were relied on and are not stored any more."""
    with Sorter(config.cache, memory=4 << 20) as gone:
        # Set down first: the spool may not be read and added to at the same time.
        await asyncio.to_thread(lambda: gone.add_all((path, b"") for path in lost(spool, catalog)))
        await gathering.gather_again(path for path, _ in gone.sorted())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that people are to see: ours before others, the first before the rest."""
    leaves: list[BaseException] = []
    heap: list[BaseException] = [group]
    while heap:
        error = heap.pop()
        if isinstance(error, BaseExceptionGroup):
            heap += reversed(error.exceptions)
        else:
            leaves.append(error)
    return next((e for e in leaves if isinstance(e, SysbackupError)), leaves[0])


def _summary(
    names: Naming,
    bucket: str,
    clock: Clock,
    tally: Tally,
    recorder: Recorder,
    stored: StoredObject,
    requests: Requests,
    prices: Prices,
) -> Summary:
    finished = clock.now()
    incomplete = tally.problems > 0
    summary = Summary(
        outcome="incomplete" if incomplete else "complete",
        exit_code=3 if incomplete else 0,
        host=names.host,
        run=tally.run,
        bucket=bucket,
        started=names.started,
        finished=finished,
        seconds=round((finished - names.started).total_seconds(), 3),
        promise=names.promised,
        manifest=stored.key,
        manifest_version=stored.version,
        entries=dict(recorder.counts),
        files=recorder.counts["f"],
        bytes=recorder.bytes,
        unchanged=recorder.unchanged,
        read=tally.bytes_read,
        reused=max(0, recorder.bytes - tally.bytes_fresh),
        renewed=tally.renewed,
        contents=tally.contents,
        objects=tally.objects + 1,
        stored=tally.bytes_stored + stored.size,
        snapshots=tally.snapshots,
        sockets_skipped=tally.sockets,
        warnings=tally.warnings,
        problems=tally.problems,
        first_problems=_told(tally.first_problems),
        requests=dict(requests.by_kind.most_common()),
        price=round(requests.price(prices), 6),
        next_lock_end=tally.next_lock_end,
        notes=tally.notes,
        first_notes=_told(tally.first_notes),
        examined=tally.gathered,
        rescan=tally.rescan,
        unseen=tally.unseen,
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


def _told(found: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"event": p.event, "path": p.shown, "reason": p.reason} for p in found]
