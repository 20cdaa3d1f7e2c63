"""The comparer that judges restores finds every kind of difference, and only differences."""

import os
import shutil
import stat
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, socket
from typing import get_args

import pytest

from tests.support import comparing
from tests.support.comparing import Aspect, Looks, differences, opened_directory

Trees = tuple[bytes, bytes]
Mutation = Callable[[bytes], None]
AGES_AGO = -315_619_200_000_000_123
NAMED_USER = struct.pack(
    "<I" + 5 * "HHI", 2, *(1, 6, 2**32 - 1), *(2, 4, 4242), *(4, 4, 2**32 - 1), *(16, 4, 2**32 - 1),
    *(32, 0, 2**32 - 1),
)  # fmt: skip
"""u::rw-,u:4242:r--,g::r--,m::r--,o::--- as the kernel keeps it (linux/posix_acl_xattr.h)."""


def build(root: bytes) -> None:
    """A small tree with one of everything that the mutations below need."""
    os.makedirs(root + b"/sub")
    for name in (b"file", b"sub/other", b"sub/odd \xff\n", b"one", b"alone"):
        write(root + b"/" + name, b"content of " + name)
    os.link(root + b"/one", root + b"/sub/two")
    os.link(root + b"/one", root + b"/three")
    with open(root + b"/holes", "wb") as f:
        f.truncate(1 << 20)
    os.symlink(b"file", root + b"/link")
    os.mkfifo(root + b"/fifo")
    os.setxattr(root + b"/file", "user.note", b"\0\xff")
    os.setxattr(root + b"/sub/other", "system.posix_acl_access", NAMED_USER)
    os.utime(root + b"/sub/other", ns=(0, AGES_AGO))
    for directory, _, names in os.walk(root, topdown=False):
        os.chmod(directory, 0o755)
        for name in names:
            if name != b"other":
                os.utime(directory + b"/" + name, ns=(5, 1_000_000_007), follow_symlinks=False)
        os.utime(directory, ns=(5, 2_000_000_009))


def write(path: bytes, data: bytes) -> None:
    """Sets a file's contents, keeping its inode and its mtime if it has any."""
    existed = os.path.exists(path)
    before = os.stat(path).st_mtime_ns if existed else 0
    with open(path, "wb") as f:
        f.write(data)
    os.utime(path, ns=(0, before))
    if not existed:
        os.chmod(path, 0o644)


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    """Two trees built alike."""
    pair = bytes(tmp_path / "original"), bytes(tmp_path / "restored")
    for root in pair:
        build(root)
    return pair


def quietly(change: Mutation) -> Mutation:
    """The change, with the mtimes of all directories put back: it shall show by itself alone."""

    def changed(root: bytes) -> None:
        change(root)
        for directory, _, _ in os.walk(root):
            os.utime(directory, ns=(5, 2_000_000_009))

    return changed


def replaced(name: bytes, make: Mutation) -> Mutation:
    """Puts something of another type at a name."""

    def change(root: bytes) -> None:
        os.unlink(root + b"/" + name)
        make(root + b"/" + name)
        os.utime(root + b"/" + name, ns=(5, 1_000_000_007), follow_symlinks=False)

    return change


def resized(name: bytes, data: bytes) -> Mutation:
    return lambda root: write(root + b"/" + name, data)


def touched(name: bytes, mtime: int) -> Mutation:
    return lambda root: os.utime(root + b"/" + name, ns=(5, mtime), follow_symlinks=False)


def filled(root: bytes) -> None:
    write(root + b"/holes", bytes(1 << 20))


def copied(root: bytes) -> None:
    """One of three hard links becomes a file of its own."""
    shutil.copy2(root + b"/sub/two", root + b"/sub/new")
    os.rename(root + b"/sub/new", root + b"/sub/two")


def joined(root: bytes) -> None:
    """A file becomes one more name of another, equal in all else."""
    for name in (b"/alone", b"/file"):
        os.unlink(root + name)
    write(root + b"/alone", b"content of file")
    os.setxattr(root + b"/alone", "user.note", b"\0\xff")
    os.utime(root + b"/alone", ns=(5, 1_000_000_007))
    os.link(root + b"/alone", root + b"/file")


def bound(path: bytes) -> None:
    """A socket, at a path that may be too long for sun_path."""
    with opened_directory(os.path.dirname(path)) as fd, closing(socket(AF_UNIX)) as sock:
        sock.bind(b"/proc/self/fd/%d/%s" % (fd, os.path.basename(path)))


@dataclass(frozen=True)
class Case:
    """A change to the restored tree, the sentences it must cause, and the aspect that hides them."""

    change: Mutation
    found: tuple[str, ...]
    hidden_by: Aspect | None = None


