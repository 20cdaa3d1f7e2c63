"""
The runs that a bucket holds, and what their manifests say.

A manifest's key is written once and locked. So a delete marker over it hides
nothing here, and where a key has several versions, somebody wrote the later
ones afterwards: the oldest is the genuine one.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NoReturn

from sysbackup.errors import FormatError, RestoreError, UsageError
from sysbackup.formats import keys
from sysbackup.formats.manifest import LINE_LIMIT, Entry, ManifestReader, RunHeader
from sysbackup.model import brief, run_started
from sysbackup.recovery.arriving import arrived, closable
from sysbackup.store.port import ObjectStore, Version

LATEST = "latest"

_BATCH = 1000  # entries per trip to a worker thread
_NAMED = 8  # how many runs or hosts a message lists before it ends in an ellipsis


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run: whose, and where its manifest lies.

    `size` is the manifest's. `rivals` counts versions written over the genuine
    one; `hidden` tells that a delete marker lies on top. Either is the work of
    somebody else than sysbackup.
    """

    host: str
    run: str
    key: str
    version: str | None
    size: int
    rivals: int = 0
    hidden: bool = False

    @property
    def started(self) -> datetime:
        """When the run began."""
        return run_started(self.run)

    @property
    def oddity(self) -> str | None:
        """A sentence for people where the bucket shows more than the one version there should be."""
        if self.rivals:
            return (
                f"the manifest {self.key} has been written over {self.rivals} time(s) by something that is"
                f" not sysbackup; the oldest version, {self.version}, is the genuine one and is used"
            )
        if self.hidden:
            return f"a delete marker hides the manifest {self.key}; its version {self.version} is there and is used"
        return None


async def runs(store: ObjectStore, host: str | None = None) -> list[Run]:
    """All runs of one host, or of all, the newest last."""
    return await _listed(store, keys.manifest_prefix(host))


async def find_run(store: ObjectStore, run: str, host: str | None = None) -> Run:
    """
    The run of that full name, of that beginning, or the `latest`.

    `UsageError` where the name fits several, or `latest` could be of several
    hosts; `RestoreError` where it fits none.
    """
    if run == LATEST:
        known = await runs(store, host)
        return _only_host(known)[-1] if known else _refuse(run, host)
    prefix = keys.manifest_prefix(host)
    known = await _listed(store, prefix if host is None else prefix + run)
    fitting = [r for r in known if r.run == run] or [r for r in known if r.run.startswith(run)]
    if not fitting:
        _refuse(run, host)
    if len(fitting) > 1:
        named = _some([f"{r.run} of {r.host}" for r in fitting])
        raise UsageError(f"{run!r} fits {len(fitting)} runs: {named}; say more of the name, or give --host")
    return fitting[0]


async def batches(store: ObjectStore, run: Run, spool: Path | None = None) -> AsyncGenerator[list[Entry], None]:
    """
    The manifest's entries in their order, some at a time, taken apart in a worker thread.

    Bytes that were damaged on their way are fetched again before the first entry
    comes; until then they wait in `spool` (None: the system's temporary directory).
    `FormatError` naming run and object where the manifest itself is damaged; that may
    come after many good entries, so nothing may be done on their word alone.
    """
    reader = ManifestReader()
    try:
        async with aclosing(arrived(store, run.key, run.version, LINE_LIMIT, spool)) as chunks:
            async for chunk in chunks:
                entries = reader.feed(chunk)
                while batch := await asyncio.to_thread(_pull, entries):
                    for entry in batch:
                        if isinstance(entry, RunHeader):
                            _check(entry, run)
                    yield batch
        reader.finish()
    except FormatError as exc:
        raise FormatError(
            f"the manifest of run {run.run} of {run.host} cannot be used: {exc}"
            f" (object {run.key}, version {run.version}). Nothing was changed; other runs may be whole"
            " (see: sysbackup list)"
        ) from exc


async def entries(store: ObjectStore, run: Run) -> AsyncGenerator[Entry, None]:
    """The manifest's entries one by one; see `batches`."""
    async with aclosing(batches(store, run)) as some:
        async for batch in some:
            for entry in batch:
                yield entry


async def header(store: ObjectStore, run: Run) -> RunHeader:
    """The first line alone: until when the run is promised, and which tool wrote it."""
    try:
        return await _header(store, run)
    except FormatError:
        return await _header(store, run)  # the bytes may have been damaged on their way


async def _header(store: ObjectStore, run: Run) -> RunHeader:
    reader = ManifestReader()
    async with aclosing(closable(store, run.key, run.version, min(run.size, 64 << 10))) as chunks:
        async for chunk in chunks:
            for entry in reader.feed(chunk):
                if isinstance(entry, RunHeader):
                    _check(entry, run)
                    return entry
    raise FormatError(f"the manifest of run {run.run} of {run.host} does not say whose it is (object {run.key})")


async def _listed(store: ObjectStore, prefix: str) -> list[Run]:
    found: list[Run] = []
    group: list[Version] = []
    async for version in store.versions(prefix):
        if group and group[0].key != version.key:
            found.extend(_genuine(group))
            group = []
        group.append(version)
    found.extend(_genuine(group))
    return sorted(found, key=lambda r: (r.run, r.host))


def _genuine(versions: list[Version]) -> Iterator[Run]:
    """The run behind all versions of one key, newest first; none where the key is not a manifest's."""
    real = [v for v in versions if not v.marker]
    parts = keys.manifest_parts(versions[0].key) if real else None
    if parts is None:
        return
    host, run = parts
    try:
        run_started(run)
    except UsageError:
        return
    oldest = real[-1]
    yield Run(host, run, oldest.key, oldest.version, oldest.size, len(real) - 1, versions[0].marker)


def _only_host(known: list[Run]) -> list[Run]:
    hosts = sorted({r.host for r in known})
    if len(hosts) > 1:
        raise UsageError(f"the bucket holds runs of {len(hosts)} hosts: {_some(hosts)}; give --host")
    return known


def _refuse(run: str, host: str | None) -> NoReturn:
    """Say that there is no such run."""
    whose = "" if host is None else f" of {host}"
    what = f"no run{whose}" if run == LATEST else f"no run {run!r}{whose}"
    raise RestoreError(f"the bucket holds {what} (see: sysbackup list)")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _pull(entries: Iterator[Entry]) -> list[Entry]:
    return list(islice(entries, _BATCH))


def _check(entry: RunHeader, run: Run) -> None:
    if (entry.run, entry.host) != (run.run, run.host):
        raise FormatError(f"it says that it is of run {brief(entry.run)} of {brief(entry.host)}")
