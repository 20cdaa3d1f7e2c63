"""Restoring again: what is there and right stays and is not fetched, what is different is kept and summed up."""

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from sysbackup.formats.manifest import CharDevice, Fifo, File
from tests.support.garbling import GarblingStore
from tests.support.recovering import MTIME, Backup, reasons, restored, tree

MIB = 1 << 20
DICE = random.Random(3)

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, mount and make devices")


@pytest.fixture
def backup() -> Backup:
    made = Backup()
    made.directory(b"/d")
    for n in range(30):
        made.file(b"/d/%d" % n, DICE.randbytes(1000), "u::rw-,u:daemon:r--,g::r--,m::r--,o::---")
    made.file(b"/d/su", b"#!", "u::rwx,g::r-x,o::r-x", flags="s--", xattrs={"user.note": "aGk="})
    made.file(b"/middle", DICE.randbytes(2 * MIB))
    first = made.file(b"/large", DICE.randbytes(9 * MIB), link="7")
    made.file(
        b"/large2", b"", size=first.size, sha=first.sha, key=first.key, version=first.version, encoding="gzip", link="7"
    )
    made.file(b"/empty")
    for name in (b"/h/1", b"/h/2", b"/h/3"):
        made.file(name, b"linked", link="1")
    made.link(b"/link", b"middle")
    made.entries.append(Fifo(path="/pipe", acl="u::rw-,g::r--,o::---", owner=0, group=0, mtime=MTIME))
    made.entries.append(CharDevice(path="/null", mode=0o640, owner=0, group=0, major=1, minor=3, mtime=MTIME))
    return made


