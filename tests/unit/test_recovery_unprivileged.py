"""What a restore does without root: it brings contents back, and says once what it may not set."""

import os
import pickle
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sysbackup.formats.manifest import CharDevice
from sysbackup.recovery.restore_report import Report
from tests.support.recovering import MTIME, Backup, reasons, restored, tree

T = TypeVar("T")
NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def target() -> Iterator[Path]:
    """A directory that nobody owns and can reach."""
    made = Path(tempfile.mkdtemp(prefix="sysbackup-test-"))
    os.chown(made, NOBODY, NOBODY)
    yield made
    shutil.rmtree(made)


def _as_nobody(work: Callable[[], T]) -> T:
    """What `work` returns in a process without any rights."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, pickle.dumps(work()))
        except BaseException:  # noqa: BLE001  # whatever it is must be seen, and must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    found: T = pickle.loads(answer)
    return found


def _restored(backup: Backup, target: Path) -> Report:
    with tempfile.TemporaryDirectory() as scratch:
        # Once as root: what Python loads on demand may lie where nobody cannot read it.
        restored(backup, Path(scratch))
    return _as_nobody(lambda: restored(backup.store, target))


def test_owners_cannot_be_set(target: Path) -> None:
    """Contents, rights and times come back; that owners do not is one warning, and no failure."""
    backup = Backup()
    backup.directory(b"/d", "u::r-x,g::r-x,o::r-x")
    for n in range(50):
        backup.file(b"/d/%d" % n, b"%d" % n, "u::r--,g::r--,o::---")
    report = _restored(backup, target)
    assert report.exit_code == 0
    assert len(report.warnings) == 1
    assert "51 entries" in report.warnings[0]
    status = (target / "d/7").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (NOBODY, 0o440, MTIME)
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555
    assert (target / "d/7").read_bytes() == b"7"


def test_setuid_of_others_is_left_off(target: Path) -> None:
    """A program that ran with root's rights does not run with those of whoever restored it; sticky stays."""
    backup = Backup()
    backup.file(b"/su", b"x", "u::rwx,g::r-x,o::r-x", flags="ss-")
    mine = backup.file(b"/mine", b"y", "u::rwx,g::r-x,o::r-x", flags="s--")
    mine.owner, mine.group, mine.uid, mine.gid = "nobody", "nogroup", NOBODY, NOBODY
    backup.directory(b"/tmp", "u::rwx,g::rwx,o::rwx", flags="--t")
    report = _restored(backup, target)
    assert any("setuid" in warning for warning in report.warnings)
    assert stat.S_IMODE((target / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "mine").stat().st_mode) == 0o4755
    assert stat.S_IMODE((target / "tmp").stat().st_mode) == 0o1777


def test_attributes_of_root(target: Path) -> None:
    """Attributes that only root may set are one warning of their kind; the user's own come back."""
    backup = Backup()
    for n in range(3):
        backup.file(b"/%d" % n, b"x", xattrs={"trusted.a": "aGk=", "user.b": "aGk="})
    report = _restored(backup, target)
    assert report.exit_code == 0
    assert sum("trusted.*" in warning for warning in report.warnings) == 1
    assert os.listxattr(target / "1") == ["user.b"]


def test_devices_need_root(target: Path) -> None:
    """A device that cannot be made is a problem; the rest is restored."""
    backup = Backup()
    backup.entries.append(CharDevice(path="/null", major=1, minor=3, mtime=MTIME))
    backup.file(b"/f", b"x")
    report = _restored(backup, target)
    assert report.exit_code == 3
    assert list(reasons(report)) == [b"/null"]
    assert tree(target) == {"f": b"x"}


def test_directory_of_others(target: Path) -> None:
    """Where a directory of somebody else's may not be written to, its files are problems by name."""
    (target / "d").mkdir(mode=0o755)
    backup = Backup()
    backup.file(b"/d/f", b"x")
    backup.file(b"/g", b"y")
    report = _restored(backup, target)
    assert list(reasons(report)) == [b"/d/f"]
    assert "ermission" in reasons(report)[b"/d/f"]
    assert tree(target) == {"d": None, "g": b"y"}
