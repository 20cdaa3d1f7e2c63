"""
Makes the golden files: one of everything that sysbackup 0.1.0 leaves behind and that later versions must read.

They were written once, by the version that this script was first committed
with, and are never written again: `tests/unit/test_golden.py` pins their bytes
and says what they mean. A later version reads them as they are. Where it
writes something new it gets golden files of its own, beside these, and where
what is called here is gone, this script may go too: git has it.

Everything is fixed, names of runs and version ids among it, so that it can be
shown whence the files came: `python -m tests.golden.make DIRECTORY` (isal's
igzip, and SQLite's version in the catalog's header, decide over single bytes).
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import UNSET

from sysbackup.catalog import presence, shared
from sysbackup.catalog.known import Catalog, FileState
from sysbackup.config import Config
from sysbackup.formats import gzipping, index, keys, manifest
from sysbackup.formats.pack import Packed, PackWriter
from sysbackup.model import Location, Lock, LockMode, StoredObject
from sysbackup.pipeline.report import Amounts, Ended, Summary, badly, well
from sysbackup.service import history, ledger, status
from sysbackup.service.messages import Progress

STARTED = datetime(2026, 11, 23, 4, 15, 0, 628907, tzinfo=UTC)
PROMISE = datetime(2026, 12, 7, 4, 15, tzinfo=UTC)
LOCKED = PROMISE + timedelta(days=7)
WORKING = "20261123T041500Z-a1003fa9"
RUN = WORKING + "5c0e77d2"
BETAS = "20261122T030000Z-00007e1d00c0ffee"
BUCKET = "bucket at AWS"
SEAL_KEY = bytes(range(32))

HOSTS = b"127.0.0.1 localhost\n" + b"".join(b"10.0.0.%d node%d\n" % (n, n) for n in range(1, 9))
NOISE = hashlib.shake_256(b"incompressible").digest(300)
LONG_NOISE = hashlib.shake_256(b"more than one stored block").digest(70_000)
TWINS = b"two names, one inode\n" * 3
JOURNAL = b"all is well\n" * 90_000  # more than pack_below's 1 MiB
ALONE = hashlib.shake_256(b"stored alone, as it is").digest(500)
MOVING = b"it never held still\n"
DUMP = b"CREATE TABLE houses (street TEXT);\nINSERT INTO houses VALUES ('H\xc3\xa4gerweg');\n"
BETAS_OWN = b"this is beta's\n" * 5

OWNED: dict[str, Any] = {"owner": "root", "group": "root", "uid": 0, "gid": 0, "mtime": 1_700_000_000_123_456_789}
ORDINARY = OWNED | {"acl": "u::rw-,g::r--,o::r--"}


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass
class Bucket:
    """The bucket's objects, one file for each, and what S3 knows of them beside their bytes, in `bucket.json`."""

    directory: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put(
        self,
        key: str,
        body: bytes,
        lock: Lock,
        minutes: int,
        metadata: Mapping[str, str] | None = None,
        *,
        versions: bool = True,
    ) -> StoredObject:
        """Store an object that many minutes after the run's start."""
        path = self.directory / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        version = hashlib.sha256(key.encode()).hexdigest()[:32] if versions else None
        self.known[key] = {
            "version": version,
            "metadata": dict(metadata or {}),
            "mode": lock.mode.value,
            "until": lock.until.isoformat(),
            "modified": (STARTED + timedelta(minutes=minutes)).isoformat(),
        }
        return StoredObject(key, version, len(body), lock)

    def close(self) -> None:
        (self.directory / "bucket.json").write_text(json.dumps(self.known, indent=1, sort_keys=True) + "\n")