def _state(target: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(target.rglob("*")):
        s = path.lstat()
        acl = [] if path.is_symlink() else [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
        found[str(path)] = (s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, acl)
    return found


def _contents(store: GarblingStore) -> int:
    return sum(reads for (key, _), reads in store.reads.items() if not key.startswith("manifests/"))


@ROOT
@pytest.mark.parametrize("helped", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_again(backup: Backup, tmp_path: Path, helped: bool, overwrite: bool) -> None:
    """The second restore of the same changes nothing, fetches no content, and ends with 0."""
    assert restored(backup, tmp_path).exit_code == 0
    before = _state(tmp_path)
    store = GarblingStore(backup.bucket, "nothing")
    report = restored(store, tmp_path, helped=helped, overwrite=overwrite)
    assert report.exit_code == 0
    assert (report.counts.files, report.counts.bytes, report.counts.hard_links) == (0, 0, 0)
    assert report.counts.present == 30 + 1 + 1 + 2 + 1 + 3 + 3
    assert _state(tmp_path) == before
    assert _contents(store) == 0


@ROOT
@pytest.mark.parametrize("helped", [False, True])
def test_the_rest_of_it(backup: Backup, tmp_path: Path, helped: bool) -> None:
    """What is missing is fetched, no more; a name that is missing is linked to its inode again."""
    restored(backup, tmp_path)
    inode = (tmp_path / "h/2").stat().st_ino
    large = (tmp_path / "large").stat().st_ino
    for name in ("d/7", "h/1", "h/3", "link", "large2"):
        (tmp_path / name).unlink()
    store = GarblingStore(backup.bucket, "nothing")
    report = restored(store, tmp_path, helped=helped)
    assert report.exit_code == 0
    assert (report.counts.files, report.counts.hard_links, report.counts.symlinks) == (1, 3, 1)
    assert _contents(store) == 1
    assert {(tmp_path / f"h/{n}").stat().st_ino for n in (1, 2, 3)} == {inode}
    assert (tmp_path / "large2").stat().st_ino == large
    assert len(tree(tmp_path)) == 43


@ROOT
def test_metadata_is_set_right(backup: Backup, tmp_path: Path) -> None:
    """A file whose content is right gets the owner, rights, ACL, attributes and time of the backup, in its place."""
    restored(backup, tmp_path)
    before = _state(tmp_path)
    for name in ("d/0", "d/su", "middle", "pipe", "null"):
        os.chown(tmp_path / name, 1, 1)
        (tmp_path / name).chmod(0o777)
    subprocess.run(["setfacl", "-m", "u:daemon:rwx", str(tmp_path / "middle")], check=True)
    subprocess.run(["setfacl", "-b", str(tmp_path / "d/1")], check=True)
    os.removexattr(tmp_path / "d/su", "user.note")
    os.utime(tmp_path / "d/2", ns=(1, 1))
    os.chown(tmp_path / "link", 1, 1, follow_symlinks=False)
    os.utime(tmp_path / "link", ns=(1, 1), follow_symlinks=False)
    store = GarblingStore(backup.bucket, "nothing")
    assert restored(store, tmp_path).exit_code == 0
    assert _state(tmp_path) == before
    assert _contents(store) == 0


@ROOT
def test_same_size_and_time_are_no_proof(backup: Backup, tmp_path: Path) -> None:
    """A file of the right size and time but another content is in the way: kept, or with --overwrite replaced."""
    restored(backup, tmp_path)
    wrong = {}
    for name in ("d/3", "middle", "large"):
        path = tmp_path / name
        data = path.read_bytes()
        wrong[name] = data[:-1] + bytes([data[-1] ^ 1])
        path.unlink()
        path.write_bytes(wrong[name])
        os.utime(path, ns=(MTIME, MTIME))
    report = restored(backup.store, tmp_path)
    assert set(reasons(report)) == {b"/" + name.encode() for name in wrong}
    assert report.counts.in_the_way == report.counts.failed == 3
    assert {name: (tmp_path / name).read_bytes() for name in wrong} == wrong
    assert restored(backup.store, tmp_path, overwrite=True).exit_code == 0
    assert not any((tmp_path / name).read_bytes() == data for name, data in wrong.items())


@pytest.mark.parametrize("helped", [False, True])
def test_in_the_way_is_summed_up(tmp_path: Path, helped: bool) -> None:
    """Of thousands of files in the way the first are named, and all are counted."""
    backup = Backup()
    (tmp_path / "d").mkdir()
    for n in range(5000):
        backup.file(b"/d/%d" % n, b"%d" % n)
        (tmp_path / f"d/{n}").write_text("mine")
    backup.file(b"/d/../up", b"x")
    report = restored(backup, tmp_path, helped=helped)
    assert report.counts.in_the_way == 5000
    assert report.counts.failed == 5001
    assert len(report.problems) == 21
    assert b"/d/../up" in reasons(report)
    assert {path.read_text() for path in (tmp_path / "d").iterdir()} == {"mine"}


@ROOT
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("helped", [False, True])
def test_somebody_elses_file_of_equal_content(tmp_path: Path, overwrite: bool, helped: bool) -> None:
    """A hard link to another's file, planted where a file of equal content belongs, never changes hands."""
    target, victim = tmp_path / "target", tmp_path / "victim"
    target.mkdir()
    victim.write_bytes(b"the same")
    victim.chmod(0o600)
    os.utime(victim, ns=(1, 1))
    before = victim.stat()
    backup = Backup()
    for name, link in ((b"/one", None), (b"/two", "1"), (b"/three", "1")):
        entry = backup.file(name, b"the same", "u::rwx,g::rwx,o::rwx", **({} if link is None else {"link": link}))
        entry.owner = entry.group = "daemon"
        if name != b"/three":
            (target / name[1:].decode()).hardlink_to(victim)
    report = restored(backup, target, overwrite=overwrite, helped=helped)
    after = victim.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (before.st_uid, before.st_mode, before.st_mtime_ns)
    assert victim.read_bytes() == b"the same"
    if overwrite:
        assert report.exit_code == 0
        assert {(target / name).stat().st_uid for name in ("one", "two", "three")} == {1}
    else:
        assert set(reasons(report)) == {b"/one", b"/two"}
        assert "hard links" in reasons(report)[b"/one"]
    assert (target / "three").stat().st_ino != after.st_ino


def test_nothing_is_linked_to_a_file_with_other_names(tmp_path: Path) -> None:
    """A missing name is not linked to a file that has a name outside: it becomes a file of its own."""
    target, victim = tmp_path / "target", tmp_path / "victim"
    backup = Backup()
    for name in (b"/one", b"/two"):
        backup.file(name, b"the same", link="1")
    restored(backup, target)
    victim.hardlink_to(target / "one")
    (target / "two").unlink()
    assert restored(backup.store, target).exit_code == 0
    assert (target / "two").stat().st_ino != victim.stat().st_ino
    assert (target / "two").read_bytes() == b"the same"


def test_link_to_a_right_file_is_not_it(tmp_path: Path) -> None:
    """A symbolic link to a file of the right content, or a FIFO in its place, is in the way, not right."""
    (tmp_path / "elsewhere").write_bytes(b"right")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/a").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "target/b")
    (tmp_path / "target/c").symlink_to("other")
    backup = Backup()
    for name in (b"/a", b"/b"):
        backup.file(name, b"right")
    backup.link(b"/c", b"wanted")
    report = restored(backup, tmp_path / "target")
    assert set(reasons(report)) == {b"/a", b"/b", b"/c"}
    assert report.counts.present == 0
    assert stat.S_ISFIFO((tmp_path / "target/b").stat().st_mode)


@ROOT
def test_damaged_in_the_bucket_and_there(backup: Backup, tmp_path: Path) -> None:
    """A file that is there and right needs no bucket: it stays, whatever became of its object."""
    restored(backup, tmp_path)
    for entry in backup.entries:
        if isinstance(entry, File) and entry.location:
            backup.bucket.objects.pop(entry.location.key, None)
    assert restored(backup.store, tmp_path).exit_code == 0
