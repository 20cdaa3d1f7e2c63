"""A restore brings back what was backed up, and one damaged object costs its own files alone."""

import asyncio
import gc
import os
import random
import stat
import subprocess
import sys
import weakref
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sysbackup.errors import AccessDenied, FormatError, ObjectGone, RestoreError, StoreError, StoreUnavailable
from sysbackup.files import writing
from sysbackup.formats.manifest import BlockDevice, CharDevice, Fifo, File
from sysbackup.model import Problem
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options, Report
from sysbackup.recovery.restoring import restore
from tests.support.failing import FailingStore, at
from tests.support.memory_store import MemoryStore
from tests.support.recovering import MTIME, RUN, Backup, reasons, restored, tree

MIB = 1 << 20

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, mount and make devices")
LARGE = 9 * MIB  # more than a restore holds in memory at once
DICE = random.Random(1)


@pytest.fixture
def backup() -> Backup:
    """A small tree, with one file that streams."""
    made = Backup()
    made.directory(b"/etc")
    made.directory(b"/etc/ssh", "u::rwx,g::---,o::---")
    made.file(b"/etc/empty")
    made.file(b"/etc/hosts", b"127.0.0.1 localhost\n")
    made.file(b"/etc/ssh/key", b"secret\n", "u::rw-,g::---,o::---")
    made.file(b"/var/large", DICE.randbytes(LARGE))
    made.file(b"/var/middle", DICE.randbytes(2 * MIB))
    made.link(b"/var/link", b"large")
    return made


def test_all_of_it(backup: Backup, tmp_path: Path) -> None:
    """Contents, rights and times of files and directories come back; directories have their own times at the end."""
    report = restored(backup, tmp_path)
    assert report.exit_code == 0
    assert (report.counts.files, report.counts.directories, report.counts.symlinks) == (5, 2, 1)
    found = tree(tmp_path)
    assert found["etc/hosts"] == b"127.0.0.1 localhost\n"
    assert found["etc/empty"] == b""
    assert found["var/link"] == "large"
    assert len(found["var/large"] or b"") == LARGE
    assert stat.S_IMODE((tmp_path / "etc/ssh").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "etc/ssh/key").stat().st_mode) == 0o600
    for name in ("etc", "etc/ssh", "etc/hosts", "var/large", "var/link"):
        assert (tmp_path / name).lstat().st_mtime_ns == MTIME
    assert sorted(found) == sorted(
        ["etc", "etc/empty", "etc/hosts", "etc/ssh", "etc/ssh/key", "var", "var/large", "var/link", "var/middle"]
    )


def test_missing_target_is_made(backup: Backup, tmp_path: Path) -> None:
    """A target that does not exist is made, and one that is a symlink to a directory is used."""
    real, link = tmp_path / "real/deep", tmp_path / "link"
    link.symlink_to(real)
    restored(backup, real, b"/etc/hosts")
    restored(backup.store, link, b"/etc/empty")
    assert sorted(tree(real)) == ["etc", "etc/empty", "etc/hosts"]


def test_selected_paths(backup: Backup, tmp_path: Path) -> None:
    """A path brings what lies beneath it, and the directories above it with their rights; nothing else."""
    backup.file(b"/etc/ssh-not", b"x")
    report = restored(backup, tmp_path, b"/etc/ssh/")
    assert sorted(tree(tmp_path)) == ["etc", "etc/ssh", "etc/ssh/key"]
    assert (tmp_path / "etc").stat().st_mtime_ns == MTIME
    assert report.exit_code == 0


def test_path_that_is_not_there(backup: Backup, tmp_path: Path) -> None:
    """A path that the run does not hold is a problem by its name; the others are restored."""
    report = restored(backup, tmp_path, b"/etc/hosts", b"/no/such")
    assert report.exit_code == 3
    assert "no such path" in reasons(report)[b"/no/such"]
    assert (tmp_path / "etc/hosts").exists()


def test_paths_are_bytes(tmp_path: Path) -> None:
    """Names that are not UTF-8, and targets of links that are not, come back byte by byte."""
    backup = Backup()
    backup.file(b"/caf\xe9/\xff\n", b"x")
    backup.link(b"/caf\xe9/link", b"\xff\xfe")
    restored(backup, tmp_path, b"/caf\xe9")
    assert sorted(os.listdir(bytes(tmp_path) + b"/caf\xe9")) == [b"link", b"\xff\n"]
    assert os.readlink(bytes(tmp_path) + b"/caf\xe9/link") == b"\xff\xfe"


