"""
The golden files: what sysbackup 0.1.0 left behind is read by this version, and means what it meant.

The files are data that somebody has in a bucket, locked for years, or on a
machine that is upgraded tonight. A test that fails here is never mended by
writing them anew: it is the reader that must go on reading.
"""

import gzip
import hashlib
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.config.sections import Config
from sysbackup.contents.learning import Trust, learn_all
from sysbackup.contents.sealing import host_seal
from sysbackup.formats import keys
from sysbackup.formats.ends import end_in, ends
from sysbackup.formats.index import Indexed, IndexReader, Seal
from sysbackup.formats.manifest import (
    BlockDevice,
    CharDevice,
    Directory,
    End,
    Entry,
    Fifo,
    File,
    Link,
    Log,
    Node,
    RunHeader,
    Snapshot,
)
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.formats.pack import read_index
from sysbackup.formats.run_result import Counts, RunResult, Summary
from sysbackup.model import FileState, Location, Lock, LockMode, Member, Span, StoredObject
from sysbackup.recovery import excerpting
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from sysbackup.recovery.single_files import content, find_file
from sysbackup.recovery.snapshots import find_snapshot
from sysbackup.recovery.stored_runs import find, runs
from sysbackup.service.history import recall, recall_past
from sysbackup.service.ledger import Ledger
from sysbackup.service.messages import Progress
from sysbackup.service.status_file import Current, Status
from sysbackup.service.status_file import read as read_status
from tests.support.backups import run
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore

GOLDEN = Path(__file__).parents[1] / "golden"

PINNED = "d04d789cf6ff836aea87e3169583bcd043f4f8e22c7e0ba4ba49f8d28c822d6f"
"""The SHA-256 of their list, which has those of all the others (sha256sum -c SHA256SUMS)."""

STARTED = datetime(2026, 11, 23, 4, 15, 0, 628907, tzinfo=UTC)
PROMISE = datetime(2026, 12, 7, 4, 15, tzinfo=UTC)
LOCKED = datetime(2026, 12, 14, 4, 15, tzinfo=UTC)
WORKING = "20261123T041500Z-a1003fa9"
RUN = "20261123T041500Z-a1003fa95c0e77d2"
BETAS = "20261122T030000Z-00007e1d00c0ffee"
GAMMAS = "20261126T091500Z-3c1b2a00feed5eed"
BUCKET = "bucket at AWS"

HOSTS = b"127.0.0.1 localhost\n" + b"".join(b"10.0.0.%d node%d\n" % (n, n) for n in range(1, 9))
NOISE = hashlib.shake_256(b"incompressible").digest(300)
LONG_NOISE = hashlib.shake_256(b"more than one stored block").digest(70_000)
TWINS = b"two names, one inode\n" * 3
JOURNAL = b"all is well\n" * 90_000
ALONE = hashlib.shake_256(b"stored alone, as it is").digest(500)
MOVING = b"it never held still\n"
DUMP = "CREATE TABLE houses (street TEXT);\nINSERT INTO houses VALUES ('Hägerweg');\n".encode()
BETAS_OWN = b"this is beta's\n" * 5

CONTENTS = {
    b"/etc/empty": b"",
    b"/etc/hosts": HOSTS,
    b"/etc/hosts.copy": HOSTS,
    b"/srv/a\tb": NOISE,
    b"/srv/alone": ALONE,
    b"/srv/caf\xe9": LONG_NOISE,
    b"/srv/journal": JOURNAL,
    b"/srv/sudo": TWINS,
    b"/srv/sudoedit": TWINS,
    b"/var/log/busy": MOVING,
}
"""What every file of alpha's run holds."""

