"""The demo's own way through a tree: by descriptors, so that a path may be longer than the kernel takes at once."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sysbackup.demo.workspace import lies_in

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 2048  # with a name after it still below PATH_MAX, 4096


@dataclass(frozen=True, slots=True)
class TreeNode:
    """Something in a tree: its path, and its name in the open directory `folder`."""

    path: bytes
    folder: int
    name: bytes
    status: os.stat_result

    @property
    def kind(self) -> int:
        """Which kind of thing it is, as stat.S_IFMT has it."""
        return stat.S_IFMT(self.status.st_mode)

    @property
    def open_to_us(self) -> bool:
        """Whether this user may read it; of a link, what it says can always be read."""
        if self.kind == stat.S_IFLNK:
            return True
        return os.access(self.name, os.R_OK | (os.X_OK if self.kind == stat.S_IFDIR else 0), dir_fd=self.folder)


@contextmanager
def opened(path: bytes) -> Iterator[int]:
    """A descriptor of the directory at an absolute path without links, however long."""
    fd = os.open(b"/", _FOLDER)
    try:
        rest = path.strip(b"/")
        while rest:
            piece = rest if len(rest) <= _PIECE else rest[:_PIECE].rpartition(b"/")[0]
            rest = rest[len(piece) :].lstrip(b"/")
            deeper = os.open(piece, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def inside(path: bytes, folder: int) -> Iterator[TreeNode]:
    """What is in an open directory; what vanishes meanwhile is passed over."""
    for name in os.listdir(folder):
        node = _node(path.rstrip(b"/") + b"/" + os.fsencode(name), folder, os.fsencode(name))
        if node is not None:
            yield node


def walk(top: bytes, but: bytes) -> Iterator[TreeNode]:
    """
    A tree, its top included, on one file system; `but` and what is in it are left out.

    A directory that may not be listed is named, and nothing in it.
    """
    above, _, name = top.rpartition(b"/")
    with opened(above) as folder:
        first = _node(top, folder, name or b".")
        if first is None:
            return
        yield first
    waiting = [top] if first.kind == stat.S_IFDIR else []
    while waiting:
        path = waiting.pop()
        try:
            with opened(path) as folder:
                for node in inside(path, folder):
                    if node.path == but:
                        continue
                    yield node
                    if node.kind == stat.S_IFDIR and node.status.st_dev == first.status.st_dev:
                        waiting.append(node.path)
        except OSError:
            continue  # closed to us, or gone


def _node(path: bytes, folder: int, name: bytes) -> TreeNode | None:
    try:
        return TreeNode(path, folder, name, os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return None


def made_up(path: bytes) -> bool:
    """Whether a path leads to what the kernel makes up when it is read: it never is the same twice."""
    return any(lies_in(path, above) for above in (b"/proc", b"/sys", b"/dev"))