CASES = {
    "a file is missing": Case(lambda r: os.unlink(r + b"/file"), ("'file': missing",)),
    "a directory is missing": Case(
        lambda r: shutil.rmtree(r + b"/sub"),
        (
            "'sub': missing",
            "'sub/odd \\xff\\n': missing",
            "'sub/other': missing",
            "'sub/two': missing",
        ),
    ),
    "something is added": Case(lambda r: os.mkdir(r + b"/more"), ("'more': added",)),
    "a file became a FIFO": Case(replaced(b"file", os.mkfifo), ("'file': was a regular file, is a FIFO",)),
    "a FIFO became a file": Case(
        replaced(b"fifo", lambda p: write(p, b"")), ("'fifo': was a FIFO, is a regular file",)
    ),
    "a FIFO became a socket": Case(replaced(b"fifo", bound), ("'fifo': was a FIFO, is a socket",)),
    "a symlink became its target": Case(
        replaced(b"link", lambda p: write(p, b"content of file")),
        ("'link': was a symlink, is a regular file",),
    ),
    "a file became a directory": Case(replaced(b"alone", os.mkdir), ("'alone': was a regular file, is a directory",)),
    "a byte differs": Case(
        resized(b"sub/other", b"content Of sub/other"), ("'sub/other': contents differ from byte 8",)
    ),
    "the last byte differs": Case(resized(b"alone", b"content of alonE"), ("'alone': contents differ from byte 15",)),
    "a file is shorter": Case(
        resized(b"alone", b"content"),
        ("'alone': size was 16 bytes, is 7 bytes", "'alone': contents differ from byte 7"),
    ),
    "a file is longer": Case(
        resized(b"alone", b"content of alone!"),
        ("'alone': size was 16 bytes, is 17 bytes", "'alone': contents differ from byte 16"),
    ),
    "holes are filled": Case(filled, ("'holes': holes saved 1048576 bytes, save 0",), "holes"),
    "permissions differ": Case(lambda r: os.chmod(r + b"/alone", 0o640), ("'alone': mode was 0644, is 0640",), "mode"),
    "setuid is lost": Case(lambda r: os.chmod(r + b"/alone", 0o4644), ("'alone': mode was 0644, is 4644",), "mode"),
    "a directory's sticky bit differs": Case(
        lambda r: os.chmod(r + b"/sub", 0o1755), ("'sub': mode was 0755, is 1755",), "mode"
    ),
    "the root's mode differs": Case(lambda r: os.chmod(r, 0o700), ("'.': mode was 0755, is 0700",), "mode"),
    "an mtime is off by a nanosecond": Case(
        touched(b"alone", 1_000_000_008),
        ("'alone': mtime was 1000000007 ns, is 1000000008 ns",),
        "mtime",
    ),
    "an mtime before 1970 is lost": Case(
        touched(b"sub/other", 0), (f"'sub/other': mtime was {AGES_AGO} ns, is 0 ns",), "mtime"
    ),
    "a symlink's own mtime differs": Case(touched(b"link", 0), ("'link': mtime was 1000000007 ns, is 0 ns",), "mtime"),
    "a FIFO's mtime differs": Case(touched(b"fifo", 0), ("'fifo': mtime was 1000000007 ns, is 0 ns",), "mtime"),
    "a symlink leads elsewhere": Case(
        replaced(b"link", lambda p: os.symlink(b"file ", p)), ("'link': target was 'file', is 'file '",)
    ),
    "an xattr is lost": Case(
        lambda r: os.removexattr(r + b"/file", "user.note"), ("'file': xattr 'user.note' missing",), "xattrs"
    ),
    "an xattr is added to a directory": Case(
        lambda r: os.setxattr(r + b"/sub", "user.x", b""), ("'sub': xattr 'user.x' added",), "xattrs"
    ),
    "an xattr differs": Case(
        lambda r: os.setxattr(r + b"/file", "user.note", b"\0"),
        ("'file': xattr 'user.note' was 00ff, is 00",),
        "xattrs",
    ),
    "an ACL names another user": Case(
        lambda r: os.setxattr(
            r + b"/sub/other", "system.posix_acl_access", NAMED_USER.replace(b"\x92\x10", b"\x93\x10")
        ),
        (
            "'sub/other': xattr 'system.posix_acl_access' was "
            f"{NAMED_USER.hex()}, is {NAMED_USER.hex().replace('9210', '9310')}",
        ),
        "xattrs",
    ),
    "a hard link became a copy": Case(
        copied,
        (
            "no longer one file with these names: 'one', 'sub/two', 'three'",
            "became one file with these names: 'one', 'three'",
        ),
        "links",
    ),
}


