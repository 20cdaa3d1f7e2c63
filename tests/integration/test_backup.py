"""One backup and its restore: real files and programs, the store in memory."""

import asyncio
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sysbackup.catalog.sqlite import SqliteSession
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.files import acl
from sysbackup.files.folders import Folders
from sysbackup.files.owners import Owners
from sysbackup.files.reading import Patience
from sysbackup.formats import manifest
from sysbackup.formats.run_result import Summary
from sysbackup.model import FileState, Lock, LockMode
from sysbackup.pipeline.backup import back_up
from sysbackup.pipeline.found import Found
from sysbackup.pipeline.looking import Looker
from sysbackup.pipeline.remembered import Contents, Locations
from sysbackup.store.port import NO_METADATA, Upload
from tests.support import backups, comparing, trees
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.restless import Restless

MIB = 1 << 20


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(MemoryBucket())


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> trees.Torture:
    return trees.torture_tree(os.fsencode(tmp_path_factory.mktemp("torture").resolve()))


def test_a_tree_of_everything_comes_back_byte_for_byte(
    store: MemoryStore, torture: trees.Torture, tmp_path: Path
) -> None:
    """All that makes files hard is backed up, reported where it cannot be, and restored as it was."""
    config = backups.configured(tmp_path)
    backups.finder(config, torture.tree)
    backups.picker(config, *torture.roundabout, *torture.bad_picks, *torture.gone_picks)
    summary = backups.backed_up(config, store)
    said = backups.entries(store, summary)
    nodes = backups.nodes(said)
    for path, kind in torture.kinds.items():
        if path not in torture.problems:
            assert nodes[path].__struct_config__.tag == kind, path
    assert not torture.passed_over & nodes.keys()
    assert summary.sockets_skipped == len(torture.passed_over)
    reported = {entry.path: entry for entry in said if isinstance(entry, manifest.Log)}
    for path in [*torture.bad_picks, *torture.gone_picks, *torture.problems]:
        assert manifest.lossy(path)[0] in reported
    assert summary.exit_code == 3
    assert summary.problems == len(torture.bad_picks) + len(torture.problems)
    assert summary.notes == len(torture.gone_picks) == len(reported) - summary.problems
    for link, leads_to in (torture.leads | torture.roundabout).items():
        assert isinstance(nodes[leads_to], manifest.File), link
    target = tmp_path / "restored"
    report = backups.restored(store, summary, target, spool=tmp_path)
    assert not report.problems
    assert (
        comparing.differences(
            torture.tree,
            bytes(target) + torture.tree,
            expect_missing=[path.removeprefix(torture.tree + b"/") for path in torture.passed_over],
        )
        == []
    )


def test_hard_links_and_warnings_of_the_manifest(store: MemoryStore, torture: trees.Torture, tmp_path: Path) -> None:
    """All names of one inode have one id and one content; different inodes have different ids."""
    config = backups.configured(tmp_path)
    backups.finder(config, torture.tree)
    nodes = backups.nodes(backups.entries(store, backups.backed_up(config, store)))
    ids = set()
    for group in torture.links:
        files = [nodes[path] for path in group]
        assert len({node.link for node in files if isinstance(node, manifest.File)}) == 1
        ids.add(getattr(files[0], "link", None))
    assert len(ids) == len(torture.links)


def test_equal_contents_are_stored_once(store: MemoryStore, tmp_path: Path) -> None:
    """However many files hold them, small, middle-sized or large, in one run."""
    config = backups.configured(tmp_path)
    tree = tmp_path / "tree"
    for n, data in enumerate((b"small" * 100, os.urandom(2 * MIB), os.urandom(33 * MIB))):
        for copy in range(3):
            (tree / f"{n}" / f"{copy}").mkdir(parents=True)
            (tree / f"{n}" / f"{copy}" / "file").write_bytes(data)
    backups.finder(config, tree)
    summary = backups.backed_up(config, store)
    assert sorted(key.split("/")[0] for key in store.memory.objects) == [
        "content",
        "content",
        "index",
        "manifests",
        "packs",
        "packs",
    ]
    assert summary.files == 9
    assert summary.stored < 36 * MIB


