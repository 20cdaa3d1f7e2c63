"""
Records in sorted runs: set down by one process, merged by any, by ranges of their keys.

Records collect in a slot of shared memory; when it is full they are sorted and written
behind one another into a file, as blocks of which each can be read alone. What was
acknowledged (`State`) outlives the process that wrote it: slot and file are the
parent's, and whoever comes after goes on from there.
"""

import hashlib
import heapq
import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from sysbackup.disk.sorting import Record, spooling
from sysbackup.errors import FormatError, SpoolError
from sysbackup.formats import gzipping
from sysbackup.formats.manifest_members import begins

_LENGTHS = struct.Struct("<II")
_AWAY = b"\0"  # begins what stands for a value that lies elsewhere in the file; no other value begins like this
_PLACE = struct.Struct("<IQQQ")  # number of the file, offset, length, unpacked size

_DAMAGED = (
    "what was written to the cache directory cannot be read back: is its disk failing? What is in the bucket is safe;"
    " name another directory with SYSBACKUP_CACHE_DIR"
)

# What is read of a run at a time, unpacked. Whoever merges holds one block of each run.
_BLOCK = 64 << 10
# Values above this lie in the file by themselves, to be read when their turn has come.
_INLINE = 32 << 10
# So many runs become one, and so many of those again one.
_RUNS = 32


class Block(NamedTuple):
    """Some sorted records in the file: the key of the first, and where they lie, as gzip of `size` bytes."""

    first: bytes
    offset: int
    length: int
    size: int


class SortedRun(Struct, frozen=True, array_like=True):
    """Blocks in a row; `level` says how often their records were merged."""

    blocks: list[Block]
    level: int = 0


class State(Struct, frozen=True, array_like=True):
    """What there is: `filled` bytes in the slot, `end` of the file, the `runs` in it."""

    filled: int = 0
    end: int = 0
    runs: list[SortedRun] = []


class Change(Struct, frozen=True, array_like=True):
    """What has become of a `State`: runs of these levels are there no more, others were `added`."""

    filled: int
    end: int
    dropped: list[int]
    added: list[SortedRun]

    def applied(self, to: State) -> State:
        """The state after it."""
        return State(self.filled, self.end, [run for run in to.runs if run.level not in self.dropped] + self.added)


class SortedRuns:
    """
    Takes records, whose values may not begin with NUL, and sets them down. Not for use by two threads at once.

    `files` are those of all that will be merged, of which this one writes to `own`;
    `directory` is where they lie, for errors (`SpoolError`).
    """

    def __init__(self, slot: memoryview, files: Sequence[int], own: int, directory: Path, state: State) -> None:
        self._slot = slot
        self._own = own
        self._file = files[own]
        self._directory = directory
        self._filled = state.filled
        self._end = state.end
        self._runs = list(state.runs)
        self._dropped: list[int] = []
        self._added: list[SortedRun] = []
        self._held = list(_parsed(slot[: state.filled]))

    def change(self) -> Change:
        """What is to be acknowledged: what has changed since this was last asked."""
        change = Change(self._filled, self._end, self._dropped, self._added)
        self._dropped, self._added = [], []
        return change

    def add_all(self, records: Iterable[Record]) -> None:
        """Take some records; what was acknowledged before stays as it is until the next call."""
        with spooling(self._directory):
            added = [self._set_apart(record) for record in records]
            flat: list[bytes] = []
            for key, value in added:
                flat += (_LENGTHS.pack(len(key), len(value)), key, value)
            packed = b"".join(flat)
            self._held += added
            if self._filled + len(packed) <= len(self._slot):
                self._slot[self._filled : self._filled + len(packed)] = packed
                self._filled += len(packed)
            else:
                self._set_down()

    def set_down(self) -> None:
        """Have all of it in the file."""
        with spooling(self._directory):
            self._set_down()

    def _set_down(self) -> None:
        if self._held:
            self._held.sort(key=itemgetter(0))
            self._write(self._held, 0)
        self._held = []
        self._filled = 0

    def _write(self, records: Iterable[Record], level: int) -> None:
        run = SortedRun(list(self._blocks(records)), level)
        same = [each for each in self._runs if each.level == level] + [run]
        if len(same) < _RUNS:
            self._runs.append(run)
            self._added.append(run)
            return
        self._runs = [each for each in self._runs if each.level != level]
        self._added = [each for each in self._added if each.level != level]
        self._dropped.append(level)
        gathered = heapq.merge(*(_read(self._file, each, b"", None) for each in same), key=itemgetter(0))
        self._write(gathered, level + 1)

    def _blocks(self, records: Iterable[Record]) -> Iterator[Block]:
        # Ranges are cut where blocks begin, and members of the manifest had best begin where ranges do.
        first, size = b"", 0
        flat: list[bytes] = []
        for key, value in records:
            if size >= _BLOCK or (size >= _BLOCK // 2 and begins(key)):
                yield self._block(first, flat)
                flat, size = [], 0
            if not flat:
                first = key
            flat += (_LENGTHS.pack(len(key), len(value)), key, value)
            size += len(key) + len(value)
        if flat:
            yield self._block(first, flat)

    def _block(self, first: bytes, flat: list[bytes]) -> Block:
        data = b"".join(flat)
        packed = gzipping.compress(data)
        return Block(first, self.append(packed), len(packed), len(data))

    def _set_apart(self, record: Record) -> Record:
        key, value = record
        if len(value) <= _INLINE:
            return record
        packed = gzipping.compress(value)
        return key, _AWAY + _PLACE.pack(self._own, self.append(packed), len(packed), len(value))

    def append(self, data: bytes) -> int:
        """Write behind all that is in the file; returns where."""
        offset = self._end
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, self._end)
            self._end += written
            view = view[written:]
        return offset