PACK = StoredObject(
    "packs/df1e4eca7ed0d0c7de04edd3da82408f7ed0476d697f2c02cd932bcb6cccb90d",
    "bd02e879f2f7a6dbbb78178715282c0a",
    70_698,
    Lock(LockMode.GOVERNANCE, LOCKED),
)
PACKED = (
    Member(hashlib.sha256(HOSTS).digest(), 140, Span(0, 87)),
    Member(hashlib.sha256(NOISE).digest(), 300, Span(87, 323)),
    Member(hashlib.sha256(LONG_NOISE).digest(), 70_000, Span(410, 70_028)),
    Member(hashlib.sha256(TWINS).digest(), 63, Span(70_438, 43)),
)


def alone(content: bytes, version: str | None, size: int, lock: Lock) -> StoredObject:
    """A content object."""
    return StoredObject(f"content/{hashlib.sha256(content).hexdigest()}", version, size, lock)


JOURNALS = alone(JOURNAL, "db4d730c21be6d5ed9e7b0116b30a15c", 6833, Lock(LockMode.GOVERNANCE, LOCKED))
ALONES = alone(ALONE, "2aea79f1fdef17fe385f36978ee46e97", 500, Lock(LockMode.GOVERNANCE, LOCKED))
TOLD = alone(BETAS_OWN, None, 61, Lock(LockMode.COMPLIANCE, LOCKED + timedelta(days=1)))
BETAS_STORED = alone(BETAS_OWN, None, 75, Lock(LockMode.NONE, PROMISE))

OWNED: dict[str, Any] = {"owner": "root", "group": "root", "uid": 0, "gid": 0, "mtime": 1_700_000_000_123_456_789}
FOLDER = OWNED | {"acl": "u::rwx,g::r-x,o::r-x"}
ORDINARY = OWNED | {"acl": "u::rw-,g::r--,o::r--"}
TWIN = OWNED | {
    "size": 63,
    "sha": PACKED[3].sha.hex(),
    "key": PACK.key,
    "version": PACK.version,
    "offset": 70_438,
    "length": 43,
    "encoding": "gzip",
    "link": "fd01:2a",
    "warnings": ["unlocked-copy"],
    "mode": 0o4755,
    "flags": "s--",
    "xattrs": {"security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA=", "user.comment": "Z3LDvMOfZQ=="},
}


def packed(number: int) -> dict[str, Any]:
    """What the entry of a file says of its content in the pack."""
    sha, size, span = PACKED[number]
    assert span is not None
    offset, length = span
    where = {"key": PACK.key, "version": PACK.version, "offset": offset, "length": length, "encoding": "gzip"}
    return {"size": size, "sha": sha.hex()} | where


