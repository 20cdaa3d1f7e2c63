"""What a file's status says of it, and an error about it."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from sysbackup.files.reading import Replaced
from sysbackup.formats import manifest
from sysbackup.model import FileState, Problem

_SETTLED = 2_000_000_000  # ns

# What a path gives that is renamed, removed or replaced under our hands, or whose directory is: a link where a file was
# (ELOOP: O_NOFOLLOW) or none where one was (EINVAL: readlink(2)), a socket or a device (ENXIO, ENODEV: open(2)), what
# was removed on an NFS server (ESTALE) or with its process (ESRCH: proc(5)).
_MOVED = {
    *(errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ESRCH),
    *(errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENODEV),
}


def state_of(status: os.stat_result, sha: bytes = b"") -> FileState:
    """What the catalog remembers of a file."""
    return FileState(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha)


def states_of(statuses: Iterable[os.stat_result]) -> list[FileState]:
    """The same of many, whose contents are not known."""
    new = tuple.__new__  # a third of the time that its own constructor takes
    return [
        new(FileState, (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns, b""))
        for each in statuses
    ]


def in_two_states(states: Sequence[FileState]) -> set[tuple[int, int]]:
    """Those files that were met twice, under one name or two, and written to in between."""
    if len({state[:2] for state in states}) == len(states):
        return set()
    met = Counter(state[:2] for state in {*states})
    return {named for named, number in met.items() if number > 1}


def settled(status: os.stat_result, begun: int) -> bool:
    """
    Whether a file read at `begun` (ns since 1970) had been left alone for 2 s (rule 7).

    A write in the same tick of the file system's clock as the reading would
    leave no trace: such a file is read again next time.
    """
    return begun - status.st_ctime_ns >= _SETTLED


def describe_file(entry: manifest.File, status: os.stat_result, size: int, sha: bytes, warnings: Sequence[str]) -> None:
    """Fill in what was learnt by reading the file."""
    entry.size = size
    entry.sha = sha.hex()
    if status.st_nlink > 1:
        entry.link = f"{status.st_dev:x}:{status.st_ino:x}"
    if warnings:
        entry.warnings = list(warnings)


def moves(exc: Exception) -> bool:
    """Whether an error may come of something that was moved, removed or replaced while it was looked at or opened."""
    return isinstance(exc, Replaced) or (isinstance(exc, OSError) and exc.errno in _MOVED)


def unreadable(path: bytes, exc: Exception) -> Problem:
    """The problem of a path that is there and could not be examined or read."""
    if isinstance(exc, OSError):
        if exc.errno == errno.ENOENT:
            return Problem("file.unreadable", path, "it was there at one look and gone at the next, each time")
        if exc.errno in (errno.EACCES, errno.EPERM):
            return Problem(
                "file.denied",
                path,
                "no permission to read it; run sysbackup as root or with CAP_DAC_READ_SEARCH",
            )
        return Problem("file.unreadable", path, exc.strerror or str(exc))
    return Problem("file.unreadable", path, str(exc))