def test_equal_contents_are_fetched_once(tmp_path: Path) -> None:
    """Many files of many small contents in a pack cost one request; equal large contents one, too."""
    backup = Backup()
    for n in range(500):
        backup.file(b"/many/%d" % n, b"content %d" % (n % 100))
    large = DICE.randbytes(LARGE)
    for name in (b"/l/1", b"/l/2", b"/l/3"):
        backup.file(name, large)
    backup.stored()
    store = backup.store
    before = store.requests.by_kind["GetObject"]
    restored(store, tmp_path)
    assert store.requests.by_kind["GetObject"] - before == 1 + 1 + 3  # manifest, pack, three equal keys' versions
    assert (tmp_path / "many/499").read_bytes() == b"content 99"


def test_equal_large_content_is_fetched_once(tmp_path: Path) -> None:
    """One object that several files want streams once; each gets its own inode and rights."""
    backup = Backup()
    large = DICE.randbytes(LARGE)
    first = backup.file(b"/l/1", large)
    for name, acl in ((b"/l/2", "u::rw-,g::---,o::---"), (b"/l/3", "u::r--,g::r--,o::r--")):
        backup.file(name, b"", acl, size=LARGE, sha=first.sha, key=first.key, version=first.version, encoding="gzip")
    backup.stored()
    store = backup.store
    restored(store, tmp_path)
    assert store.requests.by_kind["GetObject"] == 2
    made = [tmp_path / "l" / name for name in "123"]
    assert all(path.read_bytes() == large for path in made)
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o644, 0o600, 0o444]
    assert len({path.stat().st_ino for path in made}) == 3


def test_far_members_are_read_apart(tmp_path: Path) -> None:
    """Two members with much between them cost two short reads, not one long one."""
    backup = Backup()
    for n in range(4):
        backup.file(b"/f/%d" % n, DICE.randbytes(MIB))
    backup.stored()
    store = backup.store
    restored(store, tmp_path, b"/f/0", b"/f/3")
    assert store.requests.received < 3 * MIB
    assert len(tree(tmp_path / "f")) == 2


def test_hard_links(tmp_path: Path) -> None:
    """Files of one inode are one inode again, large or small or empty."""
    backup = Backup()
    for kind, content in (("small", b"x"), ("large", DICE.randbytes(LARGE)), ("empty", b"")):
        for n in range(3):
            backup.file(f"/h/{kind}{n}".encode(), content, link=kind)
    for entry in backup.entries:
        if isinstance(entry, File) and entry.link == "large":
            entry.version = next(e.version for e in backup.entries if isinstance(e, File) and e.link == "large")
    report = restored(backup, tmp_path)
    assert (report.counts.files, report.counts.hard_links) == (3, 6)
    for kind in ("small", "large", "empty"):
        assert len({(tmp_path / "h" / f"{kind}{n}").stat().st_ino for n in range(3)}) == 1


def test_hard_link_without_its_first_name(tmp_path: Path) -> None:
    """A hard link whose other name is not selected, or is in the way, is a file of its own."""
    backup = Backup()
    for name in (b"/a", b"/b", b"/c"):
        backup.file(name, b"content", link="1")
    restored(backup, tmp_path / "1", b"/b")
    assert tree(tmp_path / "1") == {"b": b"content"}
    (tmp_path / "2").mkdir()
    (tmp_path / "2/a").write_text("mine")
    report = restored(backup.store, tmp_path / "2")
    assert set(reasons(report)) == {b"/a"}
    assert tree(tmp_path / "2") == {"a": b"mine", "b": b"content", "c": b"content"}
    assert (tmp_path / "2/b").stat().st_ino == (tmp_path / "2/c").stat().st_ino


@pytest.mark.parametrize("zeros", [4 * MIB, LARGE])
@pytest.mark.parametrize("begin", [b"", b"begin", b"b" * 65_536])
@pytest.mark.parametrize("end", [b"", b"end"])
def test_holes(tmp_path: Path, zeros: int, begin: bytes, end: bytes) -> None:
    """Long runs of zeros become holes, at the end too, and the length is right."""
    backup = Backup()
    content = begin + bytes(zeros) + end
    backup.file(b"/sparse", content)
    assert restored(backup, tmp_path).exit_code == 0
    assert (tmp_path / "sparse").stat().st_blocks * 512 < 512 << 10
    assert (tmp_path / "sparse").read_bytes() == content


