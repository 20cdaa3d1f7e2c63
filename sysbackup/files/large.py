"""
Files too large for memory: read once for their hash, and once more to be stored.

The second reading takes only as many bytes as the first one saw. So of a file
that merely grows, such as a log, a consistent beginning is kept, and the
second hash proves it.
"""

import hashlib
import os
from types import TracebackType
from typing import Self

from sysbackup.files import reading
from sysbackup.files.folders import Place
from sysbackup.formats import encodings
from sysbackup.formats.encodings import Encoder, Encoding

_CHUNK = 1 << 20


class LargeFile:
    """
    One file, opened by `open`. Its methods block: call them in a worker thread, one at a time.

    OSError where it cannot be read any further. Leaving it as a context closes
    it, and must wait for a call that has not returned.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.locked = False
        self._buffer = bytearray(_CHUNK)
        self._hash = hashlib.sha256()
        self._at = 0
        self.size = 0  # of what the first reading saw
        self.sha = b""
        self._encoder: Encoder = encodings.PLAIN.encoder()
        self._carry = bytearray()
        self._ended = False

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

    def hash_on(self, size: int) -> bool:
        """Read on by about `size` bytes for the first time; False at the end, when `sha` and `size` are known."""
        goal = self._at + size
        while self._at < goal:
            if not self._read(len(self._buffer)):
                self.sha, self.size = self._hash.digest(), self._at
                return False
        return True

    def begin_again(self, encoding: Encoding) -> None:
        """Go back to the beginning for the second reading."""
        self._hash = hashlib.sha256()
        self._at = 0
        self._carry = bytearray()
        self._ended = False
        self._encoder = encoding.encoder()

    def take(self, size: int) -> bytearray:
        """The next `size` bytes to store, encoded; fewer at the end."""
        out = self._carry
        while len(out) < size and not self._ended:
            got = self._read(min(len(self._buffer), self.size - self._at))
            out += self._encoder.compress(got) if got else self._encoder.flush()
            self._ended = not got
        self._carry = out[size:]
        del out[size:]
        return out

    @property
    def position(self) -> int:
        """How many bytes the reading that goes on has seen."""
        return self._at

    @property
    def agrees(self) -> bool:
        """After the last `take`: whether both readings saw the same bytes."""
        return self._hash.digest() == self.sha

    @property
    def steady(self) -> bool:
        """Whether nothing shows that the file was written to since it was opened."""
        return reading.same(self.before, os.fstat(self.fd))

    def encoding(self) -> Encoding:
        """How it is to be stored, judged by samples from all over the file."""
        return encodings.fitting(self.size, lambda at, size: os.pread(self.fd, size, at))

    def _read(self, size: int) -> memoryview:
        got = os.preadv(self.fd, [memoryview(self._buffer)[:size]], self._at) if size else 0
        self._at += got
        piece = memoryview(self._buffer)[:got]
        self._hash.update(piece)
        return piece