@dataclass
class Alpha:
    """What alpha's run stores: the places of its contents, and the objects with what is in each."""

    bucket: Bucket
    places: dict[bytes, Location] = field(default_factory=dict)
    objects: list[tuple[StoredObject, str | None, Sequence[Packed]]] = field(default_factory=list)

    def pack(self, *contents: bytes) -> None:
        writer = PackWriter()
        for content in contents:
            writer.add(sha(content), gzipping.member(content), len(content))
        pack = writer.finish()
        lock = Lock(LockMode.GOVERNANCE, LOCKED)
        metadata = {keys.PACK_INDEX: str(pack.index)}
        stored = self.bucket.put(keys.pack_key(pack.sha), bytes(pack.body), lock, 1, metadata)
        self.objects.append((stored, "gzip", pack.contents))
        for packed in pack.contents:
            at = Location(stored.key, stored.version, packed.offset, packed.length, "gzip")
            self.places[packed.sha] = at

    def alone(self, content: bytes, encoding: str | None) -> None:
        body = gzipping.compress(content) if encoding else content
        metadata = {keys.ENCODING: encoding} if encoding else {}
        lock = Lock(LockMode.GOVERNANCE, LOCKED)
        stored = self.bucket.put(keys.content_key(sha(content)), body, lock, 1, metadata)
        self.objects.append((stored, encoding, [Packed(sha(content), 0, 0, len(content))]))
        self.places[sha(content)] = Location(stored.key, stored.version, encoding=encoding)

    def moving(self, path: bytes, content: bytes) -> Location:
        key = keys.moving_file_key("alpha", WORKING, path)
        stored = self.bucket.put(key, content, Lock(LockMode.GOVERNANCE, PROMISE), 2)
        return Location(stored.key, stored.version)

    def file(self, path: bytes, content: bytes, at: Location | None = None, **more: Any) -> manifest.File:
        said = ORDINARY | {"size": len(content), "sha": sha(content).hex()} | more
        made = manifest.File(**manifest.named(path), **said)
        if content:
            made.place(at or self.places[sha(content)])
        return made


def nodes(alpha: Alpha) -> list[manifest.Entry]:
    """Entries of every kind, in the order of their paths' bytes."""
    folder = OWNED | {"acl": "u::rwx,g::r-x,o::r-x"}
    inherited = "d:u::rwx,d:g::r-x,d:g:backup:r-x,d:m::r-x,d:o::---"
    moving = b"/var/log/busy"
    return [
        manifest.Directory(**manifest.named(b"/"), **folder),
        manifest.Directory(**manifest.named(b"/dev"), **folder),
        manifest.CharDevice(
            **manifest.named(b"/dev/null"), **ORDINARY | {"acl": "u::rw-,g::rw-,o::rw-"}, major=1, minor=3
        ),
        manifest.BlockDevice(**manifest.named(b"/dev/sda"), **ORDINARY | {"group": "disk", "gid": 6}, major=8, minor=0),
        manifest.Directory(**manifest.named(b"/etc"), **folder),
        alpha.file(b"/etc/empty", b""),
        alpha.file(b"/etc/hosts", HOSTS),
        alpha.file(b"/etc/hosts.copy", HOSTS, mtime=0),
        manifest.Directory(
            **manifest.named(b"/srv"), **folder | {"acl": f"{folder['acl']},{inherited}", "flags": "-st"}
        ),
        alpha.file(b"/srv/a\tb", NOISE, acl="u::rw-,u:www-data:r--,u:4711:rw-,g::r--,m::rw-,o::---"),
        alpha.file(b"/srv/alone", ALONE, owner="www-data", uid=33, group=4711, gid=4711),
        alpha.file(b"/srv/caf\xe9", LONG_NOISE, mtime=-5_000_000_001),
        alpha.file(b"/srv/journal", JOURNAL),
        manifest.Link(**manifest.named(b"/srv/link"), **OWNED, target="journal"),
        manifest.Link(**manifest.named("/srv/link to café".encode()), **OWNED, target="caf\ufffd", targetb="Y2Fm6Q=="),
        manifest.Fifo(**manifest.named(b"/srv/pipe"), **ORDINARY),
        alpha.file(b"/srv/sudo", TWINS, **twins(), flags="s--", link="fd01:2a", warnings=["unlocked-copy"]),
        alpha.file(b"/srv/sudoedit", TWINS, **twins(), flags="s--", link="fd01:2a", warnings=["unlocked-copy"]),
        manifest.Directory(**manifest.named(b"/var"), **folder),
        manifest.Directory(**manifest.named(b"/var/log"), **folder),
        alpha.file(moving, MOVING, alpha.moving(moving, MOVING), warnings=["unlocked-copy", "changed-while-read"]),
    ]