MANIFEST: list[Entry] = [
    RunHeader(
        format=1, host="alpha", run=RUN, started=STARTED, promise=PROMISE, lock="GOVERNANCE", tool="sysbackup 0.1.0"
    ),
    Directory(path="/", **FOLDER),
    Directory(path="/dev", **FOLDER),
    CharDevice(path="/dev/null", major=1, minor=3, **OWNED, acl="u::rw-,g::rw-,o::rw-"),
    BlockDevice(path="/dev/sda", major=8, minor=0, **ORDINARY | {"group": "disk", "gid": 6}),
    Directory(path="/etc", **FOLDER),
    File(path="/etc/empty", size=0, sha=hashlib.sha256().hexdigest(), **ORDINARY),
    File(path="/etc/hosts", **packed(0), **ORDINARY),
    File(path="/etc/hosts.copy", **packed(0), **ORDINARY | {"mtime": 0}),
    Directory(
        path="/srv",
        **OWNED,
        acl="u::rwx,g::r-x,o::r-x,d:u::rwx,d:g::r-x,d:g:backup:r-x,d:m::r-x,d:o::---",
        flags="-st",
    ),
    File(path="/srv/a\tb", **packed(1), **OWNED, acl="u::rw-,u:www-data:r--,u:4711:rw-,g::r--,m::rw-,o::---"),
    File(
        path="/srv/alone",
        size=500,
        sha=hashlib.sha256(ALONE).hexdigest(),
        key=ALONES.key,
        version="2aea79f1fdef17fe385f36978ee46e97",
        **ORDINARY | {"owner": "www-data", "uid": 33, "group": 4711, "gid": 4711},
    ),
    File(path="/srv/caf\ufffd", pathb="L3Nydi9jYWbp", **packed(2), **ORDINARY | {"mtime": -5_000_000_001}),
    File(
        path="/srv/journal",
        size=1_080_000,
        sha=hashlib.sha256(JOURNAL).hexdigest(),
        key=JOURNALS.key,
        version="db4d730c21be6d5ed9e7b0116b30a15c",
        encoding="gzip",
        **ORDINARY,
    ),
    Link(path="/srv/link", target="journal", **OWNED),
    Link(path="/srv/link to café", target="caf\ufffd", targetb="Y2Fm6Q==", **OWNED),
    Fifo(path="/srv/pipe", **ORDINARY),
    File(path="/srv/sudo", **TWIN),
    File(path="/srv/sudoedit", **TWIN),
    Directory(path="/var", **FOLDER),
    Directory(path="/var/log", **FOLDER),
    File(
        path="/var/log/busy",
        size=20,
        sha=hashlib.sha256(MOVING).hexdigest(),
        key="snapshots/alpha/20261123T041500Z-a1003fa9-file-8a7701b2fb92603d99f7115fd70afa9c",
        version="9455b04ecb6589270ad9d62709ca0734",
        warnings=["unlocked-copy", "changed-while-read"],
        **ORDINARY,
    ),
    Snapshot(
        name="10 houses~",
        key="snapshots/alpha/20261123T041500Z-a1003fa9-10%20houses%7E",
        version="84a35b8227d4fd2a48d8fb82d06741ab",
        size=76,
        sha=hashlib.sha256(DUMP).hexdigest(),
        description="Häuser\nas SQL",
        restore="sqlite3 /srv/houses.db",
        started=STARTED + timedelta(seconds=1),
        finished=STARTED + timedelta(seconds=3, microseconds=5),
    ),
    Log(
        time=STARTED + timedelta(minutes=1),
        event="file.denied",
        path="/srv/secret\ufffd",
        pathb="L3Nydi9zZWNyZXT/",
        reason="no permission to read it; run sysbackup as root or with CAP_DAC_READ_SEARCH",
    ),
    Log(
        time=STARTED + timedelta(minutes=1),
        event="file.vanished",
        path="/tmp/gone",
        reason="it was gone when it was to be read, or never there",
    ),
    Log(time=STARTED + timedelta(minutes=1), event="snapshotter.failed", path="20-mail", reason="it exited with 2"),
    End(counts={"d": 6, "c": 1, "b": 1, "f": 10, "l": 2, "p": 1, "s": 1}, bytes=1_151_302, problems=2),
]

BETAS_MANIFEST: list[Entry] = [
    RunHeader(
        format=1,
        host="beta",
        run=BETAS,
        started=datetime(2026, 11, 22, 3, tzinfo=UTC),
        promise=datetime(2026, 11, 22, 3, tzinfo=UTC),
        lock="none",
        tool="sysbackup 0.1.0",
    ),
    File(path="/etc/beta", size=75, sha=hashlib.sha256(BETAS_OWN).hexdigest(), key=BETAS_STORED.key, **ORDINARY),
    End(counts={"f": 1}, bytes=75, problems=0),
]

GAMMAS_MANIFEST: list[Entry] = [
    RunHeader(
        format=2,
        host="gamma",
        run=GAMMAS,
        started=datetime(2026, 11, 26, 9, 15, 0, 234802, tzinfo=UTC),
        promise=datetime(2026, 12, 10, 9, 15, tzinfo=UTC),
        lock="GOVERNANCE",
        tool="sysbackup 0.1.0",
    ),
    *MANIFEST[1:],
]
"""Of format 2, in members of three lines at the most, with a table of two levels: twins of alpha's files."""

