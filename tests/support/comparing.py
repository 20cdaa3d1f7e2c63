"""
Compares two file trees, for judging restores. It shares no code with sysbackup and asks the kernel alone.

Works on paths longer than PATH_MAX: a directory is opened piece by piece, never by one long name.
"""

import os
import stat
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Aspect = Literal["owner", "mode", "mtime", "xattrs", "links", "holes"]
"""What `ignoring` may name, for file systems and users that cannot keep it."""

KINDS = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
PIECE = 2048  # bytes of path opened at once: with a name after it still below PATH_MAX (4,096)
BLOCK = 512  # the unit of st_blocks, whatever the file system's own (stat(2))
HOLES_FROM = 256 << 10  # smaller savings may go: a restore need not search every page for zeros
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Looks:
    """What one name in a tree shows, contents aside."""

    status: os.stat_result
    target: bytes | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.status.st_mode)

    @property
    def inode(self) -> tuple[int, int]:
        return self.status.st_dev, self.status.st_ino

    @property
    def saved(self) -> int:
        """How many bytes its holes save."""
        return max(0, self.status.st_size - self.status.st_blocks * BLOCK)


@contextmanager
def opened_directory(path: bytes) -> Iterator[int]:
    """A descriptor of a directory whose path may be longer than PATH_MAX. Inner symlinks are followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    head, rest = path[:PIECE], path[PIECE:]
    if rest:
        head, _, tail = head.rpartition(b"/")
        rest = tail + rest
    fd = os.open(head or b"/", flags)
    try:
        while rest:
            piece = rest[:PIECE]
            if len(rest) > PIECE:
                piece = piece.rpartition(b"/")[0]
            rest = rest[len(piece) :].lstrip(b"/")
            deeper = os.open(piece, flags, dir_fd=fd)
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def survey(root: bytes) -> dict[bytes, Looks]:
    """Everything under `root` by its path from there; `root` itself is `.`."""
    found: dict[bytes, Looks] = {}
    with opened_directory(root) as fd:
        found[b"."] = _looks(fd, b".")
    waiting = [b""]
    while waiting:
        parent = waiting.pop()
        with opened_directory(root + b"/" + parent if parent else root) as fd:
            for name in map(os.fsencode, os.listdir(fd)):
                path = parent + b"/" + name if parent else name
                looks = found[path] = _looks(fd, name)
                if looks.kind == stat.S_IFDIR:
                    waiting.append(path)
    return found


def _looks(directory: int, name: bytes) -> Looks:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else None
    # The xattr calls take no dir_fd, and a FIFO or symlink cannot be opened to be asked: by /proc.
    place = b"/proc/self/fd/%d/%s" % (directory, name)
    xattrs = {x: os.getxattr(place, x, follow_symlinks=False) for x in os.listxattr(place, follow_symlinks=False)}
    return Looks(status, target, xattrs)


def differences(
    original: bytes,
    restored: bytes,
    *,
    expect_missing: Collection[bytes] = (),
    ignoring: Collection[Aspect] = (),
) -> list[str]:
    """
    One sentence for each way in which `restored` is not what `original` is; none where they agree.

    Compared: which paths there are, type, contents, size, permissions with
    setuid, setgid and sticky, owner and group, mtime in nanoseconds (of
    directories and symlinks too), symlink targets, which names are hard links
    of one another, device numbers, all xattrs (ACLs and capabilities are such),
    and that holes of 256 KiB and more stay holes, by half at least.

    `expect_missing` are paths from the root that must be absent from `restored`,
    with all below them. Neither tree may change meanwhile.
    """
    old, new = survey(original), survey(restored)
    expected = {p for p in old if not _below(p, expect_missing)}
    found = [f"{_shown(p)}: missing" for p in sorted(expected - new.keys())]
    found += [
        f"{_shown(p)}: {'there, but must be missing' if p in old else 'added'}" for p in sorted(new.keys() - expected)
    ]
    both = sorted(expected & new.keys())
    for path in both:
        found += (f"{_shown(path)}: {what}" for what in _differing(old[path], new[path], ignoring))
        if old[path].kind == new[path].kind == stat.S_IFREG:
            found += (f"{_shown(path)}: {what}" for what in _contents(original, restored, path))
    if "links" not in ignoring:
        found += _links(old, new, both)
    return found


def _below(path: bytes, roots: Collection[bytes]) -> bool:
    if path in roots:
        return True
    return any(path[:i] in roots for i, c in enumerate(path) if c == ord("/")) if roots else False


def _differing(old: Looks, new: Looks, ignoring: Collection[Aspect]) -> Iterator[str]:
    if old.kind != new.kind:
        yield f"was a {KINDS[old.kind]}, is a {KINDS[new.kind]}"
        return
    for word, aspect, value in COMPARED:
        was, now = value(old), value(new)
        if was != now and aspect not in ignoring:
            yield f"{word} was {was}, is {now}"
    if "xattrs" not in ignoring:
        yield from _attributes(old.xattrs, new.xattrs)
    if "holes" not in ignoring and old.saved >= HOLES_FROM and new.saved < old.saved // 2:
        yield f"holes saved {old.saved} bytes, save {new.saved}"


def _size(looks: Looks) -> str:
    """A directory's size is the file system's own affair."""
    return f"{looks.status.st_size} bytes" if looks.kind == stat.S_IFREG else ""


def _device(looks: Looks) -> str:
    return f"{os.major(looks.status.st_rdev)}:{os.minor(looks.status.st_rdev)}"


COMPARED: tuple[tuple[str, Aspect | None, Callable[[Looks], str]], ...] = (
    ("size", None, _size),
    ("target", None, lambda looks: _shown(looks.target or b"")),
    ("device", None, _device),
    ("mode", "mode", lambda looks: f"{stat.S_IMODE(looks.status.st_mode):04o}"),
    ("owner", "owner", lambda looks: f"{looks.status.st_uid}"),
    ("group", "owner", lambda looks: f"{looks.status.st_gid}"),
    ("mtime", "mtime", lambda looks: f"{looks.status.st_mtime_ns} ns"),
)


def _attributes(old: dict[str, bytes], new: dict[str, bytes]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if now is None:
            yield f"xattr {name!r} missing"
        elif was is None:
            yield f"xattr {name!r} added"
        elif was != now:
            yield f"xattr {name!r} was {was.hex()}, is {now.hex()}"


def _contents(original: bytes, restored: bytes, path: bytes) -> Iterator[str]:
    with _opened_file(original, path) as one, _opened_file(restored, path) as two:
        offset = 0
        while True:
            was, now = _read(one, CHUNK), _read(two, CHUNK)
            if was != now:
                yield f"contents differ from byte {offset + _agreeing(was, now)}"
                return
            if not was:
                return
            offset += len(was)


def _agreeing(was: bytes, now: bytes) -> int:
    """How many bytes at the start of both are equal."""
    shorter = min(len(was), len(now))
    return next((i for i in range(shorter) if was[i] != now[i]), shorter)


def _read(fd: int, wanted: int) -> bytes:
    data = os.read(fd, wanted)
    while data and len(data) < wanted and (more := os.read(fd, wanted - len(data))):
        data += more
    return data


@contextmanager
def _opened_file(root: bytes, path: bytes) -> Iterator[int]:
    parent, _, name = path.rpartition(b"/")
    with opened_directory(root + b"/" + parent if parent else root) as directory:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _links(old: dict[bytes, Looks], new: dict[bytes, Looks], both: list[bytes]) -> Iterator[str]:
    """Both trees must sort the paths they share into the same groups of names of one inode."""
    names = [p for p in both if stat.S_IFDIR not in (old[p].kind, new[p].kind)]
    before, after = _groups(old, names), _groups(new, names)
    for group in sorted(before - after):
        if len(group) > 1:
            yield f"no longer one file with these names: {_listed(group)}"
    for group in sorted(after - before):
        if len(group) > 1:
            yield f"became one file with these names: {_listed(group)}"


def _groups(tree: dict[bytes, Looks], names: list[bytes]) -> set[tuple[bytes, ...]]:
    by_inode: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    for name in names:
        by_inode[tree[name].inode].append(name)
    return {tuple(group) for group in by_inode.values()}


def _listed(paths: tuple[bytes, ...]) -> str:
    return ", ".join(map(_shown, paths))


def _shown(path: bytes) -> str:
    text = repr(path)[1:]
    return text if len(text) <= 200 else f"{text[:100]}…{text[-90:]} ({len(path)} bytes)"


if __name__ == "__main__":
    print(*(found := differences(*map(os.fsencode, sys.argv[1:3]))), sep="\n", end="\n" * bool(found))
    sys.exit(bool(found))
