"""
Recording: what examiners have set down becomes the manifest, last of all.

The manifest's key is drawn only now, too: of several versions under one key the
oldest is believed (`recovery.stored_runs`), so nobody may know the key before.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import chain

from sysbackup.contents.shipping import Arriving, Sender, Source
from sysbackup.disk.sorted_runs import read
from sysbackup.errors import CatalogUnusable, StoreError
from sysbackup.files.folders import missing
from sysbackup.formats import keys, manifest
from sysbackup.formats.manifest_members import LOG, SNAPSHOTS, further
from sysbackup.formats.manifest_writing import ManifestWriter
from sysbackup.model import Problem, StoredObject, full_name, shown
from sysbackup.pipeline.entries import latest
from sysbackup.pipeline.examiner_messages import Merged
from sysbackup.pipeline.examining import Examiners
from sysbackup.pipeline.merging import placeless
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from sysbackup.store.matching import of_key
from sysbackup.store.port import ObjectStore, Version
from sysbackup.version import VERSION

# Names that are tried for one manifest. A manifest of more than one part shows its key while it is sent; whoever
# watches for that, and is quick, can spoil each of them on stores that count a version from its end.
_NAMES = 3
# Members that are read back together: some megabytes at the most.
_AT_ONCE = 16


class Recorder:
    """
    Makes the manifest, under one name or, once more, under another, of what examiners have set down.

    `snapshots` are to be set before. `counts`, `bytes` (of files and snapshots) and `unchanged` (files) are
    complete when its last piece was made: a path that was examined twice counts once.
    """

    def __init__(self, run: RunContext, examiners: Examiners) -> None:
        self._run = run
        self._examiners = examiners
        self.snapshots: Sequence[manifest.Snapshot] = ()
        self._begun = 0
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.unchanged = 0

    @asynccontextmanager
    async def manifest(self, run: str) -> AsyncIterator[Source]:
        """
        The manifest of that full name, compressed, as a stream's source.

        What was counted for another name is forgotten. `CatalogUnusable` where a
        content is not to be found although none was lost.
        """
        self._begun += 1
        self.counts, self.bytes, self.unchanged = Counter(), 0, 0
        async with self._examiners.merged() as ranges, aclosing(self._pieces(run, ranges)) as pieces:
            yield Arriving(pieces)

    async def _pieces(self, run: str, ranges: AsyncIterator[tuple[int, Merged]]) -> AsyncGenerator[bytes, None]:
        terms, tally = self._run.terms, self._run.tally
        writer = ManifestWriter(
            manifest.RunHeader(
                format=manifest.FORMAT,
                host=terms.host,
                run=run,
                started=terms.started,
                promise=terms.promised or terms.started,
                lock=terms.promise.mode,
                tool=f"sysbackup {VERSION}",
            )
        )
        yield writer.begin()
        async for seat, merged in ranges:
            await self._leave_out(merged.placeless)
            self.counts.update(merged.counts)
            self.bytes += merged.size
            self.unchanged += merged.unchanged
            for start in range(0, len(merged.stretches), _AT_ONCE):
                some = merged.stretches[start : start + _AT_ONCE]
                for member in await asyncio.to_thread(self._run.spool.members, seat, some):
                    yield writer.add(member)
        # not before: of the nodes, some may have been a problem
        rest = chain(further(self._snapshot_lines(), SNAPSHOTS), further(tally.problem_lines(), LOG))
        while (last := await asyncio.to_thread(next, rest, None)) is not None:
            yield writer.add(last)
        for piece in writer.end(manifest.End(counts=dict(self.counts), bytes=self.bytes, problems=tally.problems)):
            yield piece

    async def _leave_out(self, placeless: Sequence[bytes]) -> None:
        """These files' contents are stored nowhere: they were unchanged, and then could not be read again."""
        if placeless and not self._run.contents.gaps:
            raise CatalogUnusable("it does not know a content any more that it knew when this run began")
        for path in placeless:
            # What went meanwhile the second look has noted: that is no loss of this backup's.
            if self._begun == 1 and not await asyncio.to_thread(missing, path):
                reason = "its stored content is gone and it could not be read again"
                self._run.tally.problem(Problem("file.lost", path, reason))

    def _snapshot_lines(self) -> Iterator[bytes]:
        for snapshot in sorted(self.snapshots, key=lambda s: s.name):
            self.counts["s"] += 1
            self.bytes += snapshot.size
            yield manifest.encode(snapshot)


