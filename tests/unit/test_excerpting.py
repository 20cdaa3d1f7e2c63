"""A few entries of a large run cost a few small requests, whatever is wrong with the rest of its manifest."""

import hashlib
import tracemalloc
import zlib
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, keys, manifest
from sysbackup.formats.manifest import Directory, Entry, File, FileNode, Node
from sysbackup.formats.manifest_members import SNAPSHOTS, ManifestMember, further, members
from sysbackup.recovery import excerpting, single_files, stored_runs
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from sysbackup.recovery.selecting import Selection
from sysbackup.recovery.snapshots import find_snapshot
from sysbackup.store.port import ObjectStore
from tests.support.garbling import GarblingStore
from tests.support.memory_store import MemoryStore
from tests.support.recovering import END, HOST, MOMENT, RUN, Backup, header, of_members, older

MIB = 1 << 20
FILES = 100_000
IN_ONE = 100


def line(path: bytes, sha: str) -> bytes:
    """A file's entry, made quickly: of hashes as few bytes are saved by packing as of real ones."""
    return b'{"typ":"f","path":"%s","sz":1,"sha":"%s","dat":"content/%s"}' % (path, sha.encode(), sha.encode())


@pytest.fixture(scope="module")
def large() -> Backup:
    """A run of very many files, and some that can be restored."""
    backup = Backup()
    hosts = backup.file(b"/srv/d0500/hosts", b"127.0.0.1\n")
    alone = backup.file(b"/srv/d0500/alone", bytes(9 * MIB) + b"its end")
    above = [backup.directory(path) for path in (b"/", b"/srv", b"/srv/d0500", b"/srv/d0500-old")]
    backup.entries.append(
        manifest.Snapshot(name="db", key="snapshots/alpha/x", size=3, sha="0" * 64, started=MOMENT, finished=MOMENT)
    )
    snapshot = backup.entries[-1]
    backup.pack()
    nodes: list[FileNode] = [hosts, alone, *above]
    lines = {node.path_bytes: manifest.encode(node) for node in nodes}
    for number in range(FILES):
        path = b"/srv/d%04d/f%06d" % (number // IN_ONE, number)
        lines[path] = line(path, hashlib.sha256(path).hexdigest())
    stretches = [*members(sorted(lines.items()))]
    stretches += further([manifest.encode(snapshot)], SNAPSHOTS)
    backup.bucket.add(keys.manifest_key(HOST, RUN), of_members(header(), stretches, END))
    return backup


@pytest.fixture(params=["table in the tail", "table too large for that"])
def store(large: Backup, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Over that run; `requests` begin at none."""
    if request.param != "table in the tail":
        monkeypatch.setattr(excerpting, "_TAIL", (4096, 4096))
    return large.store


async def listed(store: ObjectStore, *paths: bytes) -> list[bytes]:
    """What `ls latest` of these would show."""
    selection = Selection(paths)
    run = (await stored_runs.find(store, "latest", HOST)).run
    found = []
    async with aclosing(stored_runs.batches(store, run, only=selection.stretches())) as batches:
        async for batch in batches:
            found += [entry.path_bytes for entry in batch if isinstance(entry, Node)]
    return [path for path in found if path in selection]


def cost(store: MemoryStore) -> int:
    return sum(store.requests.by_kind.values())


def test_ls_of_one_directory(store: MemoryStore) -> None:
    """Four requests, the search for the latest run among them, and little is read."""
    found = uvloop.run(listed(store, b"/srv/d0777"))
    assert found == [b"/srv/d0777/f%06d" % number for number in range(77_700, 77_800)]
    assert cost(store) <= 4
    assert store.requests.received < 300_000


def test_ls_of_what_is_not_there(store: MemoryStore) -> None:
    """It costs no more."""
    assert uvloop.run(listed(store, b"/nowhere")) == []
    assert cost(store) <= 4


def test_ls_of_a_directory_whose_entry_is_elsewhere(store: MemoryStore) -> None:
    """Between /srv/d0500 and what lies in it comes all of /srv/d0500-old, were it large: both are found."""
    found = uvloop.run(listed(store, b"/srv/d0500"))
    assert len(found) == IN_ONE + 3
    assert found[0] == b"/srv/d0500"
    assert b"/srv/d0500-old" not in found
    assert cost(store) <= 4


@pytest.mark.parametrize(("name", "end"), [(b"hosts", b"127.0.0.1\n"), (b"alone", b"\0its end")])
def test_cat_of_one_file(store: MemoryStore, name: bytes, end: bytes) -> None:
    """Four requests where the table is in the manifest's tail, as it is up to some millions of files; else five."""

    async def work() -> bytes:
        run = (await stored_runs.find(store, "latest", HOST)).run
        file = await single_files.find_file(store, run, b"/srv/d0500/" + name)
        return b"".join([piece async for piece in single_files.content(store, file)])

    assert uvloop.run(work()).endswith(end)
    assert cost(store) <= (4 if excerpting._TAIL[0] > 4096 else 5)


def test_restore_of_one_file(store: MemoryStore, tmp_path: Path) -> None:
    """With the directories above it, wherever these stand."""

    async def work() -> None:
        run = await stored_runs.find_run(store, RUN, HOST)
        report = await restore(store, run, [b"/srv/d0500/hosts"], bytes(tmp_path / "target"), Options(spool=tmp_path))
        assert (report.counts.files, report.counts.failed) == (1, 0)
        assert report.counts.directories == 3

    uvloop.run(work())
    assert (tmp_path / "target/srv/d0500/hosts").read_bytes() == b"127.0.0.1\n"
    assert cost(store) <= 7
    assert store.requests.received < 500_000


def test_a_snapshot_is_found(store: MemoryStore) -> None:
    """It stands behind all files."""
    run = uvloop.run(stored_runs.find_run(store, RUN, HOST))
    assert uvloop.run(find_snapshot(store, run, "db")).size == 3
    assert cost(store) <= 4


def test_very_many_paths_are_not_looked_up_one_by_one(large: Backup) -> None:
    """All of the manifest is one request; so is everything."""
    store = large.store
    paths = [b"/srv/d%04d/f%06d" % (number // IN_ONE, number) for number in range(0, FILES, 500)]
    assert uvloop.run(listed(store, *paths)) == paths
    assert cost(store) == 2
    assert Selection([]).stretches() is None
    assert Selection([b"/", b"/a"]).stretches() is None
    assert Selection([b"/d" * 500]).stretches(above=True) is None


def test_a_large_manifest_of_format_1(tmp_path: Path) -> None:
    """It has no table: all of it is read."""
    backup = Backup()
    shas = (hashlib.sha256(b"%d" % number).hexdigest() for number in range(10_000))
    entries = [File(path=f"/{number:05}", size=1, sha=sha, key="k") for number, sha in enumerate(shas)]
    body = older([header(format=1), *entries, END])
    assert len(body) > excerpting._WHOLE
    backup.bucket.add(keys.manifest_key(HOST, RUN), body)
    assert uvloop.run(listed(backup.store, b"/00007")) == [b"/00007"]


def test_bytes_that_came_damaged(store: MemoryStore, large: Backup) -> None:
    """They are read again; damaged twice, nothing of them is believed."""
    for at in (0, None):
        found = uvloop.run(listed(GarblingStore(large.bucket, "manifests/", 2, at=at), b"/srv/d0777"))
        assert len(found) == IN_ONE
    with pytest.raises(FormatError, match=RUN):
        uvloop.run(listed(GarblingStore(large.bucket, "manifests/", None), b"/srv/d0777"))


def test_damage_elsewhere_is_no_loss(large: Backup) -> None:
    """What was not asked for is not looked at."""
    backup = Backup()
    body = bytearray(large.bucket.objects[keys.manifest_key(HOST, RUN)][0].body)
    at = len(body) // 3
    body[at] ^= 1
    backup.bucket.add(keys.manifest_key(HOST, RUN), bytes(body))
    assert len(uvloop.run(listed(backup.store, b"/srv/d0777"))) == IN_ONE
    with pytest.raises(FormatError):
        uvloop.run(listed(backup.store, b"/"))


# ---- manifests that somebody wrote who means harm


def lying(stretches: Sequence[ManifestMember], **more: Any) -> Backup:
    """A run with that manifest, which is large."""
    backup = Backup()
    body = of_members(header(**more), stretches, END)
    backup.bucket.add(keys.manifest_key(HOST, RUN), body)
    return backup


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of some bytes are read by their tables, where a test does not use the large run."""
    if "large" not in request.fixturenames:
        monkeypatch.setattr(excerpting, "_WHOLE", 0)


def stretch(text: bytes, first: bytes = b"/a", lines: int = 1) -> ManifestMember:
    packed = zlib.compress(text, 9, 31)
    return ManifestMember(first, packed, hashlib.sha256(packed).digest(), lines)


DIRECTORY = manifest.encode(Directory(path="/a/b")) + b"\n"

HOSTILE = {
    "unpacks to very much": stretch(bytes(256 * MIB)),
    "one line of very much": stretch(b'{"typ":"f","path":"/a/b","w":["' + b"x" * (64 * MIB) + b'"]}\n'),
    "many lines": stretch(b'{"typ":"d","path":"/a/b"}\n' * 400_000, lines=400_000),
    "many short lines": stretch(b'{"typ":"d","path":"/a/b"}\n' * 40_000, lines=40_000),
    "more lines than it says": stretch(b'{"typ":"d","path":"/a/b"}\n' * 40_000, lines=1000),
    "empty lines": stretch(b"\n" * 1000, lines=1000),
    "not sorted": stretch(manifest.encode(Directory(path="/a/c")) + b"\n" + DIRECTORY, b"/a/c", 2),
    "twice the same": stretch(DIRECTORY * 2, b"/a/b", 2),
    "another first path": stretch(DIRECTORY, b"/a"),
    "a snapshot": stretch(manifest.encode(header()) + b"\n"),
    "two members in one": ManifestMember(
        b"/a/b",
        packed := gzipping.compress(DIRECTORY) + gzipping.compress(manifest.encode(Directory(path="/a/c")) + b"\n"),
        hashlib.sha256(packed).digest(),
        2,
    ),
    "no end of a line": stretch(DIRECTORY[:-1], b"/a/b"),
    "no gzip": ManifestMember(b"/a/b", bytes(100), hashlib.sha256(bytes(100)).digest(), 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_members_that_cannot_be(kind: str) -> None:
    """They are refused, and cost no memory, though the table tells of them just so."""
    backup = lying([HOSTILE[kind]])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="cannot be used"):
            uvloop.run(listed(backup.store, b"/a"))
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()


def test_entries_behind_the_next_member() -> None:
    """What lies where another member begins would be found or not, by what is asked for."""
    stretches = [stretch(DIRECTORY + manifest.encode(Directory(path="/z")) + b"\n", b"/a/b", 2)]
    stretches += [stretch(manifest.encode(Directory(path="/c")) + b"\n", b"/c")]
    with pytest.raises(FormatError, match="cannot be used"):
        uvloop.run(listed(lying(stretches).store, b"/a"))


def test_a_table_of_another_run_or_of_a_later_version() -> None:
    """A manifest that was copied under another key is not taken for that run's; one that we cannot follow is named."""
    good = stretch(DIRECTORY, b"/a/b")
    assert uvloop.run(listed(lying([good]).store, b"/a")) == [b"/a/b"]
    with pytest.raises(FormatError, match="another run's"):
        uvloop.run(listed(lying([good], run="20261123T041500Z-3fa8").store, b"/a"))
    with pytest.raises(FormatError, match="use a newer"):
        uvloop.run(listed(lying([good], format=3).store, b"/a"))


def test_an_empty_run() -> None:
    """It has a table of nothing."""
    assert uvloop.run(listed(lying([]).store, b"/a")) == []


def test_the_whole_of_what_was_written(store: MemoryStore) -> None:
    """Whoever reads it all finds as much, and the table true."""

    async def work() -> list[Entry]:
        run = await stored_runs.find_run(store, RUN, HOST)
        return [e async for b in stored_runs.batches(store, run) for e in b]

    assert len(uvloop.run(work())) == FILES + 9