def test_equal_trees_show_no_difference(trees: Trees) -> None:
    """Two trees built alike agree, and a tree agrees with itself."""
    assert differences(*trees) == []
    assert differences(trees[0], trees[0]) == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_difference_is_found(trees: Trees, case: Case) -> None:
    """One change to one side is told in these words, and nothing else is."""
    quietly(case.change)(trees[1])
    assert sorted(differences(*trees)) == sorted(case.found)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_ignored_aspect_hides_its_own_differences_only(trees: Trees, case: Case) -> None:
    """Ignoring an aspect hides what belongs to it; ignoring all others hides nothing of it."""
    quietly(case.change)(trees[1])
    aspects: tuple[Aspect, ...] = get_args(Aspect)
    others = [a for a in aspects if a != case.hidden_by]
    assert sorted(differences(*trees, ignoring=others)) == sorted(case.found)
    if case.hidden_by:
        assert differences(*trees, ignoring=[case.hidden_by]) == []


def test_files_that_became_one_are_found(trees: Trees) -> None:
    """Two files that were apart and are names of one inode after a restore are a difference."""
    os.unlink(trees[0] + b"/alone")
    write(trees[0] + b"/alone", b"content of file")
    os.setxattr(trees[0] + b"/alone", "user.note", b"\0\xff")
    os.utime(trees[0] + b"/alone", ns=(5, 1_000_000_007))
    quietly(lambda _: None)(trees[0])
    quietly(joined)(trees[1])
    assert differences(*trees) == ["became one file with these names: 'alone', 'file'"]


def test_a_directory_s_own_mtime_is_compared(trees: Trees) -> None:
    """A directory touched after it was filled is a difference."""
    os.utime(trees[1] + b"/sub", ns=(5, 2_000_000_010))
    assert differences(*trees) == ["'sub': mtime was 2000000009 ns, is 2000000010 ns"]


def test_what_is_expected_to_be_missing_must_be_missing(trees: Trees) -> None:
    """What a backup leaves out is no difference when absent, with all below it, and one when there."""
    assert differences(*trees, expect_missing=[b"sub", b"fifo"]) == [
        "'fifo': there, but must be missing",
        "'sub': there, but must be missing",
        "'sub/odd \\xff\\n': there, but must be missing",
        "'sub/other': there, but must be missing",
        "'sub/two': there, but must be missing",
    ]
    shutil.rmtree(trees[1] + b"/sub")
    os.unlink(trees[1] + b"/fifo")
    quietly(lambda _: None)(trees[1])
    assert differences(*trees, expect_missing=[b"sub", b"fifo"]) == []


def test_paths_beyond_path_max_are_compared(tmp_path: Path) -> None:
    """A difference at a path of more than 4,096 bytes is found, where no system call takes the path whole."""
    pair = bytes(tmp_path / "original"), bytes(tmp_path / "restored")
    name = b"d" * 250
    for root, data in zip(pair, (b"old", b"new"), strict=True):
        os.mkdir(root)
        fd = os.open(root, os.O_RDONLY)
        for _ in range(20):
            os.mkdir(name, dir_fd=fd)
            deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        leaf = os.open(b"leaf", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        os.write(leaf, data)
        os.close(leaf)
        os.utime(b"leaf", ns=(5, 5), dir_fd=fd)
        os.close(fd)
    found = differences(*pair, ignoring=["mtime"])
    assert len(found) == 1
    assert found[0].startswith("'ddd")
    assert found[0].endswith("(5024 bytes): contents differ from byte 0")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"st_uid": 987_654}, ["'one': owner was 1000, is 987654"]),
        ({"st_gid": 0}, ["'one': group was 1000, is 0"]),
        ({"st_rdev": os.makedev(1, 5)}, ["'one': device was 1:3, is 1:5"]),
        ({"st_mode": stat.S_IFBLK | 0o600}, ["'one': was a character device, is a block device"]),
    ],
)
def test_owners_and_device_nodes_are_compared(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], found: list[str]
) -> None:
    """What only root may make, said by a made-up stat(2): a difference in each number is found."""
    was = {"st_mode": stat.S_IFCHR | 0o600, "st_uid": 1000, "st_gid": 1000, "st_rdev": os.makedev(1, 3)}
    surveys = iter([{b"one": Looks(made_up(was))}, {b"one": Looks(made_up(was | changed))}])
    monkeypatch.setattr(comparing, "survey", lambda root: next(surveys))
    assert differences(b"original", b"restored") == found


def made_up(values: dict[str, int]) -> os.stat_result:
    """A stat result with these values and zeros."""
    order = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")
    return os.stat_result(
        (*(values.get(k, 0) for k in order), 0, 0, 0),
        {"st_rdev": values["st_rdev"], "st_blocks": 0, "st_mtime_ns": 0},
    )