@ROOT
def test_rights_that_are_more_than_bits(tmp_path: Path) -> None:
    """ACLs, default ACLs, setuid, setgid, sticky and xattrs come back, whatever order the kernel wants."""
    backup = Backup()
    acl = "u::rwx,u:daemon:r--,g::r-x,m::r-x,o::---"
    backup.directory(b"/d", f"{acl},d:u::rwx,d:u:daemon:rw-,d:g::---,d:m::rw-,d:o::---", flags="-st")
    backup.file(b"/d/f", b"x", acl, flags="ss-", xattrs={"user.note": "aGk=", "trusted.note": "aGk="})
    report = restored(backup, tmp_path)
    assert report.exit_code == 0
    shown = subprocess.run(
        ["getfacl", "-E", "-p", str(tmp_path / "d"), str(tmp_path / "d/f")], capture_output=True, text=True, check=True
    ).stdout
    directory, file = shown.strip().split("\n\n")
    assert "# flags: -st" in directory
    assert "default:user:daemon:rw-" in directory
    assert "# flags: ss-" in file
    assert "user:daemon:r--" in file
    assert "default" not in file
    assert os.getxattr(tmp_path / "d/f", "user.note") == b"hi"
    assert os.getxattr(tmp_path / "d/f", "trusted.note") == b"hi"


def test_default_acl_of_the_target_is_not_inherited(tmp_path: Path) -> None:
    """What a directory that was there passes on to new files does not mix with what was backed up."""
    subprocess.run(["setfacl", "-m", "d:u:daemon:rwx", str(tmp_path)], check=True)
    backup = Backup()
    backup.directory(b"/d")
    backup.file(b"/d/f", b"x")
    backup.file(b"/f", b"y")
    backup.entries.append(Fifo(path="/p", acl="u::rw-,g::r--,o::---", mtime=MTIME))
    restored(backup, tmp_path)
    for name, mode in (("d", 0o755), ("d/f", 0o644), ("f", 0o644), ("p", 0o640)):
        assert os.listxattr(tmp_path / name) == []
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


@ROOT
def test_owners(tmp_path: Path) -> None:
    """Owners go by name where this machine has it, else by number; by number alone if asked."""
    backup = Backup()
    for name, owner in ((b"/named", "daemon"), (b"/unnamed", "nobody-here"), (b"/number", 4_294_967_294)):
        entry = backup.file(name, b"x")
        entry.owner = entry.group = owner
        entry.uid = entry.gid = 54_321
    restored(backup, tmp_path / "names")
    restored(backup.store, tmp_path / "numbers", numeric_owner=True)
    uids = {name: (tmp_path / name).stat().st_uid for name in ("names/named", "names/unnamed", "names/number")}
    assert uids == {"names/named": 1, "names/unnamed": 54_321, "names/number": 4_294_967_294}
    assert (tmp_path / "numbers/named").stat().st_uid == 54_321
    assert (tmp_path / "numbers/named").stat().st_gid == 54_321