def test_a_large_file_equal_to_one_under_way_is_stored_once(store: MemoryStore, tmp_path: Path) -> None:
    """Of two large files of one content that are read at the same time each chunk is sent once."""
    config = backups.configured(tmp_path)
    data = os.urandom(40 * MIB)
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(data)
    backups.picker(config, bytes(tmp_path / "one"), bytes(tmp_path / "two"))
    summary = backups.backed_up(config, store)
    assert summary.requests["CompleteMultipartUpload"] == 1
    assert summary.stored < 41 * MIB


def test_every_object_is_locked_for_the_promise(tmp_path: Path) -> None:
    """Contents and packs until the promise plus slack, snapshots and the manifest until the promise."""
    clock = ManualClock()
    store = MemoryStore(MemoryBucket(clock, multipart_locks=False))
    config = backups.configured(tmp_path, {"days_retained": 30, "lock_mode": LockMode.COMPLIANCE})
    for name, size in (("a", 10), ("b", 2 * MIB), ("c", 40 * MIB)):
        (tmp_path / name).write_bytes(os.urandom(size))
    backups.picker(config, *(bytes(tmp_path / name) for name in "abc"))
    backups.program(config.snapshotters, "dump", "#!/bin/sh\nhead -c 1000 /dev/zero >&$1\n")
    summary = backups.backed_up(config, store, clock)
    promise = clock.now().replace(microsecond=0) + timedelta(days=30)
    assert summary.promise == promise
    ends = {"packs": 7, "content": 7, "index": 7, "snapshots": 0, "manifests": 0}
    for key, versions in store.memory.objects.items():
        (version,) = versions
        assert version.lock is not None, key
        assert version.lock.mode is LockMode.COMPLIANCE
        assert version.lock.until == promise + timedelta(days=ends[key.split("/")[0]]), key


def test_what_compresses_is_compressed_and_says_so(store: MemoryStore, tmp_path: Path) -> None:
    """Larger contents are stored as gzip where that saves space, as they are where it does not."""
    config = backups.configured(tmp_path)
    plain = {
        "text": b"all work and no play\n" * 200_000,
        "noise": os.urandom(2 * MIB),
    }
    for name, data in plain.items():
        (tmp_path / name).write_bytes(data)
    backups.picker(config, *(bytes(tmp_path / name) for name in plain))
    backups.backed_up(config, store)
    for name, data in plain.items():
        (kept,) = store.memory.objects[f"content/{hashlib.sha256(data).hexdigest()}"]
        gzipped = name != "noise"
        assert kept.metadata == ({"storage-encoding": "gzip"} if gzipped else {})
        assert (len(kept.body) < len(data) / 10) == gzipped


def test_chunks_are_compressed_where_that_pays(store: MemoryStore, tmp_path: Path) -> None:
    """Each by itself: of a file that is half text and half noise, the text."""
    config = backups.configured(tmp_path)
    text = b"".join(b"line %d of a log\n" % n for n in range(1_500_000))
    (tmp_path / "big").write_bytes(text + os.urandom(16 * MIB))
    backups.picker(config, bytes(tmp_path / "big"))
    summary = backups.backed_up(config, store)
    assert summary.bytes > 40 * MIB
    assert 16 * MIB < summary.stored < 16 * MIB + len(text) / 3
    assert not backups.restored(store, summary, tmp_path / "out", spool=tmp_path).problems