def lost(run: RunContext) -> Iterator[bytes]:
    """The paths of those files whose contents are stored nowhere (any more), or where they are not to stay."""
    records = latest(read(run.spool.files, run.spool.runs()))
    return placeless(records, partial(run.contents.find, staying=True))


async def write_manifest(run: RunContext, store: ObjectStore, sender: Sender, recorder: Recorder) -> StoredObject:
    """
    Store the manifest, locked until the promise, under a full name that nobody knew: `tally.run` from then on.

    Afterwards one look: where something else stood under the key before, it was
    known, and the manifest is written again under another name, its log telling of
    that. `StoreError` where this goes on. A cancellation before that look has ended
    ends the look alone.
    """
    terms, tally = run.terms.lasting(run.clock.now()), run.tally
    for _ in range(_NAMES):
        name = full_name(terms.run)
        key = keys.manifest_key(terms.host, name)
        tally.sending_as = name
        async with recorder.manifest(name) as source:
            stored = await sender.send(key, terms.promise, source, length=None, once=True)
        tally.run = name
        # Where nothing is locked, or versions are not kept, anybody who may write may replace it at any time.
        if terms.promised is None or stored.version is None:
            return stored
        there = await _looked(store, key, tally)
        if there is None or (older := _before(there, stored)) is None:
            return stored
        tally.run, tally.sending_as = terms.run, None
        tally.problem(Problem("manifest.disputed", key.encode(), _accusation(older)))
    raise StoreError(
        f"the manifest was stored {_NAMES} times under names that were to be secret, and each time something else stood"
        f" under its key before: somebody who may write to the bucket watches this run {terms.run} and writes"
        " manifests in its name. Everything is stored and locked, but no manifest can be told from a false one. Take"
        " the right to write from whoever does that, then run again"
    )


async def _looked(store: ObjectStore, key: str, tally: Tally) -> list[Version] | None:
    """
    What stands under exactly the manifest's key, the newest first; None where that cannot be seen, which is told of.

    The manifest ended before this look, so it cannot be among its problems.
    """
    try:
        async with aclosing(of_key(store, key)) as versions:
            return [version async for version in versions if not version.marker]
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        reason = "the run was told to stop"
    except StoreError as exc:
        reason = str(exc)
    tally.not_seen(f"whether something else stood under its key {key} before could not be seen: {reason}")
    return None


def _before(there: Sequence[Version], stored: StoredObject) -> Version | None:
    """
    The oldest version under a key that we have just written, where it is something else; None where it is ours.

    An equal one (size and ETag) is ours: an answer was lost, and the request tried again.
    Order is the store's: S3 counts a multipart upload from its beginning, so
    that what is put under its key meanwhile comes after it; others from its end.
    """
    ours = next((v for v in there if v.version == stored.version), None)
    if ours is None:
        raise StoreError(
            f"the store took the manifest {stored.key!r} (version {stored.version}) but does not list it: nobody can"
            " rely on such a backup. Is there a proxy in between that answers for the store?"
        )
    return None if there[-1].equals(ours) else there[-1]


def _accusation(older: Version) -> str:
    which = f"version {shown(str(older.version).encode())} of {older.modified:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"something else ({which}) stood under this key before the manifest: its name was known to somebody who may"
        " write to the bucket, or the store's ETags cannot be compared (SSE-KMS). The manifest was written again under"
        " another name, which is the run's"
    )
