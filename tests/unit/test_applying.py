"""What an entry says of a file, given to another: what was read comes back, and what cannot be given is told."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import UNSET

from sysbackup.files import acl
from sysbackup.files.applying import Applier
from sysbackup.files.folders import Folders, link_status, proc_path
from sysbackup.files.nodes import node
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import Walker
from sysbackup.files.writing import Draft
from sysbackup.formats.manifest import File, Node
from sysbackup.model import Problem

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
USER = pytest.mark.skipif(os.geteuid() == 0, reason="root may do all of it")

ACL = "u::rw-,u:7:r--,g::r--,m::rw-,o::---"
MTIME = 1_234_567_890_123_456_789


class Lacks(list[tuple[str, bytes]]):
    """What was told to be lacking."""

    def tell(self, sentence: str, path: bytes) -> None:
        self.append((sentence, path))


@pytest.fixture
def lacks() -> Lacks:
    """What is lacking."""
    return Lacks()


@pytest.fixture
def applier(lacks: Lacks) -> Applier:
    """One that tells `lacks`."""
    return Applier(Owners(), lacks.tell)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[int]:
    """A file that was just restored."""
    fd = os.open(tmp_path / "made", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def read(path: Path) -> Node:
    """What a backup says of it."""
    shortfalls: list[Problem] = []
    with Folders() as folders:
        place = folders.find(bytes(path))
        entry = node(place, link_status(place), Owners(), shortfalls)
    assert shortfalls == []
    return entry


def own(**fields: object) -> File:
    """An entry of a file of ours, otherwise as told."""
    return File(path="/x", uid=os.geteuid(), gid=os.getegid(), mtime=MTIME, **fields)  # type: ignore[arg-type]


def dressed(path: Path) -> None:
    """A file with something of everything that this user can give it."""
    path.write_bytes(b"content")
    path.chmod(0o640)
    parsed = acl.parse(ACL, Owners())
    assert parsed.access is not None
    os.setxattr(path, acl.ACCESS, parsed.access)
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.bytes", bytes(range(256)))
    if os.geteuid() == 0:
        os.chown(path, 7, 54_321)
        os.setxattr(path, "trusted.x", b"t")
        os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
        parsed = acl.parse(ACL.replace("m::rw-", "m::rwx"), Owners())
        assert parsed.access is not None
        os.setxattr(path, acl.ACCESS, parsed.access)
        path.chmod(0o4750)
    os.utime(path, ns=(MTIME, MTIME))


def test_all_that_was_read_comes_back(tmp_path: Path, made: int, applier: Applier, lacks: Lacks) -> None:
    """Owner, setuid, ACL, attributes, capabilities and time: another file that is given them reads the same."""
    dressed(tmp_path / "original")
    entry = read(tmp_path / "original")
    applier.apply(made, entry, b"/x")
    assert lacks == []
    again = read(tmp_path / "made")
    again.path = entry.path
    assert again == entry
    assert applier.matches(proc_path(made), os.fstat(made), entry, b"/x")


def test_of_a_link_all_comes_back_that_it_can_have(tmp_path: Path, applier: Applier, lacks: Lacks) -> None:
    """Owner and time; where it leads nothing changes."""
    (tmp_path / "led to").touch()
    before = (tmp_path / "led to").stat()
    for name in ("original", "made"):
        (tmp_path / name).symlink_to("led to")
    if os.geteuid() == 0:
        os.chown(tmp_path / "original", 7, 54_321, follow_symlinks=False)
    os.utime(tmp_path / "original", ns=(MTIME, MTIME), follow_symlinks=False)
    entry = read(tmp_path / "original")
    fd = os.open(tmp_path / "made", os.O_PATH | os.O_NOFOLLOW)
    assert not applier.matches(proc_path(fd), os.fstat(fd), entry, b"/x")
    applier.apply_to_link(proc_path(fd), entry, b"/x")
    assert applier.matches(proc_path(fd), os.fstat(fd), entry, b"/x")
    os.close(fd)
    assert lacks == []
    again = read(tmp_path / "made")
    again.path = entry.path
    assert again == entry
    assert (tmp_path / "led to").stat() == before


@pytest.mark.parametrize(
    "change", ["time", "mode", "acl", "no acl", "attribute", "another value", "no attribute", "owner", "group"]
)
def test_what_differs_in_one_thing_does_not_match(tmp_path: Path, applier: Applier, change: str) -> None:
    """Nor does it where the entry asks for less than there is of rights; further attributes are let alone."""
    if change in ("owner", "group") and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = tmp_path / "original"
    dressed(path)
    entry = read(path)
    fd = os.open(path, os.O_RDONLY)
    assert applier.matches(proc_path(fd), os.fstat(fd), entry, b"/x")
    if change == "time":
        os.utime(fd, ns=(MTIME, MTIME + 1))
    elif change == "mode":
        os.chmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) ^ 0o001)
    elif change == "acl":
        parsed = acl.parse(ACL.replace("u:7", "u:8"), Owners())
        assert parsed.access is not None
        os.setxattr(fd, acl.ACCESS, parsed.access)
    elif change == "no acl":
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.removexattr(fd, acl.ACCESS)
        os.chmod(fd, mode)
    elif change == "attribute":
        os.setxattr(fd, "user.further", b"1")
    elif change == "another value":
        os.setxattr(fd, "user.empty", b"not")
    elif change == "no attribute":
        os.removexattr(fd, "user.empty")
    else:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.chown(fd, 8 if change == "owner" else -1, 8 if change == "group" else -1)
        os.chmod(fd, mode)
    assert applier.matches(proc_path(fd), os.fstat(fd), entry, b"/x") is (change == "attribute")
    os.close(fd)


def test_an_acl_that_the_backup_does_not_know_goes(tmp_path: Path, applier: Applier, lacks: Lacks) -> None:
    """Where a file was there before: whoever had put the ACL there would keep a right that nobody gave."""
    path = tmp_path / "there"
    dressed(path)
    if os.geteuid() == 0:
        os.chown(path, os.geteuid(), os.getegid())
    entry = own(acl="u::rw-,g::r--,o::---")
    fd = os.open(path, os.O_RDONLY)
    applier.apply_over(proc_path(fd), entry, b"/x")
    assert acl.ACCESS not in os.listxattr(fd)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    assert applier.matches(proc_path(fd), os.fstat(fd), entry, b"/x")
    os.close(fd)
    assert lacks == []


def test_time_comes_last(made: int, applier: Applier) -> None:
    """Nothing that is set moves it again."""
    applier.apply(made, own(acl=ACL, xattrs={"user.a": "eA=="}, flags="--t"), b"/x")
    assert os.fstat(made).st_mtime_ns == MTIME


@pytest.mark.parametrize(
    ("fields", "mode", "told"),
    [
        ({"acl": "nonsense"}, 0o600, "ACLs could not be set, the manifest's are damaged"),
        ({"mode": 0o644, "flags": "rwx"}, 0o600, "ACLs could not be set, the manifest's are damaged"),
        ({}, 0o600, None),  # nobody gets a right that nobody named
        ({"mode": 0o100644}, 0o644, None),
        ({"acl": "u::rw-,u:nobody-here:rw-,g::r--,m::rw-,o::---"}, 0o660, "this machine has no user nobody-here"),
        ({"mode": 0o644, "xattrs": {"user.a": "no base64"}}, 0o644, "extended attributes user.* could not be set"),
        ({"mode": 0o644, "xattrs": {"odd.a": "eA=="}}, 0o644, "extended attributes of unknown kind could not be set"),
        ({"mode": 0o644, "xattrs": {"system.posix_acl_access": "eA=="}}, 0o644, None),
    ],
)
def test_what_cannot_be_given_is_told_and_takes_nothing_else_along(
    made: int, applier: Applier, lacks: Lacks, fields: dict[str, object], mode: int, told: str | None
) -> None:
    """One sentence that holds for many files; the rest of the entry is given all the same."""
    applier.apply(made, own(**fields), b"/x")
    assert [path for _, path in lacks] == ([] if told is None else [b"/x"])
    assert told is None or told in lacks[0][0]
    status = os.fstat(made)
    assert stat.S_IMODE(status.st_mode) == mode
    assert status.st_mtime_ns == MTIME


@pytest.mark.parametrize("mtime", [1 << 100, -(1 << 100)])
def test_a_time_that_no_file_can_have_is_told(made: int, applier: Applier, lacks: Lacks, mtime: int) -> None:
    """It comes from a manifest that somebody else may have written."""
    entry = own(mode=0o644)
    entry.mtime = mtime
    applier.apply(made, entry, b"/x")
    assert [sentence for sentence, _ in lacks] == [
        "modification times could not be set: not a time that a file can have"
    ]


@pytest.mark.parametrize(("uid", "gid"), [(0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1 << 40, 0)])
def test_numbers_that_nobody_can_have_are_not_tried(
    made: int, applier: Applier, lacks: Lacks, uid: int, gid: int
) -> None:
    """To chown(2) some of them mean something else; setuid is left off, for it would be ours."""
    before = os.fstat(made)
    applier.apply(made, File(path="/x", uid=uid, gid=gid, mode=0o755, flags="ss-", mtime=MTIME), b"/x")
    assert len(lacks) == 2
    assert "numbers that nobody can have" in lacks[0][0]
    assert "setuid and setgid were left off" in lacks[1][0]
    after = os.fstat(made)
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o755


@USER
def test_a_user_gives_nothing_away_and_is_told(made: int, applier: Applier, lacks: Lacks) -> None:
    """Another's setuid file would become one of ours."""
    entry = File(path="/x", owner="root", group="root", uid=0, gid=0, mode=0o755, flags="s--", mtime=MTIME)
    applier.apply(made, entry, b"/x")
    assert [sentence.partition(":")[0] for sentence, _ in lacks] == [
        "owners and groups could not be set",
        "setuid and setgid were left off, because the owner they stand for could not be set",
    ]
    assert stat.S_IMODE(os.fstat(made).st_mode) == 0o755


