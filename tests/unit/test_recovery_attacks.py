"""Manifests and targets made to hurt: nothing is written, chowned or chmodded outside the target, nothing blocks."""

import hashlib
import os
import random
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import UNSET

from sysbackup.errors import UsageError
from sysbackup.files import target_tree
from sysbackup.formats import gzipping, manifest
from sysbackup.formats.manifest import CharDevice, File
from sysbackup.model import Location, Span
from tests.support.recovering import MTIME, Backup, reasons, restored, tree

MIB = 1 << 20
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, mount and make devices")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A place beside the target that nothing may touch; checked when the test is over."""
    place = tmp_path / "outside"
    place.mkdir(mode=0o700)
    (place / "passwd").write_text("root")
    os.chmod(place / "passwd", 0o600)
    before = _state(place)
    yield place
    assert _state(place) == before


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


def _state(place: Path) -> list[tuple[str, int, int, int, int, bytes]]:
    found = []
    for path in (place, *sorted(place.rglob("*"))):
        s = path.lstat()
        found.append(
            (str(path), s.st_mode, s.st_uid, s.st_ctime_ns, s.st_nlink, path.read_bytes() if path.is_file() else b"")
        )
    return found


@pytest.mark.parametrize(
    "path",
    [
        b"/../outside/new",
        b"/a/../../outside/new",
        b"../outside/new",
        b"outside",
        b"/./a",
        b"//a",
        b"/a/",
        b"/a//b",
        b"",
        b"/..",
        b"/",
        b"/a\0b",
        b"/" + b"n" * 300,
    ],
)
@pytest.mark.parametrize("kind", ["file", "large", "link", "directory", "device"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_paths_that_are_none(target: Path, outside: Path, path: bytes, kind: str, overwrite: bool) -> None:
    """A path that leads up, is relative, or is none at all is refused by name; the rest is restored."""
    backup = Backup(format=1)  # such a manifest of format 2 is damaged as a whole
    if kind == "file":
        backup.file(path, b"x")
    elif kind == "large":
        backup.file(path, bytes(9 * MIB))
    elif kind == "link":
        backup.link(path, b"passwd")
    elif kind == "directory":
        backup.directory(path)
    else:
        backup.entries.append(CharDevice(**manifest.named(path), major=1, minor=3, mtime=MTIME))
    backup.file(b"/good", b"good")
    report = restored(backup, target, overwrite=overwrite)
    if kind == "directory" and path == b"/":
        assert report.exit_code == 0  # the target itself
    else:
        assert list(reasons(report)) == [path]
    assert {name for name in tree(target) if not name.startswith("a")} == {"good"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_symlink_and_a_file_beneath_it(target: Path, outside: Path, overwrite: bool, large: bool) -> None:
    """A manifest in which one path is a symlink and the parent of a file at once leads nowhere."""
    backup = Backup()
    backup.link(b"/a", bytes(outside))
    backup.file(b"/a/passwd", bytes(9 * MIB) if large else b"evil")
    backup.directory(b"/a/sub", "u::rwx,g::rwx,o::rwx")
    backup.file(b"/a/sub/f", b"evil")
    report = restored(backup, target, overwrite=overwrite)
    assert (target / "a").is_dir()
    assert not (target / "a").is_symlink()
    assert set(reasons(report)) == {b"/a"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_symlinks_that_were_there(target: Path, outside: Path, overwrite: bool) -> None:
    """Symlinks waiting in the target, in the place of directories or files, are not followed."""
    (target / "dir").symlink_to(outside)
    (target / "deep").mkdir()
    (target / "deep/dir").symlink_to("../../outside")
    (target / "file").symlink_to(outside / "passwd")
    (target / "large").symlink_to(outside / "passwd")
    (target / "dangling").symlink_to(outside / "new")
    backup = Backup()
    backup.directory(b"/dir", "u::rwx,g::rwx,o::rwx")
    backup.file(b"/dir/passwd", b"evil")
    backup.file(b"/deep/dir/passwd", b"evil")
    for name in (b"/file", b"/dangling"):
        backup.file(name, b"evil", "u::rwx,g::rwx,o::rwx")
    backup.file(b"/large", bytes(9 * MIB), "u::rwx,g::rwx,o::rwx")
    report = restored(backup, target, overwrite=overwrite)
    if overwrite:
        assert set(reasons(report)) == {b"/deep/dir/passwd"}
        assert (target / "dir/passwd").read_bytes() == b"evil"
        assert not (target / "file").is_symlink()
    else:
        assert set(reasons(report)) == {e.path_bytes for e in backup.entries if isinstance(e, manifest.Node)}


@ROOT
@pytest.mark.parametrize("overwrite", [False, True])
def test_hard_link_that_was_there(target: Path, tmp_path: Path, overwrite: bool) -> None:
    """A hard link to another's file in the target is never written to, chowned or chmodded."""
    victim = tmp_path / "victim"
    victim.write_text("root")
    victim.chmod(0o600)
    backup = Backup()
    for name in ("file", "same"):
        (target / name).hardlink_to(victim)
        entry = backup.file(b"/" + name.encode(), b"evil", "u::rwx,g::rwx,o::rwx", link="1")
        entry.uid = entry.gid = 1
        entry.owner = entry.group = "daemon"
    restored(backup, target, overwrite=overwrite)
    assert victim.read_text() == "root"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert victim.stat().st_uid == 0
    assert victim.stat().st_nlink == (1 if overwrite else 3)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_fifo_in_the_way(target: Path, overwrite: bool, large: bool) -> None:
    """A FIFO in the place of a file, a directory or a parent does not make the restore wait for a reader."""
    for name in ("file", "dir", "parent"):
        os.mkfifo(target / name)
    backup = Backup()
    backup.file(b"/file", bytes(9 * MIB) if large else b"x")
    backup.directory(b"/dir")
    backup.file(b"/parent/file", b"x")
    done: list[int] = []
    worker = threading.Thread(target=lambda: done.append(restored(backup, target, overwrite=overwrite).counts.failed))
    worker.start()
    worker.join(20)
    assert done == [1 if overwrite else 3]


def test_one_path_of_several_kinds(target: Path, outside: Path) -> None:
    """A path that a manifest has as file, directory, symlink and device is made once; the others are problems."""
    backup = Backup(format=1)  # such a manifest of format 2 is damaged as a whole
    backup.directory(b"/x")
    backup.file(b"/x", b"1")
    backup.file(b"/x", b"2")
    backup.link(b"/x", bytes(outside))
    backup.entries.append(CharDevice(path="/x", major=1, minor=3, mtime=MTIME))
    report = restored(backup, target)
    assert report.counts.failed == 4
    assert tree(target) == {"x": None}


def test_twice_the_same_path(target: Path) -> None:
    """Of two files with one path the first one made stays, whatever the other is; with --overwrite one is whole."""
    backup = Backup(format=1)  # such a manifest of format 2 is damaged as a whole
    backup.file(b"/x", b"one", link="1")
    backup.file(b"/x", b"one", link="1")
    assert restored(backup, target).counts.failed == 1
    assert restored(backup.store, target, overwrite=True).counts.failed == 0
    assert tree(target) == {"x": b"one"}


def test_link_id_of_different_contents(target: Path) -> None:
    """Files that claim to be one inode but differ in content are not linked to one another."""
    backup = Backup()
    backup.file(b"/sbin/sh", b"real", "u::rwx,g::r-x,o::r-x", link="1")
    backup.file(b"/tmp/mine", b"other", "u::rwx,g::rwx,o::rwx", link="1")
    backup.file(b"/tmp/empty", b"", link="1")
    report = restored(backup, target)
    assert report.counts.hard_links == 0
    assert (target / "sbin/sh").read_bytes() == b"real"
    assert (target / "tmp/mine").read_bytes() == b"other"


@pytest.mark.parametrize("size", [-1, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 70])
@pytest.mark.parametrize("member", [False, True])
def test_sizes_that_are_claimed(target: Path, size: int, member: bool) -> None:
    """A size far from the truth costs no memory and no disk: the file is a problem."""
    backup = Backup()
    entry = backup.file(b"/x", random.Random(2).randbytes(1000) if member else bytes(2 * MIB))
    backup.file(b"/good", b"good")
    backup.pack()
    entry.size = size
    report = restored(backup, target)
    assert list(reasons(report)) == [b"/x"]
    assert tree(target) == {"good": b"good"}


@pytest.mark.parametrize(
    ("offset", "length"), [(-5, 30), (0, 10), (10, -1), (1 << 62, 30), (1 << 63, 30), (0, 1 << 40), (1 << 30, 100)]
)
def test_ranges_that_cannot_be(target: Path, offset: int, length: int) -> None:
    """A member outside its pack, or of an absurd length, is a problem of its own file."""
    backup = Backup()
    entry = backup.file(b"/x", b"content of x")
    backup.file(b"/good", b"good")
    backup.pack()
    entry.offset, entry.length = offset, length
    assert list(reasons(restored(backup, target))) == [b"/x"]
    assert tree(target) == {"good": b"good"}


def test_half_a_range_or_half_a_place(target: Path) -> None:
    """Entries are judged each by itself, whatever those before them said of the same object."""
    backup = Backup()
    for name in (b"/a", b"/offset", b"/b", b"/length", b"/c", b"/encoding", b"/d", b"/key", b"/e"):
        backup.file(name, b"content of " + name)
    whole = backup.bucket.add("content/whole", b"plain")
    for path in ("/f", "/whole", "/g"):
        sha = hashlib.sha256(b"plain").hexdigest()
        backup.entries.append(File(path=path, size=5, sha=sha, key=whole.key, version=whole.version, mtime=MTIME))
    backup.pack()
    by_path = {entry.path: entry for entry in backup.entries if isinstance(entry, File)}
    by_path["/offset"].length = UNSET
    by_path["/length"].offset = UNSET
    by_path["/encoding"].encoding = "rot13"
    by_path["/key"].key = "../packs"
    by_path["/whole"].offset = 3
    report = restored(backup, target)
    assert set(reasons(report)) == {b"/offset", b"/length", b"/encoding", b"/key", b"/whole"}
    assert set(tree(target)) == set("abcdefg")


@pytest.mark.parametrize("claimed", [100, 9 * MIB])
def test_gzip_bomb(target: Path, claimed: int) -> None:
    """Gzip that unpacks to far more than was backed up is left off after what was backed up."""
    backup = Backup()
    bomb = gzipping.compress(bytes(64 * MIB))
    kept = backup.bucket.add("content/bomb", bomb)
    for name, span in ((b"/whole", None), (b"/member", Span(0, len(bomb)))):
        entry = File(**manifest.named(name), size=claimed, sha=hashlib.sha256().hexdigest(), mtime=MTIME)
        entry.place(Location(kept.key, kept.version, span, "gzip"))
        backup.entries.append(entry)
    report = restored(backup, target)
    assert set(reasons(report)) == {b"/whole", b"/member"}
    assert claimed == 100 or "more than" in reasons(report)[b"/whole"]  # not: another digest, found out at the end
    assert tree(target) == {}


@pytest.mark.parametrize("size", [1000, 9 * MIB])
def test_object_larger_than_backed_up(target: Path, size: int) -> None:
    """A plain object with more bytes than were backed up is a problem, not a longer file."""
    backup = Backup()
    kept = backup.bucket.add("content/long", bytes(64 * MIB))
    sha = hashlib.sha256(bytes(size)).hexdigest()
    entry = File(path="/x", size=size, sha=sha, key=kept.key, version=kept.version, mtime=MTIME)
    backup.entries.append(entry)
    report = restored(backup, target)
    assert list(reasons(report)) == [b"/x"]
    assert tree(target) == {}


@pytest.mark.parametrize("member", [False, True])
def test_much_more_than_a_small_content_needs(target: Path, member: bool) -> None:
    """A small content that is said to lie in a huge object, or in a huge part of one, does not make us read that."""
    backup = Backup()
    kept = backup.bucket.add("content/long", bytes(64 * MIB))
    entry = File(path="/x", size=100, sha=hashlib.sha256().hexdigest(), mtime=MTIME)
    whole, part = Location(kept.key, kept.version), Location(kept.key, kept.version, Span(0, 64 * MIB), "gzip")
    entry.place(part if member else whole)
    backup.entries.append(entry)
    backup.stored()
    store = backup.store
    report = restored(store, target)
    assert list(reasons(report)) == [b"/x"]
    assert store.requests.received < MIB


@pytest.mark.parametrize("number", [1, 2])
def test_nonsense_in_entries(target: Path, number: int) -> None:
    """Digests, ACLs, owners, times, flags and device numbers that make no sense never end the restore."""
    backup = Backup(format=number)
    backup.file(b"/sha", b"1").sha = "zz"
    backup.file(b"/acl", b"2", "u::rwx,everything")
    backup.file(b"/flags", b"3").flags = "xxx"
    time = backup.file(b"/time", b"4")
    time.mtime = 1 << 80
    owner = backup.file(b"/owner", b"5")
    owner.owner, owner.uid = 1 << 40, -9
    xattrs = backup.file(b"/xattrs", b"6")
    xattrs.xattrs = {"user.a": "no base64!", "": "", "user.\0": "", "system.posix_acl_access": "AAAA", "x" * 999: ""}
    backup.file(b"/place", b"").key = "a\0b\0c"
    backup.entries.append(CharDevice(path="/device", major=1 << 40, minor=-1, mtime=MTIME))
    backup.entries.append(manifest.Link(path="/link", target="a\0b", mtime=MTIME))
    if number == 1:  # later ones are sorted, so that a name must make sense
        backup.entries.append(File(path="/name", pathb="?", mtime=MTIME))
    backup.entries.append(File(path="/nowhere", size=7, sha="0" * 64, mtime=MTIME))
    report = restored(backup, target)
    assert report.exit_code == 3
    assert set(tree(target)) == {"acl", "flags", "time", "owner", "xattrs"}
    assert stat.S_IMODE((target / "acl").stat().st_mode) == 0o600
    assert stat.S_IMODE((target / "flags").stat().st_mode) == 0o600
    assert report.counts.failed == (6 if number == 1 else 5)


def test_names_for_a_terminal(target: Path) -> None:
    """A problem's path is shown without the terminal commands that it holds."""
    backup = Backup()
    backup.file(b"/\x1b]0;title\x07/..", b"x")
    report = restored(backup, target)
    assert "\x1b" not in report.problems[0].shown


@pytest.mark.parametrize("spelled", [b"/.", b"//", b"/tmp/..", b"/proc/self/root"])
def test_root_must_be_spelled_out(spelled: bytes) -> None:
    """Only `/` itself means the root directory: another name for it is refused before anything is written."""
    with pytest.raises(UsageError, match="--target /"):
        target_tree.open_target(spelled)
    fd, made = target_tree.open_target(b"/")
    os.close(fd)
    assert not made


@ROOT
def test_root_itself(tmp_path: Path) -> None:
    """Spelled out, `/` is restored over: in a chroot of its own here, with paths as they were."""
    for name in ("proc", "etc"):
        (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", str(tmp_path / "proc")], check=True)
    backup = Backup()
    backup.directory(b"/etc")
    backup.file(b"/etc/motd", b"back again\n")
    backup.stored()
    try:
        child = os.fork()
        if not child:
            try:
                os.chroot(tmp_path)
                os.chdir("/")
                os._exit(restored(backup.store, b"/", spool=Path("/")).exit_code)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        subprocess.run(["umount", str(tmp_path / "proc")], check=True)
    assert (tmp_path / "etc/motd").read_text() == "back again\n"


def test_deep_and_long_paths(target: Path) -> None:
    """Paths beyond PATH_MAX are restored: each step is taken by itself."""
    backup = Backup()
    path = b""
    for n in range(60):
        path += b"/" + b"%03d" % n * 60
        backup.directory(path)
    backup.file(path + b"/file", b"deep")
    report = restored(backup, target)
    assert report.exit_code == 0
    assert report.counts.directories == 60
    subprocess.run(["rm", "-r", str(target / ("000" * 60))], check=True)
