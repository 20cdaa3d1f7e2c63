"""Buckets with a run in them, written line by line: what no pipeline would write, too."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from sysbackup.formats import gzipping, keys, manifest
from sysbackup.formats.manifest import Directory, End, Entry, File, Link, RunHeader
from sysbackup.formats.manifest_members import LOG, SNAPSHOTS, ManifestMember, further, members
from sysbackup.formats.manifest_writing import ManifestWriter
from sysbackup.formats.pack import PackWriter
from sysbackup.model import Location, Span
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options, Report
from sysbackup.recovery.restoring import restore
from sysbackup.store.port import ObjectStore
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.packs import pack_writer

RUN = "20261123T041500Z-3fa9"
HOST = "alpha"
MOMENT = datetime(2026, 11, 23, 4, 15, tzinfo=UTC)
NOW = MOMENT + timedelta(days=2)
"""When all of it is stored, unless a test turns the bucket's clock."""
END = End(counts={}, bytes=0, problems=0)
MTIME = 1_700_000_000_123_456_789


@dataclass
class Backup:
    """
    One run under construction. Contents up to 1 MiB go into one pack, others into objects of their own.

    `entries` may be added to, and changed, freely before `stored` makes the manifest.
    """

    bucket: MemoryBucket = field(default_factory=lambda: MemoryBucket(ManualClock(NOW)))
    entries: list[Entry] = field(default_factory=list)
    packed: PackWriter = field(default_factory=pack_writer)
    waiting: list[tuple[File, int, int]] = field(default_factory=list)
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    format: int = manifest.FORMAT

    @property
    def store(self) -> MemoryStore:
        return MemoryStore(self.bucket)

    def directory(self, path: bytes, acl: str = "u::rwx,g::r-x,o::r-x", **more: Any) -> Directory:
        made = Directory(**_common(path, acl), **more)
        self.entries.append(made)
        return made

    def file(self, path: bytes, content: bytes = b"", acl: str = "u::rw-,g::r--,o::r--", **more: Any) -> File:
        made = File(**(_common(path, acl) | {"size": len(content), "sha": hashlib.sha256(content).hexdigest()} | more))
        self.entries.append(made)
        if not content:
            return made
        sha = hashlib.sha256(content).digest()
        if len(content) > 1 << 20:
            body = gzipping.compress(content)
            kept = self.bucket.add(keys.content_key(sha), body)
            made.place(Location(kept.key, kept.version, encoding="gzip"))
        else:
            if sha not in self.places:
                member = gzipping.member(content)
                self.places[sha] = (len(self.packed), len(member))
                self.packed.add(sha, member, len(content))
            self.waiting.append((made, *self.places[sha]))
        return made

    def link(self, path: bytes, target: bytes) -> Link:
        text, exact = manifest.lossy(target)
        made = Link(**_common(path, None), target=text)
        if exact is not None:
            made.targetb = exact
        self.entries.append(made)
        return made

    def pack(self) -> str | None:
        """Store the pack, if any content waits for one; returns its key."""
        if not self.waiting:
            return None
        pack = self.packed.finish()
        kept = self.bucket.add(keys.pack_key(pack.sha), bytes(pack.body))
        for entry, offset, length in self.waiting:
            if entry.location is None:
                entry.place(Location(kept.key, kept.version, Span(offset, length), "gzip"))
        self.waiting, self.packed, self.places = [], pack_writer(), {}
        return kept.key

    def end(self) -> End:
        """The last line."""
        files = [entry for entry in self.entries if isinstance(entry, File)]
        return End(counts={"f": len(files)}, bytes=sum(file.size for file in files), problems=0)

    def stored(self, run: str = RUN, host: str = HOST, *, cut: int | None = None) -> str:
        """Write the manifest (its first `cut` bytes); returns its key."""
        self.pack()
        body = written([header(run, host, format=self.format), *self.entries, self.end()])
        key = keys.manifest_key(host, run)
        self.bucket.add(key, body if cut is None else body[:cut])
        return key


def header(run: str = RUN, host: str = HOST, **more: Any) -> RunHeader:
    said: dict[str, Any] = {"format": manifest.FORMAT, "started": MOMENT, "promise": MOMENT, "tool": "test"} | more
    return RunHeader(host=host, run=run, **said)


def written(entries: Sequence[Entry]) -> bytes:
    """The manifest of these lines as sysbackup writes it, entries sorted; of what is no whole one, as it once did."""
    header, end = (entries[0], entries[-1]) if entries else (None, None)
    if not isinstance(header, RunHeader) or header.format == 1 or not isinstance(end, End):
        return older(entries)
    between = entries[1:-1]
    nodes = [(e.path_bytes, manifest.encode(e)) for e in between if isinstance(e, manifest.Node)]
    snapshots = [manifest.encode(e) for e in between if isinstance(e, manifest.Snapshot)]
    log = [manifest.encode(e) for e in between if isinstance(e, manifest.Log)]
    return of_members(header, [*members(sorted(nodes)), *further(snapshots, SNAPSHOTS), *further(log, LOG)], end)


def of_members(header: RunHeader, stretches: Sequence[ManifestMember], end: End) -> bytes:
    """The manifest of members that were cut already."""
    writer = ManifestWriter(header)
    return b"".join([writer.begin(), *map(writer.add, stretches), *writer.end(end)])


def older(entries: Sequence[Entry], *, members: int = 2) -> bytes:
    """These lines, whatever they are, as format 1 has them: in two gzip members, the last line alone, or in one."""
    lines = [manifest.encode(entry) + b"\n" for entry in entries]
    cut = len(lines) + 1 - members
    return b"".join(gzipping.compress(b"".join(some)) for some in (lines[:cut], lines[cut:]) if some)


def restored(
    backup: Backup | ObjectStore,
    target: Path | bytes,
    *paths: bytes,
    overwrite: bool = False,
    numeric_owner: bool = False,
    spool: Path | None = None,
    helped: bool = False,
) -> Report:
    """
    Restore `RUN` of a backup (its manifest is written now) or of any store.

    `helped`: by processes of our own, as a restore of many files is.
    """
    if isinstance(backup, Backup):
        backup.stored()
        store: ObjectStore = backup.store
    else:
        store = backup
    options = Options(overwrite=overwrite, numeric_owner=numeric_owner, spool=spool or Path("/tmp"))
    if helped:
        options = dataclasses.replace(options, many=0, workers=2)

    async def work() -> Report:
        found = await stored_runs.find_run(store, RUN)
        return await restore(store, found, paths, bytes(target), options)

    return uvloop.run(work())


def reasons(report: Report) -> Mapping[bytes, str]:
    """Why what was not restored, by path."""
    return {problem.source: problem.reason for problem in report.problems}


def tree(root: Path) -> dict[str, bytes | str | None]:
    """All that lies under a directory: contents of files, targets of links, None for the rest."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def _common(path: bytes, acl: str | None) -> dict[str, Any]:
    owner = {"owner": "root", "group": "root", "uid": 0, "gid": 0, "mtime": MTIME}
    return manifest.named(path) | owner | ({} if acl is None else {"acl": acl})
