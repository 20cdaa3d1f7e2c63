"""
Files that stand for something that only one process may do at a time.

The locks are the kernel's (flock(2)): a killed process leaves none behind.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sysbackup.disk.ownership import leave_to_owner
from sysbackup.errors import BusyError, SpoolError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def held(path: Path, *, busy: str, elsewhere: str) -> Iterator[None]:
    """
    Hold a lock file, made if it is missing, for as long as the context lasts.

    `BusyError` where another process holds it, and `busy` is what that says.
    `SpoolError` where the file system has no locks; `elsewhere` says which
    directory must be on another one, and how to name it. OSError where the file cannot be made.
    """
    with _opened(path) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(busy) from None
        except OSError as exc:
            raise SpoolError(f"cannot lock {path}: {exc.strerror}. {elsewhere}") from exc
        yield


@contextmanager
def held_in_turn(path: Path) -> Iterator[None]:
    """The same for what takes a moment: waits for others, and raises OSError alone."""
    with _opened(path) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _FLAGS, 0o600)
    try:
        leave_to_owner(fd, path.parent)
        yield fd
    finally:
        os.close(fd)
