"""
The runs that a bucket holds, and what their manifests say.

Which of several manifests is believed, `recovery.judging` says.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from sysbackup.errors import FormatError, NoSuchRun, RestoreError, UsageError
from sysbackup.formats import keys
from sysbackup.formats.manifest import Entry, RunHeader
from sysbackup.formats.manifest_members import LINE_LIMIT
from sysbackup.formats.manifest_search import Stretch
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.model import WORKING_NAME, brief
from sysbackup.recovery.excerpting import excerpt
from sysbackup.recovery.judging import StoredRun, disputed, genuine, some
from sysbackup.recovery.whole_lines import arrived
from sysbackup.store.port import ObjectStore, Version

__all__ = ["LATEST", "Found", "StoredRun", "batches", "check", "entries", "find", "find_run", "header", "runs"]

LATEST = "latest"

# Of what any run's name is made up; see `model`.
_BEGINNING = re.compile(r"[0-9TZa-f-]*")


async def runs(store: ObjectStore, host: str | None = None) -> list[StoredRun]:
    """All runs of one host, or of all, the newest last."""
    return await _listed(store, keys.manifest_prefix(host))


@dataclass(frozen=True, slots=True)
class Found:
    """The run that was asked for; `notes` are sentences for people on how it was chosen."""

    run: StoredRun
    notes: tuple[str, ...] = ()


async def find_run(store: ObjectStore, run: str, host: str | None = None, version: str | None = None) -> StoredRun:
    """See `find`: the run alone."""
    return (await find(store, run, host, version)).run


async def find(store: ObjectStore, run: str, host: str | None = None, version: str | None = None) -> Found:
    """
    The run of that full name, of that beginning, or the `latest`; with `version` that one of its manifest.

    `latest` passes over runs from the future, whose manifests anybody may have
    written to be the latest, and says so. `UsageError` where the name fits several
    (with a `version`: several that have it), or `latest` could be of several
    hosts or of a run whose manifest is disputed by another name; `NoSuchRun`
    where it fits none, `RestoreError` where it has no such version, or all are from
    the future.
    """
    if run == LATEST:
        known = await runs(store, host)
        found = _latest(_only_host(known)) if known else _refuse(run, host)
        return found if version is None else replace(found, run=found.run.but(version))
    if not _BEGINNING.fullmatch(run):
        _refuse(run, host)  # and no server is asked for a prefix of anything that can be typed
    prefix = keys.manifest_prefix(host)
    # all that share its working name are seen, too: they are rivals
    known = await _listed(store, prefix if host is None else prefix + run[:WORKING_NAME])
    fitting = [r for r in known if r.run == run] or [r for r in known if r.run.startswith(run)]
    if not fitting:
        _refuse(run, host)
    if version is not None and len(fitting) > 1:
        fitting = [r for r in fitting if any(v.version == version for v in r.versions)] or fitting
    if len(fitting) > 1:
        named = some([f"{r.run} of {r.host}" for r in fitting])
        raise UsageError(f"{run!r} fits {len(fitting)} runs: {named}; say more of the name, or give --host")
    return Found(fitting[0] if version is None else fitting[0].but(version))


def _latest(known: list[StoredRun]) -> Found:
    """The newest run of one host that is not from the future."""
    believed = [r for r in known if not r.future]
    passed_over = [r.run for r in known if r.future]
    if not believed:
        raise RestoreError(
            f"all runs of {known[0].host} are from the future, by the store's clock: {some(passed_over)}; the clock"
            " of that host was wrong, or they are false. Name the one you mean in full (see: sysbackup list)"
        )
    newest = believed[-1]
    if newest.claimants:
        raise UsageError(f"the latest run is disputed: {newest.oddity}. Name the one you mean in full")
    notes = (
        f"passed over {some(passed_over)}, which were stored before they are said to have begun: the clock of"
        f" {newest.host} was wrong, or they are false; the latest of the others is {newest.run}"
    )
    return Found(newest, (notes,) if passed_over else ())


async def batches(
    store: ObjectStore, run: StoredRun, spool: Path | None = None, only: Sequence[Stretch] | None = None
) -> AsyncGenerator[list[Entry], None]:
    """
    The manifest's entries in their order, some at a time, taken apart in a worker thread.

    With `only` those stretches, and perhaps more, by a few small reads where the
    manifest is large and has a table. Otherwise bytes that were damaged on their way
    are fetched again before the first entry comes; until then they wait in `spool`
    (None: the system's temporary directory). `FormatError` naming run and object
    where the manifest itself is damaged; that may come after many good entries, so
    nothing may be done on their word alone.
    """
    try:
        found = None if only is None else await excerpt(store, run, only)
        async with aclosing(found or _whole(store, run, spool)) as some:
            async for batch in some:
                yield batch
    except FormatError as exc:
        raise FormatError(
            f"the manifest of run {run.run} of {run.host} cannot be used: {exc}"
            f" (object {run.key}, version {run.version}). Nothing was changed; other runs may be whole"
            " (see: sysbackup list)"
        ) from exc


async def _whole(store: ObjectStore, run: StoredRun, spool: Path | None) -> AsyncGenerator[list[Entry], None]:
    reader = ManifestReader()
    async with aclosing(arrived(store, run.key, run.version, LINE_LIMIT, spool)) as chunks:
        async for chunk in chunks:
            found = reader.batches(chunk)
            while (batch := await asyncio.to_thread(next, found, None)) is not None:
                for entry in batch:
                    if isinstance(entry, RunHeader):
                        check(entry, run)
                yield batch
    reader.finish()


async def entries(store: ObjectStore, run: StoredRun) -> AsyncGenerator[Entry, None]:
    """The manifest's entries one by one; see `batches`."""
    async with aclosing(batches(store, run)) as some:
        async for batch in some:
            for entry in batch:
                yield entry


async def header(store: ObjectStore, run: StoredRun) -> RunHeader:
    """The first line alone: until when the run is promised, and which tool wrote it."""
    try:
        return await _header(store, run)
    except FormatError:
        return await _header(store, run)  # the bytes may have been damaged on their way


async def _header(store: ObjectStore, run: StoredRun) -> RunHeader:
    reader = ManifestReader()
    async with aclosing(store.read(run.key, run.version, 0, min(run.size, 64 << 10))) as chunks:
        async for chunk in chunks:
            for entry in reader.feed(chunk):
                if isinstance(entry, RunHeader):
                    check(entry, run)
                    return entry
    raise FormatError(f"the manifest of run {run.run} of {run.host} does not say whose it is (object {run.key})")


async def _listed(store: ObjectStore, prefix: str) -> list[StoredRun]:
    found: list[StoredRun] = []
    group: list[Version] = []
    async for version in store.versions(prefix):
        if group and group[0].key != version.key:
            found.extend(genuine(group))
            group = []
        group.append(version)
    found.extend(genuine(group))
    return disputed(found)


def _only_host(known: list[StoredRun]) -> list[StoredRun]:
    hosts = sorted({r.host for r in known})
    if len(hosts) > 1:
        raise UsageError(f"the bucket holds runs of {len(hosts)} hosts: {some(hosts)}; give --host")
    return known


def _refuse(run: str, host: str | None) -> NoReturn:
    """Say that there is no such run."""
    whose = "" if host is None else f" of {host}"
    what = f"no run{whose}" if run == LATEST else f"no run {run!r}{whose}"
    raise NoSuchRun(f"the bucket holds {what} (see: sysbackup list)")


def check(entry: RunHeader, run: StoredRun) -> None:
    """`FormatError` where a manifest's first line says that it is another run's."""
    if (entry.run, entry.host) != (run.run, run.host):
        raise FormatError(f"it says that it is of run {brief(entry.run)} of {brief(entry.host)}")
