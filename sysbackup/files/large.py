"""
Files too large for memory: read once, piece by piece.

Where one was written to meanwhile, reading its first bytes again tells whether it merely
grew, as a log does: then what was read is what it held at some moment.
"""

import hashlib
import os
from types import TracebackType
from typing import Self

from sysbackup.files import reading
from sysbackup.files.folders import Place

_PIECE = 1 << 20


class LargeFile:
    """
    One file, opened by `open`. Its methods block: call them in a worker thread, one at a time.

    OSError where it cannot be read any further. Leaving it as a context closes
    it, and must wait for a call that has not returned.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.locked = False
        self._at = 0
        self._again = 0
        self._hash = hashlib.sha256()

    def open(self, place: Place, patience: reading.Patience) -> None:
        """Open and lock the file at `place`. `Replaced` where it is no regular file any more."""
        status = os.stat(place.name, dir_fd=place.folder.fd, follow_symlinks=False)
        self.fd, _ = reading.opened(place, status.st_dev, status.st_ino)
        self.locked = reading.lock(self.fd, patience)
        self.before = os.fstat(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read(self, buffer: memoryview) -> int:
        """Fill a buffer with the next bytes; returns how many there were, 0 at the end."""
        took = os.preadv(self.fd, [buffer], self._at)
        self._at += took
        return took

    @property
    def steady(self) -> bool:
        """Whether nothing shows that the file was written to since it was opened."""
        return reading.same(self.before, os.fstat(self.fd))

    def read_again(self, size: int) -> bool:
        """Read on by about `size` bytes for the second time, as far as the first; False at the end."""
        goal = min(self._again + size, self._at)
        while self._again < goal:
            piece = os.pread(self.fd, min(_PIECE, goal - self._again), self._again)
            if not piece:
                return False
            self._hash.update(piece)
            self._again += len(piece)
        return self._again < self._at

    def agrees(self, sha: bytes) -> bool:
        """After the last `read_again`: whether it saw what has this digest."""
        return self._hash.digest() == sha
