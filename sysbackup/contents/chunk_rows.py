"""Which chunks a content was cut into, set down on disk until a list of them can be written."""

import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sysbackup.disk.sorting import spooling
from sysbackup.errors import SpoolError

_ROW = struct.Struct("<32sI")
_WRITTEN = 64 << 10  # bytes that wait in memory
_READ = _ROW.size * 1024

Row = tuple[bytes, int]
"""A chunk's digest and size."""


class ChunkRows:
    """
    The chunks of one content, in their order. `set_down` and `some` block.

    They lie in an unnamed file in `directory`, which vanishes with the process whatever becomes of it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with spooling(directory):
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115  # `close` does
        self._waiting = bytearray()
        self._length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def add_all(self, rows: Iterable[Row]) -> bool:
        """The next chunks, kept in memory; returns whether `set_down` is to be called. Never blocks."""
        self._waiting += b"".join([_ROW.pack(*row) for row in rows])
        return len(self._waiting) >= _WRITTEN

    def some(self) -> Iterator[list[Row]]:
        """All of them, some at a time. Nothing may be added meanwhile."""
        self.set_down()
        for at in range(0, self._length, _READ):
            with spooling(self._directory):
                rows = os.pread(self._file.fileno(), min(_READ, self._length - at), at)
            if len(rows) != min(_READ, self._length - at):
                raise SpoolError(f"a file in the cache directory {self._directory} has lost what was written to it")
            yield list(_ROW.iter_unpack(rows))

    def close(self) -> None:
        """Free the disk; more than once does nothing."""
        self._file.close()

    def set_down(self) -> None:
        """Have all of them in the file. `SpoolError` where the disk is full."""
        left = memoryview(bytes(self._waiting))
        self._waiting.clear()
        while left:
            with spooling(self._directory):
                written = os.pwrite(self._file.fileno(), left, self._length)
            self._length += written
            left = left[written:]