@ROOT
def test_setuid_outlives_the_change_of_owner(made: int, applier: Applier, lacks: Lacks) -> None:
    """chown(2) clears it: it is set afterwards."""
    applier.apply(made, File(path="/x", uid=7, gid=8, acl="u::rwx,g::r-x,o::---", flags="sst", mtime=MTIME), b"/x")
    status = os.fstat(made)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o7750)
    assert lacks == []


@ROOT
def test_names_count_before_numbers(made: int, lacks: Lacks) -> None:
    """The same user may have another number here; `numeric` asks for the number all the same."""
    entry = File(path="/x", owner="daemon", group="nobody-here", uid=54_321, gid=54_322, mode=0o644, mtime=MTIME)
    Applier(Owners(), lacks.tell).apply(made, entry, b"/x")
    status = os.fstat(made)
    assert (status.st_uid, status.st_gid) == (1, 54_322)
    Applier(Owners(numeric=True), lacks.tell).apply(made, entry, b"/x")
    assert os.fstat(made).st_uid == 54_321
    assert entry.xattrs is UNSET
    assert lacks == []


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a system call that changes nothing")


@pytest.fixture
def walker(tmp_path: Path) -> Iterator[Walker]:
    """Finds what lies beneath a directory that is ours."""
    os.chown(tmp_path, os.geteuid(), os.getegid())
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with Walker(fd) as walker:
        yield walker
    os.close(fd)


