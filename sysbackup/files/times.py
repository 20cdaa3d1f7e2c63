"""When a file was last written to: read, set and compared, in nanoseconds."""

import os

from sysbackup.files.shortfalls import Lack
from sysbackup.formats.manifest import Node

_NO_TIME = "modification times could not be set: {}"


def read(status: os.stat_result) -> int:
    """The time for an entry."""
    return status.st_mtime_ns


def apply(made: int | bytes, mtime: int, path: bytes, lack: Lack) -> None:
    """Set it on an open file, or what a `proc_path` leads to. Last of all: every other change moves it."""
    try:
        os.utime(made, ns=(mtime, mtime))
    except (OSError, OverflowError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a time that a file can have"
        lack(_NO_TIME.format(reason), path)


def equal(status: os.stat_result, node: Node) -> bool:
    """Whether a thing of that status has the entry's time."""
    return status.st_mtime_ns == node.mtime