@ROOT
def test_devices_and_fifos(tmp_path: Path) -> None:
    """Device numbers, rights and times of special files come back."""
    backup = Backup()
    rest: dict[str, Any] = {"acl": "u::rw-,g::r--,o::---", "mtime": MTIME, "uid": 0, "gid": 0}
    backup.entries += [
        Fifo(path="/p", **rest),
        CharDevice(path="/c", major=1, minor=3, **rest),
        BlockDevice(path="/b", major=7, minor=65_537, **rest),
    ]
    assert restored(backup, tmp_path).counts.specials == 3
    for name, kind in (("p", stat.S_ISFIFO), ("c", stat.S_ISCHR), ("b", stat.S_ISBLK)):
        status = (tmp_path / name).stat()
        assert kind(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_mtime_ns == MTIME
    assert (tmp_path / "b").stat().st_rdev == os.makedev(7, 65_537)


def test_what_is_in_the_way_is_kept(backup: Backup, tmp_path: Path) -> None:
    """Without --overwrite nothing that is there changes: neither a file nor the rights of a directory."""
    (tmp_path / "etc").mkdir(mode=0o711)
    (tmp_path / "etc/hosts").write_text("mine")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/large").write_text("mine too")
    (tmp_path / "var/link").mkdir()
    report = restored(backup, tmp_path)
    assert report.exit_code == 3
    assert set(reasons(report)) == {b"/etc/hosts", b"/var/large", b"/var/link"}
    assert all("in the way" in reason for reason in reasons(report).values())
    assert (tmp_path / "etc/hosts").read_text() == "mine"
    assert (tmp_path / "var/large").read_text() == "mine too"
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o711
    assert report.counts.kept == 1
    assert (tmp_path / "etc/ssh/key").read_text() == "secret\n"


def test_overwrite(backup: Backup, tmp_path: Path) -> None:
    """With --overwrite what is in the way is replaced, not written into; directories get the manifest's rights."""
    (tmp_path / "etc").mkdir(mode=0o711)
    (tmp_path / "etc/hosts").write_text("mine")
    (tmp_path / "other").hardlink_to(tmp_path / "etc/hosts")
    (tmp_path / "var").mkdir()
    os.mkfifo(tmp_path / "var/large")
    (tmp_path / "var/link").write_text("mine")
    report = restored(backup, tmp_path, overwrite=True)
    assert report.exit_code == 0
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
    assert (tmp_path / "var/large").stat().st_size == LARGE
    assert (tmp_path / "var/link").is_symlink()
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o755
    again = restored(backup.store, tmp_path, overwrite=True)
    assert again.exit_code == 0
    assert not [name for name in tree(tmp_path) if "sysbackup" in name]


def test_directory_is_never_replaced(backup: Backup, tmp_path: Path) -> None:
    """--overwrite replaces no directory, empty or not, and says so."""
    (tmp_path / "etc/hosts").mkdir(parents=True)
    (tmp_path / "var/link").mkdir(parents=True)
    report = restored(backup, tmp_path, overwrite=True)
    assert set(reasons(report)) == {b"/etc/hosts", b"/var/link"}
    assert not [name for name in tree(tmp_path) if "sysbackup" in name]


def test_without_unnamed_files(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has no unnamed files all goes the same way, and no temporary name stays."""
    monkeypatch.setattr(writing, "_open_unnamed", lambda *_: -1)
    backup.file(b"/etc/hosts2", b"127.0.0.1 localhost\n", link="1")
    backup.file(b"/etc/hosts3", b"127.0.0.1 localhost\n", link="1")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/middle").write_text("mine")
    report = restored(backup, tmp_path)
    assert set(reasons(report)) == {b"/var/middle"}
    assert (tmp_path / "etc/hosts2").stat().st_ino == (tmp_path / "etc/hosts3").stat().st_ino
    again = restored(backup.store, tmp_path, overwrite=True)
    assert again.exit_code == 0
    assert (tmp_path / "var/middle").stat().st_size == 2 * MIB
    assert not [name for name in tree(tmp_path) if "sysbackup" in name]


def test_damaged_member(backup: Backup, tmp_path: Path) -> None:
    """One flipped byte in a pack costs the file that it belongs to."""
    key = backup.pack()
    assert key is not None
    hosts = next(e for e in backup.entries if isinstance(e, File) and e.path == "/etc/hosts")
    assert hosts.location is not None
    assert hosts.location.span is not None
    kept = backup.bucket.objects[key][0]
    place = hosts.location.span.offset + 12
    kept.body = kept.body[:place] + bytes([kept.body[place] ^ 0xFF]) + kept.body[place + 1 :]
    report = restored(backup, tmp_path)
    assert report.exit_code == 3
    assert list(reasons(report)) == [b"/etc/hosts"]
    assert key in reasons(report)[b"/etc/hosts"]
    assert not (tmp_path / "etc/hosts").exists()
    assert (tmp_path / "etc/ssh/key").exists()


def test_truncated_pack(tmp_path: Path) -> None:
    """Of a pack that ends too early what is left of it is restored."""
    backup = Backup()
    for n in range(20):
        backup.file(b"/f/%02d" % n, DICE.randbytes(1000))
    key = backup.pack()
    assert key is not None
    kept = backup.bucket.objects[key][0]
    kept.body = kept.body[:10_000]
    report = restored(backup, tmp_path)
    assert report.counts.files == 9
    assert report.counts.failed == 11
    assert len(tree(tmp_path / "f")) == 9


def test_damaged_large_object(backup: Backup, tmp_path: Path) -> None:
    """A large content with another digest, or cut short, leaves no file behind; the rest is restored."""
    for entry in backup.entries:
        if isinstance(entry, File) and entry.path in {"/var/large", "/var/middle"}:
            assert isinstance(entry.key, str)
            kept = backup.bucket.objects[entry.key][0]
            kept.body = kept.body[: len(kept.body) // 2] if entry.path == "/var/large" else kept.body[:-9] + b"?" * 9
    report = restored(backup, tmp_path)
    assert set(reasons(report)) == {b"/var/large", b"/var/middle"}
    assert sorted(tree(tmp_path / "var")) == ["link"]


def test_wrong_digest(backup: Backup, tmp_path: Path) -> None:
    """A content that unpacks well but is not the one backed up is not restored."""
    for entry in backup.entries:
        if isinstance(entry, File) and entry.path in {"/etc/hosts", "/var/large"}:
            entry.sha = "0" * 64
    report = restored(backup, tmp_path)
    assert set(reasons(report)) == {b"/etc/hosts", b"/var/large"}
    assert all("SHA-256" in reason for reason in reasons(report).values())


@pytest.mark.parametrize("error", [ObjectGone, AccessDenied, StoreError])
def test_object_that_cannot_be_had(backup: Backup, tmp_path: Path, error: type[StoreError]) -> None:
    """A missing or denied object costs its files; the rest is restored."""
    backup.stored()
    large = next(e.key for e in backup.entries if isinstance(e, File) and e.path == "/var/large")

    class Store(MemoryStore):
        async def read(
            self, key: str, version: str | None, start: int = 0, length: int | None = None
        ) -> AsyncGenerator[bytes, None]:
            if key == large:
                raise error("not this one")
            async for chunk in super().read(key, version, start, length):
                yield chunk

    report = restored(Store(backup.bucket), tmp_path)
    assert list(reasons(report)) == [b"/var/large"]
    assert "not this one" in reasons(report)[b"/var/large"]
    assert (tmp_path / "var/middle").exists()


def test_denied_objects_do_not_add_up(tmp_path: Path) -> None:
    """Where one object can be read, any number of others may be denied: each costs its file, and no memory."""
    backup = Backup()
    for n in range(150):
        backup.file(b"/l/%03d" % n, b"%03d" % n + bytes(MIB))
    manifest = backup.stored()
    readable: list[str] = []
    was_read = asyncio.Event()
    denials: list[weakref.ref[AccessDenied]] = []
    alive = 0

    class Store(MemoryStore):
        async def read(
            self, key: str, version: str | None, start: int = 0, length: int | None = None
        ) -> AsyncGenerator[bytes, None]:
            if key != manifest and readable:
                nonlocal alive
                await was_read.wait()
                gc.collect()  # an error and the frames that it went through hold each other
                alive = max(alive, sum(denial() is not None for denial in denials))
                denial = AccessDenied("not this one")
                denials.append(weakref.ref(denial))
                raise denial
            readable.extend([key] if key != manifest else [])
            async for chunk in super().read(key, version, start, length):
                yield chunk
            if key != manifest:
                was_read.set()

    report = restored(Store(backup.bucket), tmp_path)
    assert report.counts.files == 1
    assert report.counts.failed == len(denials) == 149
    assert alive < 50  # those of the reads that go on at the same time


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
def test_store_that_gives_nothing(backup: Backup, tmp_path: Path, error: type[StoreError]) -> None:
    """A store that is gone, or denies all contents, ends the restore with its own error."""
    backup.stored()
    store = FailingStore(backup.store, lambda name, number: name == "read" and number > 1, lambda: error("no"))
    with pytest.raises(error):
        restored(store, tmp_path)
    assert not [name for name, content in tree(tmp_path).items() if content]


def test_store_that_goes_away(backup: Backup, tmp_path: Path) -> None:
    """Where the store goes away midway, what is there is whole, and directories have their rights."""
    backup.stored()
    store = FailingStore(backup.store, at("read", 4), lambda: StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable, match="gone"):
        restored(store, tmp_path)
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o755


def test_damaged_manifest_writes_nothing(backup: Backup, tmp_path: Path) -> None:
    """A manifest without its end is refused before the target is touched."""
    backup.stored(cut=-10)
    with pytest.raises(FormatError):
        restored(backup.store, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@ROOT
def test_full_disk(backup: Backup, tmp_path: Path) -> None:
    """A full disk ends the restore with one error that says so, not with one for each file. Then it goes on."""
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path / "small")], check=True)
    try:
        with pytest.raises(RestoreError, match=r"No space left.*make room, then restore again"):
            restored(backup, tmp_path / "small")
        assert not [name for name in tree(tmp_path / "small") if "large" in name]
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "small")], check=True)
        report = restored(backup.store, tmp_path / "small")
        assert (report.exit_code, report.counts.present > 0) == (0, True)
        assert restored(backup.store, tmp_path / "new").exit_code == 0
        assert tree(tmp_path / "small") == tree(tmp_path / "new")
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


@pytest.mark.parametrize("unnamed", [True, False])
def test_cancelled(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool) -> None:
    """A restore that is cancelled while a file streams leaves nothing of that file."""
    if not unnamed:
        monkeypatch.setattr(writing, "_open_unnamed", lambda *_: -1)
    backup.stored()
    large = next(e.key for e in backup.entries if isinstance(e, File) and e.path == "/var/large")
    reached = asyncio.Event()

    class Stuck(MemoryStore):
        async def read(
            self, key: str, version: str | None, start: int = 0, length: int | None = None
        ) -> AsyncGenerator[bytes, None]:
            sent = 0
            async for chunk in super().read(key, version, start, length):
                yield chunk
                sent += len(chunk)
                if key == large and sent > 4 * MIB:
                    reached.set()
                    await asyncio.Event().wait()

    async def work() -> None:
        store = Stuck(backup.bucket)
        task = asyncio.create_task(_restore(store, tmp_path))
        await reached.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uvloop.run(work())
    assert not [name for name in tree(tmp_path) if "sysbackup" in name or "large" in name]


def test_cancelled_between_files(tmp_path: Path) -> None:
    """A restore that is cancelled stops between two files of a pack, not at its end."""
    backup = Backup()
    for n in range(4000):
        backup.file(b"/f/%d" % n, b"%d" % n)
    backup.stored()
    made = tmp_path / "f"

    async def work() -> None:
        task = asyncio.create_task(_restore(backup.store, tmp_path))
        while not made.exists() or not os.listdir(made):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uvloop.run(work())
    assert len(os.listdir(made)) < 3500


async def _restore(store: MemoryStore, target: Path) -> Report:
    found = await stored_runs.find_run(store, RUN)
    return await restore(store, found, [], bytes(target), Options(spool=target))


def test_progress_adds_up(backup: Backup, tmp_path: Path) -> None:
    """Who watches learns how much is to come, and in the end that all of it has been dealt with."""

    class Watcher:
        def __init__(self) -> None:
            self.plan = (0, 0)
            self.files = self.size = 0
            self.problems: list[Problem] = []

        def planned(self, files: int, size: int) -> None:
            self.plan = (files, size)

        def done(self, files: int, size: int) -> None:
            self.files += files
            self.size += size

        def problem(self, problem: Problem) -> None:
            self.problems.append(problem)

    watcher = Watcher()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").touch()
    backup.stored()

    async def work() -> Report:
        found = await stored_runs.find_run(backup.store, RUN)
        return await restore(backup.store, found, [], bytes(tmp_path), Options(spool=tmp_path), watcher)

    report = uvloop.run(work())
    assert watcher.files == watcher.plan[0] == 5
    assert watcher.size == watcher.plan[1] - 20
    assert tuple(watcher.problems) == report.problems


def test_memory_does_not_grow_with_entries(tmp_path: Path) -> None:
    """A manifest of very many entries is spooled to disk: reading it keeps within a few tens of MiB."""
    script = """
import sys, resource
from pathlib import Path
from typing import Any
from sysbackup.formats.manifest import File, named
from sysbackup.recovery.planning import Plan
from sysbackup.recovery.selecting import Selection
def entries(n):
    for i in range(n):
        yield File(**named(b"/a/rather/long/path/to/a/file/%d" % i), acl="u::rw-,g::r--,o::r--", mtime=i, size=100,
                   sha="%064x" % i, key="packs/%064x" % (i // 5000), version="v", offset=i % 5000 * 100, length=90)
def peak(n):
    with Plan(Selection([]), Path(sys.argv[1])) as plan:
        plan.take(entries(n))
        assert sum(len(f.contents) for f in plan.fetches()) == n
        assert plan.files == n and not plan.outcome.failed
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak(60_000)
first = peak(120_000)
print((peak(360_000) - first) // 1024)
"""
    python = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(python.stdout) < 16