def _given(walker: Walker, applier: Applier, entry: File) -> os.stat_result:
    """What a new file is once it was given all that an entry says."""
    plain = applier.plain(entry)
    assert applier.plain(entry) == plain  # as it was remembered
    place, _ = walker.find(b"/x")
    draft = Draft(place) if plain is None else Draft(place, plain.mode)
    try:
        if plain is None:
            applier.apply(draft.fd, entry, b"/x")
        else:
            applier.apply_to_draft(draft, plain, entry.xattrs or None, entry.mtime, b"/x")
        return os.fstat(draft.fd)
    finally:
        draft.close()


def test_a_new_file_is_not_given_what_it_has(walker: Walker, lacks: Lacks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of ours that is made in a directory of ours has its owner and its permissions from its birth."""
    monkeypatch.setattr(os, "chown", _refuse)
    monkeypatch.setattr(os, "chmod", _refuse)
    before = os.umask(0o022)
    try:
        made = _given(walker, Applier(Owners(), lacks.tell, 0o022), own(acl="u::rwx,g::r--,o::---"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.st_mode) == 0o740
    assert made.st_mtime_ns == MTIME
    assert lacks == []


@pytest.mark.parametrize(
    ("acl_text", "mode", "umask"),
    [
        ("u::rw-,g::rw-,o::rw-", 0o666, 0o022),
        ("u::r--,g::---,o::---", 0o400, 0o777),
        ("u::rwx,g::rwx,o::rwx", 0o777, 0o077),
    ],
)
def test_what_the_umask_takes_is_given(walker: Walker, lacks: Lacks, acl_text: str, mode: int, umask: int) -> None:
    """Also where nobody knows the umask."""
    before = os.umask(umask & 0o077)
    try:
        made = _given(walker, Applier(Owners(), lacks.tell, umask), own(acl=acl_text))
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.st_mode) == mode
    assert lacks == []


@pytest.mark.parametrize("default", ["u::r--,g::r--,o::---", "u::rwx,u:7:rwx,g::rwx,m::rwx,o::rwx"])
def test_no_acl_is_inherited(tmp_path: Path, lacks: Lacks, default: str) -> None:
    """A directory's default ACL leaves a new file neither more nor less than its entry says."""
    parsed = acl.parse("u::rwx,g::r-x,o::r-x," + ",".join(f"d:{entry}" for entry in default.split(",")), Owners())
    assert parsed.default is not None
    os.setxattr(tmp_path, acl.DEFAULT, parsed.default)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with Walker(fd) as walker:
        made = _given(walker, Applier(Owners(), lacks.tell, 0o022), own(acl="u::rw-,g::r--,o::r--"))
    os.close(fd)
    assert stat.S_IMODE(made.st_mode) == 0o644
    assert lacks == []


@ROOT
def test_in_a_directory_of_somebody_else_owners_are_set(tmp_path: Path, lacks: Lacks) -> None:
    """What is made in a directory may belong to its group (inode(7)); only in one of ours nobody looks again."""
    os.chown(tmp_path, 7, 54_321)
    tmp_path.chmod(0o2777)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with Walker(fd) as walker:
        made = _given(walker, Applier(Owners(), lacks.tell, 0o022), own(acl="u::rw-,g::r--,o::---"))
    os.close(fd)
    assert (made.st_uid, made.st_gid) == (os.geteuid(), os.getegid())
    assert lacks == []


@ROOT
def test_the_owner_of_a_new_file_is_set_and_its_permissions_stay(walker: Walker, lacks: Lacks) -> None:
    """Somebody else's file, with or without setuid."""
    applier = Applier(Owners(), lacks.tell, 0o022)
    for flags, special in ((UNSET, 0), ("ss-", 0o6000)):
        entry = own(acl="u::rwx,g::r-x,o::r-x", flags=flags)
        entry.uid, entry.gid = 7, 54_321
        made = _given(walker, applier, entry)
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (7, 54_321, 0o755 | special)
    assert lacks == []


def test_damaged_permissions_are_not_taken_for_plain_ones(walker: Walker, applier: Applier, lacks: Lacks) -> None:
    """Nobody but the owner gets access, and it is told of every file."""
    for number in (1, 2):
        made = _given(walker, applier, own(acl="u::rwx,o::rwx"))
        assert stat.S_IMODE(made.st_mode) == 0o600
        assert len(lacks) == number
