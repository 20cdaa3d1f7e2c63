"""
Sorting more than memory holds: what is added goes out again in the order of its keys.

Records collect in memory; whenever they reach the bound they are sorted and
set down as one compressed file, and at the end the files are merged. 10 million
manifest entries need a few hundred MB of disk and tens of MB of memory; more
entries, or larger ones, need more disk and no more memory.
"""

import errno
import heapq
import os
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from sysbackup.errors import SpoolError
from sysbackup.formats import gzipping

_LENGTHS = struct.Struct("<II")
_OVERHEAD = 180  # bytes that a tuple, two bytes objects and their place in a list take in CPython
_BLOCK = 64 << 10

# Merging holds one record of each file. So files are no more than this many (and the process's descriptors last), and
# values above the other bound lie in a file of their own, to be read when their turn has come.
_FILES = 64
_INLINE = 64 << 10

_AWAY = 1 << 31  # in a value's length: it is a `_Range`'s
_PLACE = struct.Struct("<QII")

Record = tuple[bytes, bytes]


class _Range(NamedTuple):
    """Where a large value lies, as gzip."""

    offset: int
    length: int
    size: int


_Set = tuple[bytes, bytes | _Range]


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
        self._levels: list[list[IO[bytes]]] = []  # those of a level were merged from the one below
        self._large: IO[bytes] | None = None
        self._large_size = 0
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
                key, value = record
                self._size += len(key) + len(value) + _OVERHEAD
            if self._size >= self._memory:
                self._set_down()

    def sorted(self) -> Iterator[Record]:
        """All records by key. Nothing may be added afterwards; may be called once more to read again."""
        with self._lock:
            self._held.sort(key=itemgetter(0))
            if not self._levels:
                return iter(self._held)
            # Files come in the order in which they were written and merge() is stable: so are equal keys.
            files = chain.from_iterable(reversed(self._levels))
            return self._whole(heapq.merge(*(_read(file) for file in files), self._held, key=itemgetter(0)))

    def close(self) -> None:
        """Free memory and disk."""
        with self._lock:
            self._held = []
            for file in chain.from_iterable(self._levels):
                file.close()
            self._levels = []
            if self._large is not None:
                self._large.close()
                self._large = None

    def _set_down(self) -> None:
        self._held.sort(key=itemgetter(0))
        with spooling(self._directory):
            self._write(map(self._set_apart, self._held), 0)
        self._held = []
        self._size = 0

    def _write(self, records: Iterable[_Set], level: int) -> None:
        """Write a sorted file; where that makes too many of its level, they become one of the next."""
        if level == len(self._levels):
            self._levels.append([])
        files = self._levels[level]
        files.append(file := self._file())
        for piece in _packed(records):
            _write(file, piece)
        if len(files) >= _FILES:
            self._write(heapq.merge(*map(_read, files), key=itemgetter(0)), level + 1)
            for file in files:
                file.close()
            files.clear()

    def _set_apart(self, record: Record) -> _Set:
        key, value = record
        if len(value) <= _INLINE:
            return record
        if self._large is None:
            self._large = self._file()
        packed = gzipping.compress(value)
        _write(self._large, packed)
        place = _Range(self._large_size, len(packed), len(value))
        self._large_size += len(packed)
        return key, place

    def _whole(self, records: Iterable[_Set]) -> Iterator[Record]:
        for key, value in records:
            yield key, self._fetched(value) if isinstance(value, _Range) else value

    def _fetched(self, place: _Range) -> bytes:
        if self._large is None:
            raise ValueError("the sorter is closed")
        return gzipping.inflate(os.pread(self._large.fileno(), place.length, place.offset), place.size)

    def _file(self) -> IO[bytes]:
        # buffering=0: the compressor's output comes in large pieces already
        return tempfile.TemporaryFile(dir=self._directory, buffering=0)


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


def _packed(records: Iterable[_Set]) -> Iterator[bytes]:
    gzip = gzipping.compressor()
    several = iter(records)
    while some := list(islice(several, 512)):
        flat: list[bytes] = []
        for key, value in some:
            if isinstance(value, _Range):
                flat += (_LENGTHS.pack(len(key), _PLACE.size | _AWAY), key, _PLACE.pack(*value))
            else:
                flat += (_LENGTHS.pack(len(key), len(value)), key, value)
        yield gzip.compress(b"".join(flat))
    yield gzip.flush()


def _write(file: IO[bytes], data: bytes) -> None:
    """Write all of `data`: a raw file may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read(file: IO[bytes]) -> Iterator[_Set]:
    inflater = gzipping.Inflater(_BLOCK)
    rest = b""
    at = 0
    # pread: an iteration that was given up must not disturb the next one
    while packed := os.pread(file.fileno(), _BLOCK, at):
        at += len(packed)
        for piece in inflater.feed(packed):
            rest += piece
            begin = 0
            while len(rest) - begin >= _LENGTHS.size:
                key_length, value_length = _LENGTHS.unpack_from(rest, begin)
                middle = begin + _LENGTHS.size + key_length
                end = middle + (value_length & ~_AWAY)
                if end > len(rest):
                    break
                key, value = rest[begin + _LENGTHS.size : middle], rest[middle:end]
                yield key, _Range(*_PLACE.unpack(value)) if value_length & _AWAY else value
                begin = end
            rest = rest[begin:]