SUMMARY = Summary(
    outcome="complete",
    exit_code=0,
    host="alpha",
    run=RUN,
    bucket="bucket",
    started=STARTED,
    finished=STARTED + timedelta(minutes=7, milliseconds=250),
    seconds=420.25,
    promise=PROMISE,
    manifest=f"manifests/alpha/{RUN}.jsonl.gz",
    manifest_version="v-of-the-manifest",
    entries={"d": 4, "f": 9, "l": 2, "s": 1},
    files=101,
    bytes=102,
    unchanged=103,
    read=104,
    reused=105,
    renewed=106,
    contents=107,
    objects=108,
    stored=109,
    snapshots=110,
    sockets_skipped=111,
    warnings=112,
    problems=0,
    first_problems=[],
    requests={"PutObject": 113, "ListObjectsV2": 114},
    price=0.000115,
    next_lock_end=datetime(2026, 12, 4, 4, 15, tzinfo=UTC),
    notes=116,
    first_notes=[],
    examined=Counts(files=117, bytes=118, read=119, snapshots=120),
    rescan=False,
    unseen=None,
)


def ended(summary: Summary | None = None, /, **fields: Any) -> RunResult:
    """The end of a run, with this summary where it stored a manifest."""
    if summary is None:
        return RunResult(host="alpha", started=STARTED, finished=STARTED + timedelta(seconds=5), **fields)
    said = {name: getattr(summary, name) for name in ("outcome", "exit_code", "host", "run", "started", "finished")}
    return RunResult(summary=summary, **said)


COMPLETE = ended(SUMMARY)
STOPPED = ended(outcome="stopped", exit_code=143, run=WORKING, reason="told to stop by SIGTERM")
INCOMPLETE = ended(
    replace(
        SUMMARY,
        outcome="incomplete",
        exit_code=3,
        problems=2,
        first_problems=[
            {"event": "file.denied", "path": "/srv/secret\\xff", "reason": "no permission to read it"},
            {"event": "snapshotter.failed", "path": "20-mail", "reason": "it exited with 2"},
        ],
        unseen="the store was gone",
    )
)
HISTORY = [
    STOPPED,
    INCOMPLETE,
    ended(outcome="failed", exit_code=75, run=None, reason="another run is in progress"),
    ended(outcome="failed", exit_code=1, run=WORKING, reason="the store cannot be reached"),
    COMPLETE,
    ended(replace(SUMMARY, promise=None, next_lock_end=None, manifest_version=None, examined=None, rescan=True)),
    ended(outcome="failed", exit_code=78, run=None, reason="Häuser: no such setting"),
]