def twins() -> dict[str, Any]:
    """What a file has whose ACL could not be understood, and extended attributes."""
    xattrs = {"security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA=", "user.comment": "Z3LDvMOfZQ=="}
    return {"acl": UNSET, "mode": 0o4755, "xattrs": xattrs}


def snapshot(bucket: Bucket) -> manifest.Snapshot:
    """What one snapshotter wrote; its description is more than a header can hold as it is."""
    description, restore = "Häuser\nas SQL", "sqlite3 /srv/houses.db"
    metadata = {keys.RESTORE: restore, keys.DESCRIPTION: "UTF-8''H%C3%A4user%0Aas SQL"}
    key = keys.snapshot_key("alpha", WORKING, b"10 houses~")
    stored = bucket.put(key, DUMP, Lock(LockMode.GOVERNANCE, PROMISE), 3, metadata)
    return manifest.Snapshot(
        name="10 houses~",
        key=stored.key,
        version=stored.version,
        size=len(DUMP),
        sha=sha(DUMP).hex(),
        description=description,
        restore=restore,
        started=STARTED + timedelta(seconds=1),
        finished=STARTED + timedelta(seconds=3, microseconds=5),
    )


def logged() -> list[manifest.Entry]:
    """Two problems and, between them, a note."""
    at = STARTED + timedelta(minutes=1)
    gone = "it was gone when it was to be read, or never there"
    denied = "no permission to read it; run sysbackup as root or with CAP_DAC_READ_SEARCH"
    return [
        manifest.Log(time=at, event="file.denied", reason=denied, **manifest.named(b"/srv/secret\xff")),
        manifest.Log(time=at, event=manifest.VANISHED, reason=gone, **manifest.named(b"/tmp/gone")),
        manifest.Log(time=at, event="snapshotter.failed", reason="it exited with 2", **manifest.named(b"20-mail")),
    ]


def written(entries: Sequence[manifest.Entry], problems: int) -> bytes:
    """A manifest of these entries."""
    counts: dict[str, int] = {}
    size = 0
    writer = manifest.ManifestWriter()
    body = b""
    for entry in entries:
        body += writer.add(manifest.encode(entry))
        if not isinstance(entry, manifest.RunHeader | manifest.Log):
            tag = str(entry.__struct_config__.tag)
            counts[tag] = counts.get(tag, 0) + 1
            size += entry.size if isinstance(entry, manifest.File | manifest.Snapshot) else 0
    return body + writer.end(manifest.End(counts=counts, bytes=size, problems=problems))


def alphas_run(bucket: Bucket) -> Alpha:
    """A run under locks, with everything that a manifest and an index can hold."""
    alpha = Alpha(bucket)
    alpha.pack(HOSTS, NOISE, LONG_NOISE, TWINS)
    alpha.alone(JOURNAL, "gzip")
    alpha.alone(ALONE, None)
    header = manifest.RunHeader(
        format=1, host="alpha", run=RUN, started=STARTED, promise=PROMISE, lock="GOVERNANCE", tool="sysbackup 0.1.0"
    )
    body = written([header, *nodes(alpha), snapshot(bucket), *logged()], problems=2)
    seal = index.Seal("alpha", BUCKET, SEAL_KEY)
    pack, *rest = alpha.objects
    first = index.header("alpha", WORKING) + index.line(*pack, seal=seal)
    then = index.header("alpha", WORKING) + b"".join(index.line(*known, seal=seal) for known in rest)
    then += index.line(*told(), teller="beta", seal=seal)
    lock = Lock(LockMode.GOVERNANCE, LOCKED)
    bucket.put(keys.index_key("alpha", WORKING, 1), gzipping.compress(first), lock, 5)
    bucket.put(keys.index_key("alpha", WORKING), gzipping.compress(then), lock, 6)
    bucket.put(keys.manifest_key("alpha", RUN), body, Lock(LockMode.GOVERNANCE, PROMISE), 7)
    return alpha


