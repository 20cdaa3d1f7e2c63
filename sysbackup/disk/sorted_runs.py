"""
Records in sorted runs: set down by one process, merged by any, by ranges of their keys.

Records collect in a slot of shared memory; when it is full they are sorted and written
behind one another into a file, as blocks of which each can be read alone. What was
acknowledged (`State`) outlives the process that wrote it: slot and file are the
parent's, and whoever comes after goes on from there.
"""

import hashlib
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from sysbackup.disk.sorting import Record, spooling
from sysbackup.errors import FormatError, SpoolError
from sysbackup.formats import gzipping
from sysbackup.formats.manifest_members import begins

_LENGTHS = struct.Struct("<II")
_KEY: Callable[[Any], bytes] = itemgetter(0)
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
        self._held = [(key, _packed(key, value)) for key, value in _parsed(bytes(slot[: state.filled]))]

    def change(self) -> Change:
        """What is to be acknowledged: what has changed since this was last asked."""
        change = Change(self._filled, self._end, self._dropped, self._added)
        self._dropped, self._added = [], []
        return change

    def add_all(self, records: Iterable[Record]) -> None:
        """Take some records; what was acknowledged before stays as it is until the next call."""
        with spooling(self._directory):
            added = [
                (key, _packed(key, value if len(value) <= _INLINE else self._set_apart(value)))
                for key, value in records
            ]
            self._held += added
            flat = b"".join([packed for _, packed in added])
            filled = self._filled + len(flat)
            if filled <= len(self._slot):
                self._slot[self._filled : filled] = flat
                self._filled = filled
            else:
                self._set_down()

    def set_down(self) -> None:
        """Have all of it in the file."""
        with spooling(self._directory):
            self._set_down()

    def _set_down(self) -> None:
        if self._held:
            self._held.sort(key=_KEY)
            self._write(self._held, 0)
        self._held = []
        self._filled = 0

    def _write(self, packed: Iterable[Record], level: int) -> None:
        run = SortedRun(list(self._blocks(packed)), level)
        same = [each for each in self._runs if each.level == level] + [run]
        if len(same) < _RUNS:
            self._runs.append(run)
            self._added.append(run)
            return
        self._runs = [each for each in self._runs if each.level != level]
        self._added = [each for each in self._added if each.level != level]
        self._dropped.append(level)
        gathered = _merged([_read(self._file, each, b"", None) for each in same])
        self._write(((key, _packed(key, value)) for key, value in gathered), level + 1)

    def _blocks(self, packed: Iterable[Record]) -> Iterator[Block]:
        """Write packed records down, by their keys."""
        # Ranges are cut where blocks begin, and members of the manifest had best begin where ranges do.
        first, size = b"", 0
        flat: list[bytes] = []
        for key, record in packed:
            if size >= _BLOCK // 2 and (size >= _BLOCK or begins(key)):
                yield self._block(first, flat)
                flat, size = [], 0
            if not flat:
                first = key
            flat.append(record)
            size += len(record)
        if flat:
            yield self._block(first, flat)

    def _block(self, first: bytes, flat: list[bytes]) -> Block:
        data = b"".join(flat)
        packed = gzipping.compress(data)
        return Block(first, self.append(packed), len(packed), len(data))

    def _set_apart(self, value: bytes) -> bytes:
        packed = gzipping.compress(value)
        return _AWAY + _PLACE.pack(self._own, self.append(packed), len(packed), len(value))

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

    Equal keys come in any order.
    """
    for record in _merged([_read(files[file], run, begin, end) for file, run in runs]):
        value = record[1]
        if value[:1] == _AWAY:
            file, *place = _PLACE.unpack(value[1:])
            yield record[0], _unpacked(files[file], *place)
        else:
            yield record


def _read(file: int, run: SortedRun, begin: bytes, end: bytes | None) -> Iterator[list[Record]]:
    """The records of one run, some at a time and never none; values that lie elsewhere as such."""
    # a block may end with the key that the next one begins with
    start = max(0, bisect_left(run.blocks, begin, key=_KEY) - 1)
    for block in run.blocks[start:]:
        if end is not None and block.first >= end:
            return
        records = _parsed(_unpacked(file, block.offset, block.length, block.size))
        if records and records[0][0] < begin:
            records = records[bisect_left(records, begin, key=_KEY) :]
        if end is not None and records and records[-1][0] >= end:
            records = records[: bisect_left(records, end, key=_KEY)]
        if records:
            yield records


def _merged(runs: Sequence[Iterator[list[Record]]]) -> Iterator[Record]:
    """
    The records of several runs, by their keys; of each run it holds what that gives at a time.

    Sorting some hundred that are nearly sorted takes a fraction of what comparing one by one does.
    """
    held = [(records, run) for run in runs if (records := next(run, []))]
    while len(held) > 1:
        # What lies behind that the run that ends first may have some more of.
        last = min([records[-1][0] for records, _ in held])
        ready: list[Record] = []
        left = []
        for records, run in held:
            until = bisect_right(records, last, key=_KEY)
            ready += records[:until]
            rest = records[until:] or next(run, [])
            if rest:
                left.append((rest, run))
        held = left
        ready.sort(key=_KEY)
        yield from ready
    for records, run in held:
        yield from records
        yield from chain.from_iterable(run)


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


def _packed(key: bytes, value: bytes) -> bytes:
    return _LENGTHS.pack(len(key), len(value)) + key + value


def _parsed(data: bytes) -> list[Record]:
    at, end, head, unpack = 0, len(data), _LENGTHS.size, _LENGTHS.unpack_from
    found = []
    while at < end:
        keys, values = unpack(data, at)
        begin = at + head
        middle = begin + keys
        at = middle + values
        found.append((data[begin:middle], data[middle:at]))
    return found