@pytest.mark.parametrize("pack_below", [0, 100, MIB])
def test_the_border_between_packs_and_objects(store: MemoryStore, tmp_path: Path, pack_below: int) -> None:
    """A content of exactly `pack_below` bytes is an object, one byte less goes into a pack; 0 means no packs."""
    config = backups.configured(tmp_path, {"pack_below": pack_below})
    for size in (99, 100, MIB - 1, MIB):
        (tmp_path / f"{size}").write_bytes(os.urandom(size))
    backups.picker(config, *(bytes(tmp_path / f"{size}") for size in (99, 100, MIB - 1, MIB)))
    nodes = backups.nodes(backups.entries(store, backups.backed_up(config, store)))
    for size in (99, 100, MIB - 1, MIB):
        node = nodes[bytes(tmp_path / f"{size}")]
        assert isinstance(node, manifest.File)
        assert str(node.key).startswith("packs/" if size < pack_below else "content/")


def test_memory_limits_do_not_stall(store: MemoryStore, tmp_path: Path) -> None:
    """With the smallest budget that is allowed, files of every class still get through."""
    config = backups.configured(tmp_path, {"pack_size": 4 * MIB}, {"memory": 64 * MIB, "uploads": 1, "workers": 4})
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(200):
        (tree / f"small{n}").write_bytes(os.urandom(40_000))
    for n in range(6):
        (tree / f"middle{n}").write_bytes(os.urandom(20 * MIB))
    for n in range(2):
        (tree / f"large{n}").write_bytes(os.urandom(50 * MIB))
    backups.finder(config, tree)
    summary = backups.backed_up(config, store)
    assert summary.files == 208
    assert summary.problems == 0


