"""Many files are written by processes of our own: all goes as it does without them, whatever happens to them."""

import asyncio
import os
import random
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import uvloop
from msgspec import UNSET

from sysbackup.concurrency.flag import Flag
from sysbackup.errors import FormatError, ProgramError, RestoreError
from sysbackup.recovery import stored_runs
from sysbackup.recovery.placing_processes import placing_pool
from sysbackup.recovery.restore_report import Options, Report
from sysbackup.recovery.restoring import restore
from sysbackup.store.port import ObjectStore
from tests.support.garbling import GarblingStore
from tests.support.processes import children, command_line
from tests.support.recovering import MTIME, RUN, Backup, reasons, restored, tree

MIB = 1 << 20
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, mount and make devices")


@pytest.fixture
def backup() -> Backup:
    """Files of all sorts, more than one read's worth."""
    made = Backup()
    dice = random.Random(4)
    made.directory(b"/d", "u::rwx,g::---,o::---")
    for n in range(6000):
        made.file(b"/d/%d/%d" % (n % 50, n), b"content %d" % (n % 1000), "u::rw-,u:daemon:r--,g::r--,m::r--,o::---")
    for n in range(3):
        made.file(b"/h/%d" % n, b"linked", link="1")
    made.file(b"/large", dice.randbytes(9 * MIB))
    made.file(b"/empty")
    made.link(b"/link", b"large")
    return made


def _helpers() -> list[int]:
    """The processes that help this one, whichever thread started them."""
    return [pid for pid in children() if b"pool_member:serve" in command_line(pid)]


def test_the_same_with_helpers_and_without(backup: Backup, tmp_path: Path) -> None:
    """Helped or not, a restore makes the same tree and reports the same."""
    alone = restored(backup, tmp_path / "alone")
    helped = restored(backup.store, tmp_path / "helped", helped=True)
    assert helped == alone
    assert helped.exit_code == 0
    assert tree(tmp_path / "helped") == tree(tmp_path / "alone")
    one = tmp_path / "helped/d/7/7"
    assert one.stat().st_mtime_ns == MTIME
    assert os.listxattr(one) == ["system.posix_acl_access"]
    assert stat.S_IMODE((tmp_path / "helped/d").stat().st_mode) == 0o700
    assert len({(tmp_path / f"helped/h/{n}").stat().st_ino for n in range(3)}) == 1
    assert _helpers() == []


