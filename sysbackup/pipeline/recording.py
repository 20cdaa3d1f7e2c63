"""
Recording: the spool becomes the manifest, last of all.

Where a content lies is looked up only now, in the catalog, which knows nothing
but what the store has confirmed: so a manifest cannot name what is not stored.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from sysbackup import __version__
from sysbackup.catalog.known import Catalog
from sysbackup.catalog.rows import damaged
from sysbackup.formats import keys, manifest
from sysbackup.model import Problem, StoredObject
from sysbackup.pipeline.naming import Naming
from sysbackup.pipeline.report import Tally
from sysbackup.pipeline.shipping import Sender
from sysbackup.sources.sorting import Record, Sorter
from sysbackup.store.port import Body

_BATCH = 500


_UNCHANGED, _SEEN = b"u", b"-"


def spooled(entry: manifest.FileNode, *, unchanged: bool = False) -> bytes:
    """An entry as the spool holds it until the manifest is written; `unchanged` files were not opened."""
    return (_UNCHANGED if unchanged else _SEEN) + manifest.encode(entry)


class Recorder:
    """
    The manifest as a stream's source.

    `counts`, `bytes` (of files and snapshots) and `unchanged` (files) are
    complete when it has ended: a path that was examined twice counts once.
    `losses`: contents turned out to be gone, and some files could perhaps not be
    read again; without, `CatalogUnusable` where a content is not to be found.
    """

    def __init__(
        self,
        spool: Sorter,
        snapshots: Sequence[manifest.Snapshot],
        tally: Tally,
        catalog: Catalog,
        naming: Naming,
        *,
        losses: bool = False,
    ) -> None:
        self._losses = losses
        self._spool = spool
        self._snapshots = snapshots
        self._tally = tally
        self._catalog = catalog
        self._naming = naming
        self._pieces = self._compressed()
        self._carry = bytearray()
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.unchanged = 0

    async def ready(self, size: int) -> None:
        """Nothing to wait for."""

    async def take(self, size: int) -> Body:
        """The next bytes of the compressed manifest."""
        return await asyncio.to_thread(self._take, size)

    async def approve(self) -> None:
        """A manifest that could be made is kept."""

    def _take(self, size: int) -> bytearray:
        out = self._carry
        while len(out) < size and (piece := next(self._pieces, None)) is not None:
            out += piece
        self._carry = out[size:]
        del out[size:]
        return out

    def _compressed(self) -> Iterator[bytes]:
        writer = manifest.ManifestWriter()
        for line in self._lines():
            yield writer.add(line)
        yield writer.finish()

    def _lines(self) -> Iterator[bytes]:
        names = self._naming
        yield manifest.encode(
            manifest.RunHeader(
                format=manifest.FORMAT,
                host=names.host,
                run=names.run,
                started=names.started,
                promise=names.promise.until,
                tool=f"sysbackup {__version__}",
            )
        )
        latest = _latest(self._spool.sorted())
        while some := list(islice(latest, _BATCH)):
            yield from self._placed(some)
        for snapshot in sorted(self._snapshots, key=lambda s: s.name):
            self._count(snapshot, snapshot.size)
            yield manifest.encode(snapshot)
        yield from self._tally.problem_lines()
        yield manifest.encode(manifest.End(counts=dict(self.counts), bytes=self.bytes, problems=self._tally.problems))

    def _placed(self, some: Sequence[Record]) -> Iterator[bytes]:
        """The entries of these records, files with the places of their contents."""
        entries = [manifest.decode(value[1:]) for _, value in some]
        self.unchanged += sum(value.startswith(_UNCHANGED) for _, value in some)
        files = [e for e in entries if isinstance(e, manifest.File) and e.size and e.location is None]
        places = self._catalog.locate((bytes.fromhex(file.sha) for file in files), promised=True)
        for file in files:
            place = places.get(bytes.fromhex(file.sha))
            if place is not None:
                file.place(place)
                continue
            if not self._losses:
                raise damaged("contents")
            # It was unchanged, its stored content turned out to be gone, and then the file could not be read again.
            entries.remove(file)
            self._tally.problem(
                Problem("file.lost", file.path_bytes, "its stored content is gone and it could not be read again")
            )
        for entry in entries:
            self._count(entry, entry.size if isinstance(entry, manifest.File) else 0)
            yield manifest.encode(entry)

    def _count(self, entry: manifest.Entry, size: int) -> None:
        self.counts[str(entry.__struct_config__.tag)] += 1
        self.bytes += size


def lost(spool: Sorter, catalog: Catalog) -> Iterator[bytes]:
    """The paths of those files whose contents are stored nowhere (any more), or where they are not to stay."""
    latest = _latest(spool.sorted())
    while some := list(islice(latest, _BATCH)):
        entries = [manifest.decode(value[1:]) for _, value in some]
        files = [e for e in entries if isinstance(e, manifest.File) and e.size and e.location is None]
        places = catalog.locate((bytes.fromhex(file.sha) for file in files), leaving=False)
        yield from (file.path_bytes for file in files if bytes.fromhex(file.sha) not in places)


def _latest(records: Iterable[Record]) -> Iterator[Record]:
    """Of records with one key the one that was added last: the freshest look at that path."""
    held: Record | None = None
    for record in records:
        if held is not None and held[0] != record[0]:
            yield held
        held = record
    if held is not None:
        yield held


async def write_manifest(sender: Sender, recorder: Recorder, naming: Naming) -> StoredObject:
    """Store the manifest, locked until the promise."""
    return await sender.send(keys.manifest_key(naming.host, naming.run), naming.promise, recorder, length=None)
