"""What snapshotters wrote, on its way back out of the bucket."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sysbackup.contents.assembling import assembled
from sysbackup.errors import FormatError, RestoreError
from sysbackup.formats import chunk_list, keys
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.manifest import Snapshot
from sysbackup.formats.manifest_search import SNAPSHOT_LINES
from sysbackup.model import Location, brief
from sysbackup.recovery.judging import StoredRun
from sysbackup.recovery.stored_runs import batches
from sysbackup.store.port import ObjectStore

_STEP = 1 << 20
_NAMED = 100  # snapshots of a run that a message names


async def snapshots(store: ObjectStore, run: StoredRun) -> list[Snapshot]:
    """All snapshots of a run, once it is known that their lines are whole."""
    found: list[Snapshot] = []
    async with aclosing(batches(store, run, only=[SNAPSHOT_LINES])) as some:
        async for batch in some:
            found += (entry for entry in batch if isinstance(entry, Snapshot))
    return found


async def find_snapshot(store: ObjectStore, run: StoredRun, name: str) -> Snapshot:
    """The snapshot of that name. `RestoreError`, naming those there are, where the run has none."""
    found = await snapshots(store, run)
    for snapshot in found:
        if snapshot.name == name:
            if not keys.possible(snapshot.key, snapshot.version):
                raise FormatError(f"snapshot {name!r} of run {run.run} of {run.host} lies where no object can be")
            if snapshot.encoding not in (None, chunk_list.NAME):
                encoding = brief(snapshot.encoding, 80)
                raise FormatError(f"snapshot {name!r} of run {run.run} of {run.host} is stored as {encoding!r}")
            return snapshot
    others = ", ".join(repr(brief(s.name)) for s in found[:_NAMED]) or "none at all"
    others += ", …" if len(found) > _NAMED else ""
    raise RestoreError(f"run {run.run} of {run.host} holds no snapshot {name!r}; it holds: {others}")


async def data(store: ObjectStore, snapshot: Snapshot) -> AsyncGenerator[bytes, None]:
    """
    The bytes that the snapshotter wrote.

    The last of them come only when the digest of all is known to be right:
    what reads them never gets a whole that is wrong. `FormatError` instead, if
    it is; `is_whole` can tell then whether that was the bucket's fault.
    """
    hashed = hashlib.sha256()
    size = 0
    held = b""
    why = "what the bucket holds is not what was backed up"
    try:
        async with aclosing(_body(store, snapshot)) as chunks:
            async for chunk in chunks:
                if not chunk:
                    continue  # after which what is held back would not be the end
                size += len(chunk)
                if size > snapshot.size:
                    break
                # hashing a large chunk on the loop would keep everything else waiting
                if len(chunk) < _STEP:
                    hashed.update(chunk)
                else:
                    await asyncio.to_thread(hashed.update, chunk)
                if held:
                    yield held
                held = chunk
    except LaterFormat:
        raise
    except FormatError as exc:
        size, why = -1, str(exc)
    if size != snapshot.size or hashed.hexdigest() != snapshot.sha:
        raise FormatError(
            f"snapshot {snapshot.name!r} is damaged: {why} (object {snapshot.key}, version {snapshot.version})."
            " Its end was held back; do not use what came before it"
        )
    if held:
        yield held


def _body(store: ObjectStore, snapshot: Snapshot) -> AsyncGenerator[bytes, None]:
    if snapshot.encoding == chunk_list.NAME:
        return assembled(store, Location(snapshot.key, snapshot.version), snapshot.size)
    return store.read(snapshot.key, snapshot.version)


async def is_whole(store: ObjectStore, snapshot: Snapshot) -> bool:
    """Read it once more, for its digest alone: whether the bucket holds what was backed up."""
    try:
        async with aclosing(data(store, snapshot)) as chunks:
            async for _ in chunks:
                pass
    except FormatError:
        return False
    return True