def read(
    files: Sequence[int], runs: Sequence[tuple[int, SortedRun]], begin: bytes = b"", end: bytes | None = None
) -> Iterator[Record]:
    """
    The records of several runs, each with the number of its file, with keys from `begin` on and below `end`.

    Equal keys come in the order of the runs.
    """
    found = heapq.merge(*(_read(files[file], run, begin, end) for file, run in runs), key=itemgetter(0))
    for record in found:
        value = record[1]
        if value.startswith(_AWAY):
            file, *place = _PLACE.unpack(value[1:])
            yield record[0], _unpacked(files[file], *place)
        else:
            yield record


def _read(file: int, run: SortedRun, begin: bytes, end: bytes | None) -> Iterator[Record]:
    """The records of one run; values that lie elsewhere as such."""
    # a block may end with the key that the next one begins with
    start = max(0, bisect_left(run.blocks, begin, key=itemgetter(0)) - 1)
    for block in run.blocks[start:]:
        if end is not None and block.first >= end:
            return
        records = _parsed(memoryview(_unpacked(file, block.offset, block.length, block.size)))
        if begin <= block.first and end is None:
            yield from records
            continue
        for record in records:
            if end is not None and record[0] >= end:
                return
            if record[0] >= begin:
                yield record


def stretch(file: int, offset: int, length: int, sha: bytes) -> bytes:
    """Bytes that were appended, of that SHA-256. `SpoolError` where they are not what was written."""
    found = _taken(file, offset, length)
    if hashlib.sha256(found).digest() != sha:
        raise SpoolError(_DAMAGED)
    return found


def _unpacked(file: int, offset: int, length: int, size: int) -> bytes:
    try:
        return gzipping.inflate(_taken(file, offset, length), size)
    except FormatError as exc:
        raise SpoolError(_DAMAGED) from exc


def _taken(file: int, offset: int, length: int) -> bytes:
    try:
        return os.pread(file, length, offset)
    except OSError as exc:
        raise SpoolError(_DAMAGED) from exc


def _parsed(data: memoryview) -> Iterator[Record]:
    at = 0
    while at < len(data):
        keys, values = _LENGTHS.unpack_from(data, at)
        middle = at + _LENGTHS.size + keys
        yield bytes(data[at + _LENGTHS.size : middle]), bytes(data[middle : middle + values])
        at = middle + values