def told() -> tuple[StoredObject, str | None, Sequence[Packed]]:
    """What alpha has from beta alone: no version id, the content's own size not known."""
    lock = Lock(LockMode.COMPLIANCE, LOCKED + timedelta(days=1))
    key = keys.content_key(sha(BETAS_OWN))
    return StoredObject(key, None, 61, lock), "gzip", [Packed(sha(BETAS_OWN), 0, 0, -1)]


def betas_run(bucket: Bucket) -> None:
    """A run without locks, on a store without versions, of a host that has no key to seal with."""
    none = Lock(LockMode.NONE, PROMISE)
    started = datetime(2026, 11, 22, 3, tzinfo=UTC)
    stored = bucket.put(keys.content_key(sha(BETAS_OWN)), BETAS_OWN, none, -1400, versions=False)
    entry = manifest.File(**manifest.named(b"/etc/beta"), **ORDINARY, size=len(BETAS_OWN), sha=sha(BETAS_OWN).hex())
    entry.place(Location(stored.key, None))
    header = manifest.RunHeader(
        format=1, host="beta", run=BETAS, started=started, promise=started, lock="none", tool="sysbackup 0.1.0"
    )
    line = index.line(stored, None, [Packed(sha(BETAS_OWN), 0, 0, len(BETAS_OWN))])
    body = gzipping.compress(index.header("beta", BETAS[:-8]) + line)
    bucket.put(keys.index_key("beta", BETAS[:-8]), body, none, -1400, versions=False)
    bucket.put(keys.manifest_key("beta", BETAS), written([header, entry], 0), none, -1400, versions=False)


def summary(**fields: Any) -> Summary:
    """How alpha's run went; every number is another one."""
    said: dict[str, Any] = {
        "outcome": "complete",
        "exit_code": 0,
        "host": "alpha",
        "run": RUN,
        "bucket": "bucket",
        "started": STARTED,
        "finished": STARTED + timedelta(minutes=7, milliseconds=250),
        "seconds": 420.25,
        "promise": PROMISE,
        "manifest": keys.manifest_key("alpha", RUN),
        "manifest_version": "v-of-the-manifest",
        "entries": {"d": 4, "f": 9, "l": 2, "s": 1},
        "files": 101,
        "bytes": 102,
        "unchanged": 103,
        "read": 104,
        "reused": 105,
        "renewed": 106,
        "contents": 107,
        "objects": 108,
        "stored": 109,
        "snapshots": 110,
        "sockets_skipped": 111,
        "warnings": 112,
        "problems": 0,
        "first_problems": [],
        "requests": {"PutObject": 113, "ListObjectsV2": 114},
        "price": 0.000115,
        "next_lock_end": PROMISE - timedelta(days=3),
        "notes": 116,
        "examined": Amounts(117, 118, 119, 120),
    }
    return Summary(**said | fields)


