"""
Directories beneath a target, reached without ever leaving it.

Every step is an open relative to the directory before it, with O_NOFOLLOW: a
symbolic link in the middle of a path is an obstacle, never a way (openat(2)).
"""

import errno
import os
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from sysbackup.errors import RestoreError, UsageError
from sysbackup.files import acl
from sysbackup.files.folders import AS_DIRECTORY, proc_path
from sysbackup.model import shown

_KEPT = 128  # open directories per walker

UNNAMED = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
"""Opens, for the name `.` in a directory, a file without a name in there (open(2), O_TMPFILE)."""

_NO_NAMES = (b"", b".", b"..")


class Obstacle(Exception):  # what is in the way, not an error of ours
    """An entry cannot be put where it belongs; `str()` of it says why, for people."""


class InTheWay(Obstacle):  # likewise
    """Something has an entry's name already, and was kept."""


class TargetPlace(NamedTuple):
    """
    An open directory.

    `inherits`: what is made in it gets an ACL from it that nobody asked for.
    `ours`: it belongs to this process's user and group, and so does what is made in it,
    by whichever rule (inode(7), the set-group-ID bit); nobody but they can change that.
    """

    fd: int
    inherits: bool
    ours: bool

    @property
    def path(self) -> bytes:
        """A path that leads to this very directory, wherever it is now (proc(5), /proc/pid/fd)."""
        return proc_path(self.fd)


def split(path: bytes) -> tuple[bytes, bytes]:
    """
    (directory, name) of an absolute path, the directory without its leading slash.

    `Obstacle` for a path that is no absolute path, or whose steps are not all
    plain names: `..` is refused, not resolved.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise Obstacle("its name is no absolute path: it is refused")
    steps = path[1:].split(b"/")
    if b".." in steps or b"." in steps or b"" in steps:
        raise Obstacle("its path has a step that is no plain name: it is refused")
    above, _, name = path[1:].rpartition(b"/")
    return above, name


def open_target(target: bytes) -> tuple[int, bool]:
    """
    The directory to restore into, made where it is missing, and whether it was made.

    It may be a symbolic link: the user named it. `UsageError` where it turns
    out to be the root directory without having been called `/`.
    """
    made = False
    if not os.path.isdir("/proc/self/fd"):
        raise RestoreError("restoring needs /proc: mount it (mount -t proc proc /proc) and try again")
    try:
        if not os.path.isdir(target):
            os.makedirs(target, mode=0o755)
            made = True
        fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise RestoreError(f"cannot restore into {shown(target)}: {reason}") from exc
    try:
        is_root = os.path.samestat(os.fstat(fd), os.stat("/"))
    except OSError:
        os.close(fd)
        raise
    if is_root and target != b"/":
        os.close(fd)
        raise UsageError(f"{shown(target)} is the root directory: to restore over this machine say --target /")
    return fd, made


def holds_something(root: int) -> bool:
    """Whether a directory has anything in it that a restore could meet; what mkfs(8) puts there is nothing."""
    with os.scandir(proc_path(root)) as names:
        return any(entry.name != b"lost+found" for entry in names)


class Walker:
    """
    Finds and makes directories beneath an open target. For one thread.

    Keeps the directories used last open; `close` closes them, the target not.
    """

    def __init__(self, root: int) -> None:
        self._us = (os.geteuid(), os.getegid())
        self._plain: dict[int, bool] = {}  # by device: see `_makes_ours`
        self._root = self._place(root)
        self._open: dict[bytes, TargetPlace] = {}
        self._last = (b"", self._root)  # where `find` was last; not to be believed once something was closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all directories."""
        while self._open:
            os.close(self._open.popitem()[1].fd)

    def find(self, path: bytes) -> tuple[TargetPlace, bytes]:
        """
        Where an absolute path belongs: its directory, as `reach` finds it, and its name in there.

        `Obstacle` as `split` and `reach` raise it.
        """
        above, _, name = path.rpartition(b"/")
        last, place = self._last
        if path[:1] != b"/" or name in _NO_NAMES or b"\0" in name:
            split(path)  # which says what is wrong with it
        if above != last:
            # what is open was reached by plain names
            place = self.reach(above[1:] if above[1:] in self._open else split(path)[0])
            self._last = (above, place)
        return place, name

    def opened(self, path: bytes) -> int:
        """A descriptor of the directory that `reach` finds there, for the caller to close."""
        if not path:
            return os.dup(self._root.fd)
        above, _, name = path.rpartition(b"/")
        return self._step(self.reach(above).fd, name, path)

    def reach(self, path: bytes) -> TargetPlace:
        """
        The directory at `path` (relative, of plain names), made with all above it where missing.

        It stays open at least until the next call. `Obstacle` where something
        else is in the way.
        """
        if not path:
            return self._root
        known = self._open.pop(path, None)
        if known is not None:
            self._open[path] = known  # used last
            return known
        return self._walk(path)

    def disinherit(self, path: bytes) -> None:
        """Take from a directory just made the ACLs that it got from the one above, so that it passes none on."""
        place = self.reach(path)
        acl.remove(place.path, acl.DEFAULT, acl.ACCESS)
        self._open[path] = self._place(place.fd)
        self._last = (b"", self._root)

    def _place(self, fd: int) -> TargetPlace:
        status = os.fstat(fd)
        ours = (status.st_uid, status.st_gid) == self._us and self._makes_ours(fd, status.st_dev)
        return TargetPlace(fd, acl.passes_on(proc_path(fd)), ours)

    def _makes_ours(self, fd: int, device: int) -> bool:
        """Whether files made on that file system are ours: a server may give root's to somebody else (exports(5))."""
        known = self._plain.get(device)
        if known is None:
            known = False
            with suppress(OSError):
                probe = os.open(b".", UNNAMED, 0o600, dir_fd=fd)
                status = os.fstat(probe)
                os.close(probe)
                known = (status.st_uid, status.st_gid) == self._us
            self._plain[device] = known
        return known

    def _walk(self, path: bytes) -> TargetPlace:
        begin, place = self._nearest(path)
        self._last = (b"", self._root)
        while begin <= len(path):
            end = path.find(b"/", begin)
            end = len(path) if end < 0 else end
            place = self._open[path[:end]] = self._place(self._step(place.fd, path[begin:end], path[:end]))
            if len(self._open) > _KEPT:  # never what was just opened: the oldest goes
                os.close(self._open.pop(next(iter(self._open))).fd)
            begin = end + 1
        return place

    def _nearest(self, path: bytes) -> tuple[int, TargetPlace]:
        """The deepest open directory above `path`, and where in `path` the next step begins."""
        at = path.rfind(b"/")
        while at > 0:
            place = self._open.get(path[:at])
            if place is not None:
                return at + 1, place
            at = path.rfind(b"/", 0, at)
        return 0, self._root

    def _step(self, above: int, name: bytes, path: bytes) -> int:
        try:
            return os.open(name, AS_DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise _obstacle(exc, path) from exc
        try:
            with suppress(FileExistsError):  # another thread was faster, or it is no directory: the open will tell
                os.mkdir(name, 0o755, dir_fd=above)
            return os.open(name, AS_DIRECTORY, dir_fd=above)
        except OSError as exc:
            raise _obstacle(exc, path) from exc


def _obstacle(exc: OSError, path: bytes) -> Obstacle:
    if isinstance(exc, NotADirectoryError) or exc.errno == errno.ELOOP:
        return Obstacle(f"/{shown(path)} in the target is no directory: it is not followed")
    return Obstacle(f"/{shown(path)} in the target cannot be entered: {exc.strerror}")