# ---- the files


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def test_they_are_never_written_again() -> None:
    """Each has the bytes that it had when it was made, none is gone, and none is there that nobody pinned."""
    assert hashlib.sha256(golden("SHA256SUMS")).hexdigest() == PINNED
    listed = [line.split("  ", 1) for line in golden("SHA256SUMS").decode().splitlines()]
    found = {
        str(path.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in GOLDEN.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "SHA256SUMS"
    }
    assert found == {name: digest for digest, name in listed}


def bucket() -> MemoryBucket:
    """The golden bucket; objects that were stored without a version id have one here."""
    made = MemoryBucket(ManualClock(STARTED + timedelta(days=1)))
    for key, said in (json.loads(golden("bucket.json")) | json.loads(golden("bucket-2.json"))).items():
        mode = LockMode(said["mode"])
        lock = None if mode is LockMode.NONE else Lock(mode, datetime.fromisoformat(said["until"]))
        kept = made.add(key, golden(f"bucket/{key}"), lock=lock, metadata=said["metadata"])
        kept.version = said["version"] or "null"
        kept.modified = datetime.fromisoformat(said["modified"])
    return made


# ---- the manifest


def read(packed: bytes, step: int) -> list[Entry]:
    reader = ManifestReader()
    found = [entry for at in range(0, len(packed), step) for entry in reader.feed(packed[at : at + step])]
    reader.finish()
    return found


MANIFESTS = [(f"alpha/{RUN}", MANIFEST), (f"beta/{BETAS}", BETAS_MANIFEST), (f"gamma/{GAMMAS}", GAMMAS_MANIFEST)]


@pytest.mark.parametrize(("key", "said"), MANIFESTS)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_manifests(key: str, said: list[Entry], step: int) -> None:
    """Every line and every field of it, in order; so are its ends alone."""
    body = golden(f"bucket/manifests/{key}.jsonl.gz")
    assert read(body, step) == said
    assert ends(body) == (said[0], said[-1])
    assert end_in(body[-300:]) == said[-1]


def test_what_a_manifest_means() -> None:
    """The exact bytes of names, where contents lie, what is promised, and what is not said."""
    nodes = {entry.path_bytes: entry for entry in MANIFEST if isinstance(entry, Node)}
    said = {path: entry for path, entry in nodes.items() if isinstance(entry, File)}
    assert [*nodes] == sorted(nodes)
    assert said.keys() == CONTENTS.keys()
    assert said[b"/etc/empty"].location is None
    assert said[b"/etc/hosts"].location == Location(PACK.key, PACK.version, Span(0, 87), "gzip")
    assert said[b"/srv/alone"].location == Location(ALONES.key, ALONES.version)
    assert said[b"/srv/journal"].location == Location(JOURNALS.key, JOURNALS.version, encoding="gzip")
    assert said[b"/etc/hosts"].link is said[b"/etc/hosts"].warnings is said[b"/etc/hosts"].mode is UNSET
    link = nodes[b"/srv/link to caf\xc3\xa9"]
    assert isinstance(link, Link)
    assert link.target_bytes == b"caf\xe9"
    header, betas = MANIFEST[0], BETAS_MANIFEST[0]
    assert isinstance(header, RunHeader)
    assert isinstance(betas, RunHeader)
    assert header.promised == PROMISE
    assert betas.promised is None


def test_names() -> None:
    """Hosts, runs and hashes are told from the keys."""
    assert keys.manifest_parts(f"manifests/alpha/{RUN}.jsonl.gz") == ("alpha", RUN)
    assert keys.index_host(f"index/beta/{BETAS[:-8]}.jsonl.gz") == "beta"
    assert keys.pack_sha(PACK.key) == hashlib.sha256(golden(f"bucket/{PACK.key}")).digest()
    assert keys.content_sha(JOURNALS.key) == hashlib.sha256(JOURNAL).digest()


# ---- contents


def test_the_pack() -> None:
    """Its list names its contents; each lies in its range as gzip, compressed or of stored blocks."""
    body = golden(f"bucket/{PACK.key}")
    begin = int(json.loads(golden("bucket.json"))[PACK.key]["metadata"]["pack-index"])
    assert (begin, len(body)) == (70_481, PACK.size)
    assert read_index(body[begin:], begin) == list(PACKED)
    found = [gzip.decompress(body[p.span.offset : p.span.end]) for p in PACKED if p.span]
    assert found == [HOSTS, NOISE, LONG_NOISE, TWINS]


def test_content_objects() -> None:
    """One holds its content as gzip and says so in its metadata, the other holds it as it is."""
    metadata = {key: said["metadata"] for key, said in json.loads(golden("bucket.json")).items()}
    assert metadata[JOURNALS.key] == {"storage-encoding": "gzip"}
    assert gzip.decompress(golden(f"bucket/{JOURNALS.key}")) == JOURNAL
    assert metadata[ALONES.key] == {}
    assert golden(f"bucket/{ALONES.key}") == ALONE


@pytest.mark.parametrize(("host", "name"), [("alpha", RUN), ("gamma", GAMMAS)])
def test_a_restore_brings_everything_back(tmp_path: Path, host: str, name: str) -> None:
    """The whole bucket through this version's own restore: each file's bytes, hard links, symbolic links."""
    store = MemoryStore(bucket())
    target = tmp_path / "target"

    async def work() -> None:
        found = await find(store, "latest", host)
        assert (found.run.run, found.notes, found.run.oddity) == (name, (), None)
        report = await restore(store, found.run, [b"/etc", b"/srv", b"/var"], bytes(target), Options(spool=tmp_path))
        assert (report.problems, report.counts.files, report.counts.hard_links) == ((), 9, 1)

    run(work())
    root = bytes(target)
    assert {path: Path(os.fsdecode(root + path)).read_bytes() for path in CONTENTS} == CONTENTS
    assert os.stat(root + b"/srv/sudo").st_ino == os.stat(root + b"/srv/sudoedit").st_ino
    assert os.readlink(root + b"/srv/link to caf\xc3\xa9") == b"caf\xe9"
    assert os.stat(root + b"/srv/caf\xe9").st_mtime_ns == -5_000_000_001


@pytest.mark.parametrize("tail", [400, 1000, 4096])
def test_the_table_is_followed(monkeypatch: pytest.MonkeyPatch, tail: int) -> None:
    """Through both of its levels, to each entry and to the snapshot, without a look at the rest."""
    monkeypatch.setattr(excerpting, "_WHOLE", 0)
    monkeypatch.setattr(excerpting, "_TAIL", (tail, tail))
    monkeypatch.setattr(excerpting, "_GAP", 0)
    store = MemoryStore(bucket())

    async def work() -> None:
        gammas = (await find(store, GAMMAS, "gamma")).run
        for entry in GAMMAS_MANIFEST:
            if isinstance(entry, File):
                found = await find_file(store, gammas, entry.path_bytes)
                assert found == entry
                assert b"".join([piece async for piece in content(store, found)]) == CONTENTS[entry.path_bytes]
        assert await find_snapshot(store, gammas, "10 houses~") == GAMMAS_MANIFEST[-5]

    run(work())


def test_all_runs_are_listed() -> None:
    """Of all hosts, with nothing odd about them."""
    found = run(runs(MemoryStore(bucket())))
    assert [(r.host, r.run, r.oddity) for r in found] == [
        ("beta", BETAS, None),
        ("alpha", RUN, None),
        ("gamma", GAMMAS, None),
    ]


# ---- the index


def indexed(name: str, seal: Seal | None) -> list[Indexed]:
    reader = IndexReader(seal)
    found = [*reader.feed(golden(f"bucket/index/{name}.jsonl.gz"))]
    reader.finish()
    return found


@pytest.fixture
def seal(tmp_path: Path) -> Seal:
    """Alpha's, by the golden key."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copyfile(GOLDEN / "host.key", state / "host.key")
    (state / "host.key").chmod(0o600)
    made = host_seal(state, "alpha", BUCKET)
    assert made is not None
    assert (state / "host.key").read_bytes() == bytes(range(32))
    return made


@pytest.mark.parametrize("knowing", [True, False])
def test_indexes(seal: Seal, knowing: bool) -> None:
    """Each object with its lock and contents; whose word it is, and which lines the host knows for its own."""
    own = seal if knowing else None
    pack = Indexed(PACK, "gzip", PACKED, sealed=knowing)
    journal = Indexed(JOURNALS, "gzip", (Member(hashlib.sha256(JOURNAL).digest(), 1_080_000),), sealed=knowing)
    plain = Indexed(ALONES, None, (Member(hashlib.sha256(ALONE).digest(), 500),), sealed=knowing)
    told = Indexed(TOLD, "gzip", (Member(hashlib.sha256(BETAS_OWN).digest(), -1),), "beta")
    betas = Indexed(BETAS_STORED, None, (Member(hashlib.sha256(BETAS_OWN).digest(), 75),))
    assert indexed(f"alpha/{WORKING}.00001", own) == [pack]
    assert indexed(f"alpha/{WORKING}", own) == [journal, plain, told]
    assert indexed(f"beta/{BETAS[:-8]}", own) == [betas]


@pytest.mark.parametrize(
    ("host", "where", "key"),
    [("beta", BUCKET, bytes(range(32))), ("alpha", "bucket at x", bytes(range(32))), ("alpha", BUCKET, bytes(32))],
)
def test_another_seal_is_a_strangers(host: str, where: str, key: bytes) -> None:
    """Another host's, another bucket's, another key's."""
    (pack,) = indexed(f"alpha/{WORKING}.00001", Seal(host, where, key))
    assert not pack.sealed


def test_a_lost_catalog_is_built_from_the_index(tmp_path: Path, seal: Seal) -> None:
    """By a host that trusts its own word alone: it needs no other proof than its seal. Beta's word is nobody's."""
    store = MemoryStore(bucket())
    with SqliteCatalog(tmp_path / "catalog.sqlite") as catalog:
        session = catalog.begin(BUCKET, "alpha", Lock(LockMode.GOVERNANCE, PROMISE), STARTED, doubting=True)
        trust = Trust("alpha", ("own",), doubting=True, seal=seal)
        assert run(learn_all(store, session.indexes, trust, ManualClock(STARTED + timedelta(days=1)))) == 2
        found = catalog.info()
        assert (found.objects, found.contents, found.hosts, found.unpublished) == (3, 6, {"alpha": 3}, 0)
        assert not session.indexes.unproven()
        located = session.contents.locate([p.sha for p in PACKED], promised=True)
        assert located == {p.sha: Location(PACK.key, PACK.version, p.span, "gzip") for p in PACKED}


# ---- the catalog


@pytest.fixture(params=["catalog.sqlite", "catalog-3.sqlite"])
def catalog_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one of version 2 or 3, for whoever opens it writes to it."""
    path = tmp_path / "catalog.sqlite"
    shutil.copyfile(GOLDEN / request.param, path)
    return path


@pytest.mark.parametrize("read_only", [True, False])
def test_the_catalog_is_looked_at(catalog_path: Path, read_only: bool) -> None:
    """What it holds in all, and by whose word; nothing is set aside. One of version 2 is taken over first."""
    if read_only:
        SqliteCatalog(catalog_path).close()
    with SqliteCatalog(catalog_path, read_only=read_only) as catalog:
        found = catalog.info()
        assert (found.objects, found.contents, found.files, found.bucket) == (4, 7, 3, BUCKET)
        assert found.stored == PACK.size + JOURNALS.size + ALONES.size + TOLD.size
        assert found.locks == (LOCKED, LOCKED + timedelta(days=1))
        assert found.hosts == {"alpha": 3, "beta": 1}
        assert found.unpublished == 0
    assert [*catalog_path.parent.glob("*unusable*")] == []


def test_a_run_goes_on_from_the_catalog(catalog_path: Path) -> None:
    """How far the indexes were read, where the last look at the bucket ended, and when locks end."""
    with SqliteCatalog(catalog_path) as catalog:
        session = catalog.begin(BUCKET, "alpha", Lock(LockMode.GOVERNANCE, PROMISE), STARTED)
        assert session.next_lock_end(STARTED) == LOCKED
        last = {"alpha": f"index/alpha/{WORKING}.jsonl.gz", "beta": f"index/beta/{BETAS[:-8]}.jsonl.gz"}
        assert session.indexes.last_read() == last
        assert session.indexes.still_locked(STARTED) == last["alpha"]
        assert session.indexes.still_locked(LOCKED) is None
        assert session.indexes.unproven()
        assert session.presence.turned_to() == PACK.key
        beta = catalog.begin(BUCKET, "beta", Lock(LockMode.GOVERNANCE, PROMISE), STARTED)
        assert beta.indexes.still_locked(STARTED) is None


def test_the_catalog_spares_what_is_known(catalog_path: Path) -> None:
    """A run of this version stores nothing of it again, and reads no file that is as it was."""
    mtime = 1_700_000_000_123_456_789
    same = [
        FileState(64_769, 42, len(TWINS), mtime, mtime + 1),
        FileState(64_769, (1 << 64) - 2, len(JOURNAL), -5, mtime),
        FileState(64_770, 42, 0, mtime, mtime),
    ]
    new = hashlib.sha256(b"new").digest()
    known = [*(p.sha for p in PACKED), *(hashlib.sha256(c).digest() for c in (JOURNAL, ALONE, BETAS_OWN))]
    with SqliteCatalog(catalog_path) as catalog:
        session = catalog.begin(BUCKET, "alpha", Lock(LockMode.GOVERNANCE, PROMISE), STARTED)
        assert session.files.unchanged(same) == {
            (64_769, 42): hashlib.sha256(TWINS).digest(),
            (64_769, (1 << 64) - 2): hashlib.sha256(JOURNAL).digest(),
            (64_770, 42): hashlib.sha256().digest(),
        }
        changed = [state._replace(ctime=state.ctime + 1) for state in same]
        assert session.files.unchanged(changed) == {}
        assert session.contents.stored([*known, new]) == {*known}
        located = session.contents.locate(known)
        assert [located[sha] for sha in known] == [
            *(Location(PACK.key, PACK.version, p.span, "gzip") for p in PACKED),
            Location(JOURNALS.key, JOURNALS.version, encoding="gzip"),
            Location(ALONES.key, ALONES.version),
            Location(TOLD.key, None, encoding="gzip"),
        ]


# ---- what the machine keeps


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A machine with the golden history."""
    shutil.copyfile(GOLDEN / "history.jsonl", tmp_path / "history.jsonl")
    return Config(directory=tmp_path, cache=tmp_path, state=tmp_path, runtime=tmp_path)


def test_the_history(config: Config) -> None:
    """No run is forgotten, and nothing that was said of one; the latest comes first."""
    assert recall(config) == HISTORY


def test_what_the_history_says_in_all(config: Config) -> None:
    """The last run, the last complete one and the last with a manifest, whatever came to nothing in between."""
    past, seen = recall_past(config)
    assert (past.last, past.complete, past.stored) == (STOPPED, COMPLETE, INCOMPLETE)
    assert seen == HISTORY


WAITING = Status(
    format=1,
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
    conf=None,
)
CURRENT = Current(
    started=STARTED,
    run=WORKING,
    promise=PROMISE,
    progress=Progress("backing up", "/srv/journal", 201, 202, 203, 204, 205, 42, 206.5, True, 207),
)
RUNNING = replace(
    WAITING,
    state="running",
    asked=True,
    current=CURRENT,
    last=STOPPED,
    last_complete=COMPLETE,
    last_stored=INCOMPLETE,
    next=STARTED + timedelta(days=1),
    refused=["[content] days_retained: not a number"],
    conf="bdcf31618014a6fac6011762a705d02b68fd7bf604c8a785ea68f5b62c77546a",
)


@pytest.mark.parametrize(("name", "said"), [("waiting", WAITING), ("running", RUNNING)])
def test_the_status(name: str, said: Status) -> None:
    """What a daemon of that version has left is understood by the command of this one."""
    assert read_status(GOLDEN / f"status-{name}.json") == said


def test_the_mark_of_a_run(config: Config) -> None:
    """A run that died with a daemon of that version is heard of from this one."""
    shutil.copyfile(GOLDEN / "running.json", config.state / "running.json")
    assert run(Ledger(config).dead()) == CURRENT