def runs() -> list[Ended]:
    """A run of each kind, the first one first."""
    whose: dict[str, Any] = {"host": "alpha", "started": STARTED, "finished": STARTED + timedelta(seconds=5)}
    problems = [
        {"event": "file.denied", "path": "/srv/secret\\xff", "reason": "no permission to read it"},
        {"event": "snapshotter.failed", "path": "20-mail", "reason": "it exited with 2"},
    ]
    unlocked = summary(promise=None, next_lock_end=None, manifest_version=None, examined=None, rescan=True)
    incomplete = summary(
        outcome="incomplete", exit_code=3, problems=2, first_problems=problems, unseen="the store was gone"
    )
    return [
        badly("failed", 78, "Häuser: no such setting", run=None, **whose),
        well(unlocked),
        well(summary()),
        badly("failed", 1, "the store cannot be reached", run=WORKING, **whose),
        badly("failed", 75, "another run is in progress", run=None, **whose),
        well(incomplete),
        badly("stopped", 143, "told to stop by SIGTERM", run=WORKING, **whose),
    ]


def machine(directory: Path) -> None:
    """What the machine itself keeps beside the catalog: history, a run's mark, a daemon's status, the seal's key."""
    config = Config(directory=directory, cache=directory, state=directory, runtime=directory)
    for ended in runs():
        history.remember(config, ended)
    (directory / "history.jsonl.lock").unlink()
    (directory / "host.key").write_bytes(SEAL_KEY)
    *_, stored, _ = runs()
    complete = well(summary())
    idle = status.Status(
        pid=4711,
        born=815,
        since=STARTED - timedelta(days=2),
        written=STARTED + timedelta(seconds=9),
        directory="/etc/backup",
        state="waiting",
        asked=False,
        current=None,
        last=None,
        last_complete=None,
        last_stored=None,
        next=None,
        refused=[],
        stale_after=129_600.0,
    )
    progress = Progress("backing up", "/srv/journal", 201, 202, 203, 204, 205, 42, 206.5, True, 207)
    current = status.Current(started=STARTED, run=WORKING, promise=PROMISE, progress=progress)
    ledger.mark(config, current)
    status.write(directory / "status-waiting.json", idle)
    busy = {
        **{name: getattr(idle, name) for name in idle.__struct_fields__},
        "state": "running",
        "asked": True,
        "current": current,
        "last": runs()[-1],
        "last_complete": complete,
        "last_stored": stored,
        "next": STARTED + timedelta(days=1),
        "refused": ["[content] days_retained: not a number"],
        "conf": hashlib.sha256(b"[s3]\nbucket = bucket\n").hexdigest(),
    }
    status.write(directory / "status-running.json", status.Status(**busy))


def catalog(directory: Path, alpha: Alpha) -> None:
    """What alpha's run leaves in the cache: its own objects, one of beta's, files as they were."""
    lock = Lock(LockMode.GOVERNANCE, PROMISE)
    with Catalog(directory / "catalog.sqlite") as cache:
        cache.begin(BUCKET, "alpha", lock, STARTED, doubting=True)
        for known in alpha.objects:
            cache.confirm(*known)
        shared.begin_publishing(cache)
        shared.published(cache, "alpha", keys.index_key("alpha", WORKING), LOCKED)
        stored, encoding, contents = told()
        shared.learn(cache, "beta", [index.Indexed(stored, encoding, tuple(contents))], STARTED, doubting=True)
        shared.read_up_to(cache, {"beta": keys.index_key("beta", BETAS[:-8])})
        pack = alpha.objects[0][0].key
        presence.turn_to(cache, pack)
        mtime = 1_700_000_000_123_456_789
        cache.remember(
            [
                FileState(64_769, 42, len(TWINS), mtime, mtime + 1, sha(TWINS)),
                FileState(64_769, (1 << 64) - 2, len(JOURNAL), -5, mtime, sha(JOURNAL)),
                FileState(64_770, 42, 0, mtime, mtime, sha(b"")),
            ]
        )
        cache.tidy(STARTED)


def make(directory: Path) -> None:
    """All of it, into an empty directory."""
    directory.mkdir(parents=True)
    bucket = Bucket(directory)
    betas_run(bucket)
    alpha = alphas_run(bucket)
    bucket.close()
    machine(directory)
    catalog(directory, alpha)
    made = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    sums = "".join(f"{sha((directory / name).read_bytes()).hex()}  {name}\n" for name in made)
    (directory / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