def test_a_content_larger_than_a_slot_goes_on_as_a_stream(tmp_path: Path) -> None:
    """Helped or not, what lands and what does not comes back, with all names, by one request for each object."""
    backup = Backup()
    dice = random.Random(5)
    larger = dice.randbytes(33 * MIB)
    first = backup.file(b"/larger/0", larger, link="1")
    assert first.location is not None
    backup.file(b"/larger/1", link="1", size=first.size, sha=first.sha).place(first.location)
    backup.file(b"/large", larger[: 9 * MIB])
    backup.file(b"/packs well", bytes(range(256)) * (40 * MIB // 256))
    backup.stored()
    for helped in (False, True):
        store = GarblingStore(backup.bucket, "nothing/")
        target = tmp_path / str(helped)
        report = restored(store, target, helped=helped)
        assert (report.exit_code, report.counts.files, report.counts.hard_links) == (0, 3, 1)
        assert {key: reads for (key, _), reads in store.reads.items() if reads > 1} == {}
        assert (target / "larger/0").read_bytes() == larger
        assert (target / "larger/1").stat().st_ino == (target / "larger/0").stat().st_ino
        assert (target / "packs well").stat().st_size == 40 * MIB
    assert tree(tmp_path / "True") == tree(tmp_path / "False")


def test_a_content_larger_than_a_slot_damaged_on_its_way(tmp_path: Path) -> None:
    """It is read once more, and comes back."""
    backup = Backup()
    backup.file(b"/larger", content := random.Random(6).randbytes(33 * MIB))
    backup.stored()
    store = GarblingStore(backup.bucket, "content/", at=20 * MIB)
    assert restored(store, tmp_path, helped=True).exit_code == 0
    assert (tmp_path / "larger").read_bytes() == content
    assert max(store.reads.values()) == 2


@pytest.mark.parametrize("helped", [False, True])
def test_what_a_large_content_is_stored_in_its_bytes_say(tmp_path: Path, helped: bool) -> None:
    """It comes back though the manifest is wrong about that."""
    backup = Backup()
    entry = backup.file(b"/large", random.Random(7).randbytes(9 * MIB))
    entry.encoding = UNSET
    assert restored(backup, tmp_path, helped=helped).exit_code == 0
    assert (tmp_path / "large").stat().st_size == 9 * MIB


@pytest.mark.parametrize("helped", [False, True])
def test_each_name_of_a_damaged_large_content_fails_once(tmp_path: Path, helped: bool) -> None:
    """Also one in whose place something else is, which is kept."""
    backup = Backup()
    for name in (b"/a", b"/b", b"/c"):
        entry = backup.file(name, random.Random(8).randbytes(9 * MIB))
        entry.sha = "00" * 32
    (tmp_path / "a").write_text("mine")
    report = restored(backup, tmp_path, helped=helped)
    assert (report.counts.files, report.counts.failed, len(report.problems)) == (0, 3, 3)
    assert (tmp_path / "a").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_helpers_that_started_for_nothing(backup: Backup, tmp_path: Path) -> None:
    """Where the manifest turns out to be damaged, those that started meanwhile leave, and nothing was written."""
    backup.stored(cut=-100)
    with pytest.raises(FormatError, match="cannot be used"):
        uvloop.run(_restore(backup.store, tmp_path / "t"))
    assert _helpers() == []
    assert not (tmp_path / "t").exists()


def test_problems_come_back(backup: Backup, tmp_path: Path) -> None:
    """What helpers could not do is named as if there were none; what is in the way is kept, or replaced if asked."""
    backup.file(b"/d/../up", b"x")
    backup.file(b"/d/0/0/beneath", b"x")
    (tmp_path / "d/1").mkdir(parents=True)
    (tmp_path / "d/1/1").write_text("mine")
    (tmp_path / "d/2").symlink_to(tmp_path)
    report = restored(backup, tmp_path, helped=True)
    assert {b"/d/../up", b"/d/1/1", b"/d/2/2"} < set(reasons(report))
    assert (tmp_path / "d/1/1").read_text() == "mine"
    assert not (tmp_path / "2").exists()
    again = restored(backup.store, tmp_path, overwrite=True, helped=True)
    assert b"/d/1/1" not in reasons(again)
    assert (tmp_path / "d/1/1").read_text() == "content 1"


def test_what_others_may_do_does_not_hang_on_the_umask(backup: Backup, tmp_path: Path) -> None:
    """Files have the permissions that they had, with helpers and without, whatever the umask takes of new ones."""
    modes = {"u::r--,g::---,o::---": 0o400, "u::rw-,g::rw-,o::rw-": 0o666, "u::rwx,g::rwx,o::rwx": 0o777}
    for text, mode in modes.items():
        backup.file(b"/modes/%o" % mode, b"%o" % mode, text)
    for umask in (0o000, 0o077):
        before = os.umask(umask)
        try:
            for helped in (False, True):
                target = tmp_path / f"{umask}-{helped}"
                assert restored(backup, target, b"/modes", helped=helped).exit_code == 0
                found = {stat.S_IMODE(path.stat().st_mode) for path in (target / "modes").iterdir()}
                assert found == set(modes.values())
        finally:
            os.umask(before)


@ROOT
def test_owners_in_a_directory_that_gives_its_group(backup: Backup, tmp_path: Path) -> None:
    """What is restored into a directory whose group its files get belongs to whom it belonged to."""
    (tmp_path / "d").mkdir()
    os.chown(tmp_path / "d", 7, 54_321)
    (tmp_path / "d").chmod(0o2777)
    restored(backup, tmp_path, b"/d", helped=True)
    found = [path.stat() for path in (tmp_path / "d").glob("*/*")]
    assert len(found) == 6000
    assert {(status.st_uid, status.st_gid) for status in found} == {(0, 0)}


@ROOT
def test_options_reach_the_helpers(tmp_path: Path) -> None:
    """Owners by number mean the same to helpers."""
    backup = Backup()
    entry = backup.file(b"/f", b"x")
    entry.owner, entry.uid = "daemon", 54_321
    restored(backup, tmp_path, numeric_owner=True, helped=True)
    assert (tmp_path / "f").stat().st_uid == 54_321


@ROOT
def test_full_disk(backup: Backup, tmp_path: Path) -> None:
    """A disk that is full for a helper ends the restore with one error."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], check=True)
    try:
        with pytest.raises(RestoreError, match="No space left"):
            restored(backup, small, b"/d", helped=True)
        assert not [name for name in tree(small) if "sysbackup" in name]
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert _helpers() == []


async def _restore(store: ObjectStore, target: Path) -> Report:
    found = await stored_runs.find_run(store, RUN)
    return await restore(store, found, [], bytes(target), Options(spool=target.parent, many=0, workers=2))


async def _begun(target: Path) -> None:
    while not any(target.glob("d/*/*")):
        await asyncio.sleep(0.001)


def test_cancelled(backup: Backup, tmp_path: Path) -> None:
    """A restore that is cancelled takes its helpers with it, and soon: between two files."""
    backup.stored()

    async def work() -> None:
        task = asyncio.create_task(_restore(backup.store, tmp_path / "t"))
        await _begun(tmp_path / "t")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uvloop.run(work())
    assert _helpers() == []
    made = len(list((tmp_path / "t").glob("d/*/*")))
    assert made < 5500
    time.sleep(0.2)
    assert len(list((tmp_path / "t").glob("d/*/*"))) == made


def test_killed_helper(backup: Backup, tmp_path: Path) -> None:
    """A helper that is killed (the kernel does, for want of memory) ends the restore with an error, not a hang."""
    backup.stored()

    async def work() -> None:
        task = asyncio.create_task(_restore(backup.store, tmp_path / "t"))
        await _begun(tmp_path / "t")
        for pid in _helpers():
            os.kill(pid, signal.SIGKILL)
        await task

    with pytest.raises(ProgramError, match="-9"):
        uvloop.run(work())
    assert _helpers() == []
    assert not [p for p in (tmp_path / "t").glob("d/*/*") if not p.stat().st_size]


def test_helpers_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in our environment do not reach the helpers, nor does Ctrl-C."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Flag() as stop, placing_pool(1, stop):
        while not _helpers():  # exec(2) is not quite done when Popen returns
            time.sleep(0.01)
        (pid,) = _helpers()
        assert b"AWS_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getsid(pid) == pid
    assert _helpers() == []