@contextmanager
def scribbling(path: Path) -> Iterator[None]:
    """Another process writes to the file all the time, thousands of times while it is read once."""
    script = "import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY)\nprint(flush=True)\n"
    script += "while True: os.pwrite(fd, os.urandom(8), 0)"
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("size", [30 * MIB, 40 * MIB], ids=["in memory", "large"])
def test_a_file_that_never_holds_still_is_kept_with_a_warning(store: MemoryStore, tmp_path: Path, size: int) -> None:
    """What was read last is kept, restores to what the manifest says, and the manifest warns."""
    config = backups.configured(tmp_path)
    path = bytes(tmp_path / "moving")
    (tmp_path / "moving").write_bytes(os.urandom(size))
    backups.picker(config, path)
    with scribbling(tmp_path / "moving"):
        # Whether a write falls into one reading is the scheduler's affair: on a busy machine it may take a few runs.
        for _ in range(20):
            summary = backups.backed_up(config, store)
            node = backups.nodes(backups.entries(store, summary))[path]
            assert isinstance(node, manifest.File)
            if node.warnings:
                break
    assert isinstance(node, manifest.File)
    assert node.warnings == ["changed-while-read"]
    assert summary.exit_code == 0
    assert summary.warnings == 1
    assert not store.memory.uploads
    report = backups.restored(store, summary, tmp_path / "out", spool=tmp_path)
    assert not report.problems
    content = (tmp_path / "out" / os.fsdecode(path)[1:]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == node.sha


def test_a_snapshot_in_a_run_longer_than_its_promise(tmp_path: Path) -> None:
    """S3 refuses a lock that has ended already: what only such a run names is locked for a day more, at least."""
    clock = ManualClock()

    class Slow(MemoryStore):
        """What is sent of the snapshot takes more than two weeks."""

        @asynccontextmanager
        async def upload(
            self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
        ) -> AsyncIterator[Upload]:
            async with super().upload(key, lock, metadata=metadata, once=once) as upload:
                yield upload
            clock.turn(days=15)

    config = backups.configured(tmp_path)
    backups.program(config.snapshotters, "dump", "#!/bin/sh\nhead -c 40000000 /dev/urandom >&$1\n")
    store = Slow(MemoryBucket(clock))
    summary = backups.backed_up(config, store, clock)
    (found,) = (e for e in backups.entries(store, summary) if isinstance(e, manifest.Snapshot))
    (kept,) = store.memory.objects[found.key]
    assert kept.lock is not None
    assert kept.lock.until > clock.now()


def test_a_large_file_that_grows_keeps_a_consistent_beginning(store: MemoryStore, tmp_path: Path) -> None:
    """A log that is written to all the time is kept up to where its reading ended, under its hash."""
    config = backups.configured(tmp_path)
    path = bytes(tmp_path / "log")
    start = os.urandom(34 * MIB)
    (tmp_path / "log").write_bytes(start)
    backups.picker(config, path)
    with Restless(path, "grow", times=100_000):
        summary = backups.backed_up(config, store)
    node = backups.nodes(backups.entries(store, summary))[path]
    assert isinstance(node, manifest.File)
    assert node.size >= len(start)
    assert str(node.key) == f"content/{node.sha}"


def test_a_locked_file_is_waited_for_then_copied_with_a_warning(store: MemoryStore, tmp_path: Path) -> None:
    """An exclusive flock(2) held by another delays its batch by `lock_timeout` once, however many files have one."""
    config = backups.configured(tmp_path, {"lock_timeout": 0.3})
    paths = [tmp_path / f"locked{n}" for n in range(20)]
    files = []
    for path in paths:
        path.write_text("mine")
        files.append(path.open())
        fcntl.flock(files[-1], fcntl.LOCK_EX)
    backups.picker(config, *(bytes(path) for path in paths))
    begun = time.monotonic()
    summary = backups.backed_up(config, store)
    assert time.monotonic() - begun < 0.3 * 20
    for file in files:
        file.close()
    nodes = backups.nodes(backups.entries(store, summary))
    for path in paths:
        node = nodes[bytes(path)]
        assert isinstance(node, manifest.File)
        assert node.warnings == ["unlocked-copy"]
    assert summary.warnings == 20


def test_a_path_picked_twice_is_in_the_manifest_once(store: MemoryStore, tmp_path: Path) -> None:
    """Two pickers may print the same, in whatever spelling the kernel takes for the same."""
    config = backups.configured(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    spelt = bytes(tmp_path)
    backups.picker(config, spelt + b"/d/f", spelt + b"//d/./f", spelt + b"/d/../d/f", spelt + b"/d/", name="one")
    backups.picker(config, spelt + b"/d/f", spelt + b"/d", name="two")
    summary = backups.backed_up(config, store)
    said = backups.entries(store, summary)
    paths = [e.path for e in said if isinstance(e, manifest.Node)]
    assert len(paths) == len(set(paths))
    assert summary.files == 1
    assert summary.problems == 0
    assert os.fsdecode(spelt + b"/d") in paths


def test_two_slashes_at_the_beginning_are_one(store: MemoryStore, tmp_path: Path) -> None:
    """POSIX lets them mean something else, Linux does not: also where the root is open already."""
    config = backups.configured(tmp_path)
    name = next(path.name for path in Path("/").iterdir() if path.is_file() or path.is_dir())
    backups.picker(config, "/etc/hostname", f"//{name}", "//etc//hostname")
    summary = backups.backed_up(config, store)
    paths = {e.path for e in backups.entries(store, summary) if isinstance(e, manifest.Node)}
    assert f"/{name}" in paths
    assert not [path for path in paths if "//" in path]


def test_the_manifest_is_in_the_order_of_paths_and_ends_with_its_counts(store: MemoryStore, tmp_path: Path) -> None:
    """Header first, paths sorted by their bytes, the end last, counting what is there."""
    config = backups.configured(tmp_path)
    tree = tmp_path / "t"
    tree.mkdir()
    for name in (b"b", b"a", b"a b", b"a-b", b"\xff", b"Z"):
        Path(os.fsdecode(bytes(tree) + b"/" + name)).write_bytes(name)
    backups.finder(config, tree)
    summary = backups.backed_up(config, store)
    said = backups.entries(store, summary)
    assert isinstance(said[0], manifest.RunHeader)
    assert said[0].host == "alpha"
    assert isinstance(said[-1], manifest.End)
    paths = [e.path_bytes for e in said if isinstance(e, manifest.Node)]
    assert paths == sorted(paths)
    assert said[-1].counts == summary.entries
    assert said[-1].counts["f"] == 6
    assert said[-1].bytes == sum(len(n) for n in (b"b", b"a", b"a b", b"a-b", b"\xff", b"Z"))


def test_runs_are_named_by_their_start(store: MemoryStore, tmp_path: Path) -> None:
    """A manifest's key tells host and start."""
    clock = ManualClock(datetime(2026, 11, 23, 4, 15, tzinfo=UTC))
    config = backups.configured(tmp_path)
    backups.picker(config, b"/etc/hostname")
    summary = backups.backed_up(config, store, clock)
    assert summary.manifest.startswith("manifests/alpha/20261123T041500Z-")
    assert summary.manifest in store.memory.objects


def test_links_into_proc_are_not_followed(store: MemoryStore, tmp_path: Path) -> None:
    """/etc/mtab leads to /proc/self/mounts: the link is kept, not what this process happens to see there."""
    config = backups.configured(tmp_path)
    (tmp_path / "mtab").symlink_to("/proc/self/mounts")
    backups.picker(config, bytes(tmp_path / "mtab"))
    nodes = backups.nodes(backups.entries(store, backups.backed_up(config, store)))
    assert isinstance(nodes[bytes(tmp_path / "mtab")], manifest.Link)
    assert not [path for path in nodes if path.startswith(b"/proc")]


def test_a_picked_file_of_proc_is_kept(store: MemoryStore, tmp_path: Path) -> None:
    """Its size by stat(2) is nought, its content is not: what can be read is kept."""
    config = backups.configured(tmp_path)
    backups.picker(config, b"/proc/version")
    node = backups.nodes(backups.entries(store, backups.backed_up(config, store)))[b"/proc/version"]
    assert isinstance(node, manifest.File)
    assert node.size == len(Path("/proc/version").read_bytes())


@pytest.fixture
def shared_memory(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs: it lets anybody give a file any number of extended attributes."""
    place = tmp_path / "tmpfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_xattrs_without_end_cost_no_more_than_themselves(
    store: MemoryStore, shared_memory: Path, tmp_path: Path
) -> None:
    """32 MiB of attributes on a file, more names than a listing holds on a directory: problems, all else is kept."""
    config = backups.configured(tmp_path)
    (shared_memory / "loaded").write_text("data")
    for n in range(520):
        os.setxattr(shared_memory / "loaded", f"user.{n}", bytes(65536))
    (shared_memory / "listed").mkdir()
    (shared_memory / "listed" / "file").write_text("inside")
    for n in range(400):
        os.setxattr(shared_memory / "listed", f"user.{'x' * 240}{n}", b"")
    backups.finder(config, shared_memory)
    summary = backups.backed_up(config, store)
    assert {(p["event"], p["path"]) for p in summary.first_problems} == {
        ("xattrs.left_out", str(shared_memory / "loaded")),
        ("xattrs.left_out", str(shared_memory / "listed")),
    }
    nodes = backups.nodes(backups.entries(store, summary))
    for name in ("loaded", "listed", "listed/file"):
        assert bytes(shared_memory / name) in nodes


def test_a_made_up_file_is_read_every_time(store: MemoryStore, tmp_path: Path) -> None:
    """What stat(2) says of a file in /proc is no proof that it is as it was."""
    config = backups.configured(tmp_path)
    backups.picker(config, b"/proc/version")
    for _ in range(2):
        node = backups.nodes(backups.entries(store, backups.backed_up(config, store)))[b"/proc/version"]
        assert isinstance(node, manifest.File)
        assert node.size == len(Path("/proc/version").read_bytes())


def test_directories_keep_their_own_modes_whatever_vanishes(store: MemoryStore, tmp_path: Path) -> None:
    """Paths that are gone, each in a directory of its own, do not mix up what is recorded of the directories."""
    config = backups.configured(tmp_path)
    modes = {}
    for n in range(300):
        directory = tmp_path / "tree" / f"{n}" / "d"
        directory.mkdir(parents=True)
        directory.chmod(0o700 + n % 8)
        modes[bytes(directory)] = 0o700 + n % 8
    backups.picker(config, *(path + b"/gone" for path in modes), "/etc/hostname")
    nodes = backups.nodes(backups.entries(store, backups.backed_up(config, store)))
    for path, mode in modes.items():
        assert acl.parse(str(nodes[path].acl), Owners()).mode == mode


class Forgetful:
    """A memory that has none."""

    knows_files = False

    def unchanged(self, states: Sequence[FileState]) -> tuple[Contents, Locations]:
        return {}, {}

    def first_seen(self, path: bytes) -> bool:
        return True

    def not_recorded(self, path: bytes) -> None:
        """Nothing to forget."""


def test_a_file_saved_while_it_is_opened_is_the_new_one(store: MemoryStore, tmp_path: Path) -> None:
    """An editor renames a new file over the old one between our look and our opening: the new one is read."""
    path = tmp_path / "file"
    path.write_text("old")
    status = path.stat()
    (tmp_path / "new").write_text("newer")
    (tmp_path / "new").rename(path)
    stop = threading.Event()
    with Folders() as folders:
        looker = Looker(Forgetful(), Owners(), 0.1, 32 << 20, stop)
        found = looker._read(folders, bytes(path), status, Patience(0.1, stop), Found())
    assert found.reading.content == b"newer"


def test_a_deep_chain_of_directories_is_refused_not_followed(store: MemoryStore, tmp_path: Path) -> None:
    """Whoever may make directories may nest them without end: beyond twice PATH_MAX it is a problem, no more."""
    config = backups.configured(tmp_path)
    path = bytes(tmp_path) + b"/deep" * 3000
    backups.picker(config, "/etc/hostname", path)
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        deeper = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    summary = backups.backed_up(config, store)
    assert [p["reason"] for p in summary.first_problems] == ["File name too long"]
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


def test_a_stop_does_not_wait_for_locks(store: MemoryStore, tmp_path: Path) -> None:
    """However long `lock_timeout` is: a cancelled run ends, its threads too, and the file is closed."""
    config = backups.configured(tmp_path, {"lock_timeout": 3600.0})
    for name, size in (("small", 10), ("large", 33 * MIB)):
        (tmp_path / name).write_bytes(bytes(size))
    backups.picker(config, bytes(tmp_path / "small"), bytes(tmp_path / "large"))

    async def cancelled() -> None:
        task = asyncio.create_task(back_up(config, store, SystemClock()))
        await asyncio.sleep(1)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=20)
        assert done == {task}

    with (tmp_path / "small").open() as small, (tmp_path / "large").open() as large:
        fcntl.flock(small, fcntl.LOCK_EX)
        fcntl.flock(large, fcntl.LOCK_EX)
        backups.run(cancelled())
        links = [os.readlink(fd.path) for fd in os.scandir("/proc/self/fd") if os.path.lexists(fd.path)]
        assert sorted(links).count(str(tmp_path / "small")) == 1
        assert sorted(links).count(str(tmp_path / "large")) == 1


def test_a_stop_after_the_manifest_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored and promised is not called stopped."""
    bucket = MemoryBucket()
    config = backups.configured(tmp_path)
    backups.picker(config, "/etc/passwd")
    tidy = SqliteSession.tidy

    async def work() -> Summary:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stopped_meanwhile(session: SqliteSession, now: datetime) -> None:
            loop.call_soon_threadsafe(task.cancel)
            tidy(session, now)

        monkeypatch.setattr(SqliteSession, "tidy", stopped_meanwhile)
        return await back_up(config, MemoryStore(bucket), SystemClock())

    assert backups.run(work()).exit_code == 0
