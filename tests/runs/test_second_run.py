"""The second run: what has not changed costs a handful of requests, and nothing is opened."""

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sysbackup.catalog import blocks
from sysbackup.catalog.questions import DAY
from sysbackup.formats import manifest
from sysbackup.model import FileState
from tests.support import backups
from tests.support.dressing import posix_acl
from tests.support.machines import Machine, opens
from tests.support.memory_store import MemoryBucket, MemoryStore

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """300 small files, two of middle size, one that is streamed, one that is empty."""
    machine = Machine(tmp_path, "alpha", MemoryBucket())
    for n in range(300):
        machine.write(f"d{n % 7}/small{n}", f"file {n}\n" * 100)
    machine.write("middle1", os.urandom(MIB))
    machine.write("middle2", b"text " * MIB)
    machine.write("large", os.urandom(33 * MIB))
    machine.write("empty", b"")
    return machine


@pytest.mark.usefixtures("settled")
def test_an_unchanged_run_opens_no_file_and_stores_a_manifest(machine: Machine) -> None:
    """It makes at most 6 requests, and its manifest names what the first one did."""
    names = {path.name for path in machine.tree.rglob("*") if path.is_file()}
    with opens() as opened:
        first = machine.back_up()
    assert names <= {*opened}
    with opens() as opened:
        second = machine.back_up()
    assert not names & {*opened}
    assert opened
    assert second.kinds == {"manifests": 1}
    assert second.requests.total() <= 6
    assert second.summary.unchanged == second.summary.files == len(names)
    assert second.summary.read == 0
    assert machine.places(second) == machine.places(first)
    assert machine.restores(second)


@pytest.mark.usefixtures("settled")
def test_ten_changed_files_are_one_pack(machine: Machine) -> None:
    """Only they are opened; one pack, one index and the manifest are stored."""
    machine.back_up()
    for n in range(10):
        machine.write(f"d{n % 7}/small{n}", f"changed {n}")
    with opens() as opened:
        second = machine.back_up()
    assert {name for name in opened if name.startswith(("small", "middle", "large"))} == {
        f"small{n}" for n in range(10)
    }
    assert second.kinds == {"packs": 1, "index": 1, "manifests": 1}
    assert second.requests.total() <= 11  # the three are put, and each is looked at
    assert machine.restores(second)


@pytest.mark.usefixtures("settled")
def test_touched_files_are_read_and_nothing_is_stored(machine: Machine) -> None:
    """A new time of the last write does not make a new content; the manifest has the new time."""
    machine.back_up()
    path = machine.tree / "d0" / "small0"
    os.utime(path, ns=(1, 1))
    second = machine.back_up()
    assert second.kinds == {"manifests": 1}
    assert second.summary.read == path.stat().st_size
    assert machine.files(second)["d0/small0"].mtime == 1


@pytest.mark.usefixtures("settled")
def test_a_rescan_reads_all_and_stores_nothing(machine: Machine) -> None:
    """`--rescan` trusts no time and no inode number, but it does trust hashes."""
    first = machine.back_up()
    second = machine.back_up(rescan=True)
    assert second.kinds == {"manifests": 1}
    assert second.summary.read == first.summary.read
    assert second.summary.unchanged == 0
    assert machine.restores(second)


@pytest.mark.usefixtures("settled")
def test_a_rescan_finds_what_changed_behind_the_file_systems_back(machine: Machine) -> None:
    """Bytes that changed without a trace (here: the catalog is told so) are found by a rescan alone."""
    machine.back_up()
    before = (machine.tree / "d0" / "small0").read_bytes()
    status = machine.write("d0/small0", "x" * len(before)).stat()
    times = (status.st_mtime_ns, status.st_ctime_ns)
    state = FileState(status.st_dev, status.st_ino, status.st_size, *times, hashlib.sha256(before).digest())
    with closing(sqlite3.connect(machine.catalog)) as db, db:
        blocks.remember(db, [state], int(machine.clock.now().timestamp()) // DAY)
    assert not machine.restores(machine.back_up())
    assert machine.restores(machine.back_up(rescan=True))
    assert machine.restores(machine.back_up())


def test_a_file_written_just_before_it_was_read_is_read_again(tmp_path: Path) -> None:
    """
    Within one tick of the file system's clock a second write leaves no trace: two seconds must have passed.

    (rule 7)
    """
    machine = Machine(tmp_path, "alpha", MemoryBucket())
    machine.write("fresh", "just written")
    assert machine.back_up().summary.unchanged == 0
    assert machine.back_up().summary.unchanged == 0
    time.sleep(2.1)
    assert machine.back_up().summary.unchanged == 0
    assert machine.back_up().summary.unchanged == 1


@pytest.mark.usefixtures("settled")
def test_other_bytes_of_the_same_size_and_time_are_seen(machine: Machine) -> None:
    """Whoever puts the time of the last write back cannot put back the time of that change."""
    machine.back_up()
    path = machine.tree / "middle1"
    status = path.stat()
    path.write_bytes(os.urandom(MIB))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = machine.back_up()
    assert second.kinds["content"] == 1
    assert machine.restores(second)


@pytest.mark.usefixtures("settled")
def test_what_is_not_content_is_always_seen(machine: Machine) -> None:
    """Links, owners, modes, ACLs and attributes of what is no file cost no reading, those of files no storing."""
    link = machine.tree / "link"
    link.symlink_to("one")
    machine.back_up()
    link.unlink()
    link.symlink_to("another")
    directory, path = machine.tree / "d1", machine.tree / "d2" / "small2"
    acl = posix_acl("rwx", "r--", "---", {("user", 54321): "rw-"}, mask="rw-")
    for changed in (directory, path):
        os.setxattr(changed, "user.note", b"new")
        os.setxattr(changed, "system.posix_acl_access", acl)
        if os.geteuid() == 0:
            os.chown(changed, 1234, 4321)
    with opens() as opened:
        second = machine.back_up()
    assert second.kinds == {"manifests": 1}
    assert {name for name in opened if name.startswith(("small", "middle", "large"))} == {"small2"}
    nodes = backups.nodes(backups.entries(MemoryStore(machine.bucket), second.summary))
    found = nodes[bytes(link)]
    assert isinstance(found, manifest.Link)
    assert found.target == "another"
    for changed in (directory, path):
        node = nodes[bytes(changed)]
        assert node.xattrs == {"user.note": "bmV3"}
        assert node.acl == "u::rwx,u:54321:rw-,g::r--,m::rw-,o::---"
        assert node.uid == (1234 if os.geteuid() == 0 else os.getuid())


@pytest.mark.usefixtures("settled")
def test_a_renamed_file_is_not_read_again(machine: Machine) -> None:
    """A move within one file system changes the name of what is known, unless it touches the inode's times."""
    machine.back_up()
    (machine.tree / "d0").rename(machine.tree / "moved")
    with opens() as opened:
        second = machine.back_up()
    assert not [name for name in opened if name.startswith("small")]
    assert second.kinds == {"manifests": 1}
    assert machine.restores(second)
