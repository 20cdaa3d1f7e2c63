"""
Reading regular files: locked where the writer agrees, and the same before as after.

A file is opened without following a link and without blocking, must be the
one that was looked at, gets a shared flock(2), and counts as read well when
fstat(2) says the same before and after. A write through mmap(2) to a page that
is dirty already shows in neither: for such files use a snapshotter.
"""

import errno
import fcntl
import os
import stat
import threading
from typing import NamedTuple

from sysbackup.files.folders import Place

UNLOCKED = "unlocked-copy"
CHANGED = "changed-while-read"

TRIES = 3

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_POLL = 0.05  # seconds between two tries for a lock: flock(2) has no time limit of its own
_CHUNK = 1 << 20


class Replaced(Exception):
    """Another file has taken the place of the one that was looked at; the message is the reason, for people."""


class Patience:
    """How long to wait for locks in all: `seconds` of waiting, or until `stop` is set. For one thread."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._left = seconds
        self._stop = stop

    def wait(self) -> bool:
        """Wait a little; False, and no wait, where there is none left."""
        if self._left <= 0:
            return False
        step = min(_POLL, self._left)
        self._left -= step
        return not self._stop.wait(step)


class TooLarge(Exception):
    """A file has more bytes than fit where they were to go."""


class Reading(NamedTuple):
    """A file read into memory: its bytes, what it was when they were read, warnings for the manifest."""

    content: bytes
    status: os.stat_result
    warnings: tuple[str, ...]


def opened(place: Place, device: int, inode: int) -> tuple[int, os.stat_result]:
    """
    The descriptor of a regular file, opened for reading, and what it is; the caller closes it.

    OSError as open(2) gives it; `Replaced` where another file has taken the
    place of the one that was looked at (by `device` and `inode`).
    """
    fd = _open(place)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (device, inode):
            raise Replaced("it was replaced by another file while it was being opened")
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _open(place: Place) -> int:
    try:
        # O_NOATIME: a backup leaves no trace; for others' files it needs CAP_FOWNER (open(2))
        return os.open(place.name, _FLAGS | os.O_NOATIME, dir_fd=place.folder.fd)
    except PermissionError:
        return os.open(place.name, _FLAGS, dir_fd=place.folder.fd)


def lock(fd: int, patience: Patience) -> bool:
    """Try for a shared lock as long as there is patience; False where none was had."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                return False  # a file system without locks
            if not patience.wait():
                return False
        else:
            return True


def read(fd: int, before: os.stat_result, limit: int, patience: Patience) -> Reading:
    """
    All of an open file, at most `limit` bytes of it; `before` is what it was when it was opened.

    Read again, `TRIES` times in all, while it changes; then kept with a
    warning. `TooLarge` where it has more than `limit` bytes.
    """
    warnings = () if lock(fd, patience) else (UNLOCKED,)
    for _ in range(TRIES):
        content = _whole(fd, before.st_size, limit)
        after = os.fstat(fd)
        if same(before, after):
            return Reading(content, after, warnings)
        before = after
        os.lseek(fd, 0, os.SEEK_SET)
    return Reading(content, after, (*warnings, CHANGED))


def same(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether nothing shows that a file was written to between two looks at it."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _whole(fd: int, size: int, limit: int) -> bytes:
    if size > limit:
        raise TooLarge
    # One byte more than it should have: a short answer proves the end (and needs no second call).
    content = os.read(fd, size + 1)
    if len(content) == size and size:
        return content
    parts = [content]
    got = len(content)
    while content:
        content = os.read(fd, _CHUNK)
        parts.append(content)
        got += len(content)
        if got > limit:
            raise TooLarge
    return b"".join(parts)
