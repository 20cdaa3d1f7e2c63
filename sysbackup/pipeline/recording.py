"""
Recording: the spool becomes the manifest, last of all.

Where a content lies is looked up only now, in the catalog, which knows nothing
but what the store has confirmed: so a manifest cannot name what is not stored.

The manifest's key is drawn only now, too: of several versions under one key the
oldest is believed (`recovery.stored_runs`), so nobody may know the key before.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice

from sysbackup.contents.shipping import Pieces, Sender
from sysbackup.disk.sorting import Record
from sysbackup.errors import CatalogUnusable, StoreError
from sysbackup.files.folders import missing
from sysbackup.formats import keys, manifest
from sysbackup.formats.manifest_members import LOG, SNAPSHOTS, ManifestMember, further, members
from sysbackup.formats.manifest_writing import ManifestWriter
from sysbackup.model import Problem, StoredObject, full_name, shown
from sysbackup.pipeline.entries import entry_in, is_unchanged, latest
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from sysbackup.store.matching import of_key
from sysbackup.store.port import ObjectStore, Version
from sysbackup.version import VERSION

_BATCH = 500

# Names that are tried for one manifest. A manifest of more than one part shows its key while it is sent; whoever
# watches for that, and is quick, can spoil each of them on stores that count a version from its end.
_NAMES = 3


class Recorder:
    """
    Makes the manifest, under one name or, once more, under another; in a thread.

    `counts`, `bytes` (of files and snapshots) and `unchanged` (files) are
    complete when its last piece was made: a path that was examined twice counts once.
    `note` is told, on the event loop, of files whose contents turned out to be gone and
    that could not be read again. `CatalogUnusable` where a content is not to be
    found although none was lost.
    """

    def __init__(
        self, run: RunContext, snapshots: Sequence[manifest.Snapshot], note: Callable[[Problem], None]
    ) -> None:
        self._run = run
        self._snapshots = snapshots
        self._note = note
        self._begun = 0
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.unchanged = 0

    def pieces(self, run: str) -> Iterator[bytes]:
        """The manifest of that full name, compressed. What was counted for another name is forgotten."""
        self._begun += 1
        self.counts = Counter()
        self.bytes = 0
        self.unchanged = 0
        return self._compressed(run)

    def _compressed(self, run: str) -> Iterator[bytes]:
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
        for member in self._members():
            yield writer.add(member)
        yield from writer.end(manifest.End(counts=dict(self.counts), bytes=self.bytes, problems=tally.problems))

    def _members(self) -> Iterator[ManifestMember]:
        yield from members(self._nodes())
        yield from further(self._snapshot_lines(), SNAPSHOTS)
        yield from further(self._run.tally.problem_lines(), LOG)  # not before: looking at the nodes may tell of more

    def _nodes(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries of the file system, encoded, with their paths."""
        freshest = latest(self._run.spool.sorted())
        while some := list(islice(freshest, _BATCH)):
            yield from self._placed(some)

    def _snapshot_lines(self) -> Iterator[bytes]:
        for snapshot in sorted(self._snapshots, key=lambda s: s.name):
            self._count(snapshot, snapshot.size)
            yield manifest.encode(snapshot)

    def _placed(self, some: Sequence[Record]) -> Iterator[tuple[bytes, bytes]]:
        """The entries of these records, files with the places of their contents."""
        entries = [entry_in(record) for record in some]
        self.unchanged += sum(map(is_unchanged, some))
        files = [e for e in entries if isinstance(e, manifest.File) and e.size and e.location is None]
        places = self._run.contents.find((bytes.fromhex(file.sha) for file in files), promised=True)
        left_out = set()
        for file in files:
            place = places.get(bytes.fromhex(file.sha))
            if place is not None:
                file.place(place)
                continue
            if not self._run.contents.gaps:
                raise CatalogUnusable("it does not know a content any more that it knew when this run began")
            # It was unchanged, its stored content turned out to be gone, and then the file could not be read again.
            path = file.path_bytes
            left_out.add(path)
            if missing(path):
                continue  # it went meanwhile, which the second look has noted: no loss of this backup's
            if self._begun == 1:
                self._note(Problem("file.lost", path, "its stored content is gone and it could not be read again"))
        for (path, _), entry in zip(some, entries, strict=True):
            if path not in left_out:
                self._count(entry, entry.size if isinstance(entry, manifest.File) else 0)
                yield path, manifest.encode(entry)

    def _count(self, entry: manifest.Entry, size: int) -> None:
        self.counts[str(entry.__struct_config__.tag)] += 1
        self.bytes += size


def lost(run: RunContext) -> Iterator[bytes]:
    """The paths of those files whose contents are stored nowhere (any more), or where they are not to stay."""
    freshest = latest(run.spool.sorted())
    while some := list(islice(freshest, _BATCH)):
        entries = map(entry_in, some)
        files = [e for e in entries if isinstance(e, manifest.File) and e.size and e.location is None]
        places = run.contents.find((bytes.fromhex(file.sha) for file in files), staying=True)
        yield from (file.path_bytes for file in files if bytes.fromhex(file.sha) not in places)


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
        stored = await sender.send(key, terms.promise, Pieces(recorder.pieces(name)), length=None, once=True)
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
