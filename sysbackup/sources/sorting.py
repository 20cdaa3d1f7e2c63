"""
Sorting more than memory holds: what is added goes out again in the order of its keys.

Records collect in memory; whenever they reach the bound they are sorted and
set down as one compressed file, and at the end the files are merged. 10 million
manifest entries need a few hundred MB of disk and tens of MB of memory.
"""

import errno
import heapq
import os
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from sysbackup.errors import SpoolError
from sysbackup.formats import gzipping

_LENGTHS = struct.Struct("<II")
_OVERHEAD = 180  # bytes that a tuple, two bytes objects and their place in a list take in CPython
_BLOCK = 64 << 10

Record = tuple[bytes, bytes]


class Sorter:
    """
    Takes (key, value) in any order, gives them back by ascending key; equal keys in the order of adding.

    `add` and `add_all` may be called by several threads. `directory` receives
    unnamed files, which vanish with the process whatever becomes of it.
    `SpoolError` where the disk is full.
    """

    def __init__(self, directory: Path, memory: int = 32 << 20) -> None:
        self._directory = directory
        self._memory = memory
        self._held: list[Record] = []
        self._size = 0
        self._files: list[IO[bytes]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def add(self, key: bytes, value: bytes) -> None:
        """Take one record."""
        self.add_all(((key, value),))

    def add_all(self, records: Iterable[Record]) -> None:
        """Take several records at once."""
        with self._lock:
            for record in records:
                self._held.append(record)
                self._size += len(record[0]) + len(record[1]) + _OVERHEAD
            if self._size >= self._memory:
                self._set_down()

    def sorted(self) -> Iterator[Record]:
        """All records by key. Nothing may be added afterwards; may be called once more to read again."""
        with self._lock:
            self._held.sort(key=itemgetter(0))
            # Files come in the order in which they were written and merge() is stable: so are equal keys.
            return heapq.merge(*(_read(file) for file in self._files), self._held, key=itemgetter(0))

    def close(self) -> None:
        """Free memory and disk."""
        with self._lock:
            self._held = []
            for file in self._files:
                file.close()
            self._files = []

    def _set_down(self) -> None:
        self._held.sort(key=itemgetter(0))
        with spooling(self._directory):
            # buffering=0: the compressor's output comes in large pieces already
            file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  # closed by close()
            self._files.append(file)
            for piece in _packed(self._held):
                _write(file, piece)
        self._held = []
        self._size = 0


@contextmanager
def spooling(directory: Path) -> Iterator[None]:
    """Turn what the operating system says about the cache directory into a `SpoolError` for people."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else exc.strerror or str(exc)
        raise SpoolError(
            f"cannot write to the cache directory {directory}: {what}. What is in the bucket is safe;"
            " make room there, or name another directory with SYSBACKUP_CACHE_DIR"
        ) from exc


def _packed(records: list[Record]) -> Iterator[bytes]:
    gzip = gzipping.compressor()
    for start in range(0, len(records), 512):
        flat: list[bytes] = []
        for key, value in records[start : start + 512]:
            flat += (_LENGTHS.pack(len(key), len(value)), key, value)
        yield gzip.compress(b"".join(flat))
    yield gzip.flush()


def _write(file: IO[bytes], data: bytes) -> None:
    """Write all of `data`: a raw file may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read(file: IO[bytes]) -> Iterator[Record]:
    inflater = gzipping.Inflater(_BLOCK)
    waiting: list[bytes] = []
    held = needed = 0
    at = 0
    # pread: an iteration that was given up must not disturb the next one
    while packed := os.pread(file.fileno(), _BLOCK, at):
        at += len(packed)
        for piece in inflater.feed(packed):
            waiting.append(piece)
            held += len(piece)
            if held < needed:  # a large record is joined once, not once for each of its pieces
                continue
            rest = b"".join(waiting)
            begin, needed = 0, _LENGTHS.size
            while len(rest) - begin >= _LENGTHS.size:
                key_length, value_length = _LENGTHS.unpack_from(rest, begin)
                middle = begin + _LENGTHS.size + key_length
                end = middle + value_length
                if end > len(rest):
                    needed = end - begin
                    break
                yield rest[begin + _LENGTHS.size : middle], rest[middle:end]
                begin = end
            waiting = [rest[begin:]]
            held = len(waiting[0])
