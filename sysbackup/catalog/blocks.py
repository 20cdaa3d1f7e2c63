"""
What files looked like, by the blocks of inodes that they are in: one row for up to sixteen files.

Files that are looked at together were often made together, so that a block or two is read or written
for many of them. A block proves itself as a whole (`rows`).
"""

import sqlite3
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from sysbackup.catalog.connection import select
from sysbackup.catalog.hints import KEY
from sysbackup.catalog.rows import damaged
from sysbackup.model import FileState

_BITS = 4
_INODES = (1 << _BITS) - 1
_HEAD = struct.Struct("<3q")
ENTRY = struct.Struct(f"<B3q{KEY}sH")
"""One file: its inode's last bits, its size and times, the first bytes of its content's digest, the day it was met."""

_LOOK = struct.Struct("<B3q")  # what an entry begins with, and
_REST = struct.Struct(f"<{KEY}sH")  # what it ends with

Entry = tuple[int, int, int, int, bytes, int]
"""The same in Python."""

_LAST_DAY = (1 << 16) - 1

_MASK = (1 << 64) - 1
_HALF = 1 << 63

_COLUMNS = "device, block, oldest, entries, sum"
_PAGE = 500


def alike(states: Sequence[FileState], db: sqlite3.Connection) -> Iterator[tuple[FileState, bytes, int]]:
    """
    Those of the files that look as they did: each with the first bytes of its content's digest, and the day it was met.

    `CatalogUnusable` where a row is not as it was written.
    """
    asked: dict[int, defaultdict[int, list[FileState]]] = {}
    for state in states:
        if (blocks := asked.get(state[0])) is None:
            blocks = asked[state[0]] = defaultdict(list)
        blocks[state[1] >> _BITS].append(state)
    pack, size = _LOOK.pack, ENTRY.size
    for device, blocks in asked.items():
        for number, _, entries in _read(db, device, blocks):
            for state in blocks[number]:
                try:
                    look = pack(state[1] & _INODES, state[2], state[3], state[4])
                except struct.error:
                    look = pack(state[1] & _INODES, *_wrapped(state))
                at = entries.find(look)
                while at > 0 and at % size:
                    at = entries.find(look, at + 1)
                if at >= 0:
                    key, seen = _REST.unpack_from(entries, at + _LOOK.size)
                    yield state, key, seen


def remember(db: sqlite3.Connection, states: Iterable[FileState], today: int) -> None:
    """What files look like today, in a transaction of the caller's."""
    new: dict[int, defaultdict[int, dict[int, bytes]]] = {}
    pack, seen = ENTRY.pack, day(today)
    for device, inode, size, mtime, ctime, sha in states:
        if (blocks := new.get(device)) is None:
            blocks = new[device] = defaultdict(dict)
        last = inode & _INODES
        try:
            blocks[inode >> _BITS][last] = pack(last, size, mtime, ctime, sha, seen)
        except struct.error:
            blocks[inode >> _BITS][last] = pack(last, size, signed(mtime), signed(ctime), sha, seen)
    enter(db, new)


def enter(db: sqlite3.Connection, new: dict[int, defaultdict[int, dict[int, bytes]]]) -> None:
    """These files are known like this from now on: packed entries by device, block and the inode's last bits."""
    for device, blocks in new.items():
        for number, _, entries in _read(db, device, blocks):
            blocks[number] = {entry[0]: entry for entry in _split(entries)} | blocks[number]
        _write(db, device, ((number, b"".join(block.values())) for number, block in blocks.items()))


def met(db: sqlite3.Connection, files: Iterable[tuple[int, int]], today: int) -> None:
    """These files, by (device, inode), were met today, in a transaction of the caller's."""
    noted: dict[int, defaultdict[int, set[int]]] = {}
    for device, inode in files:
        noted.setdefault(device, defaultdict(set))[inode >> _BITS].add(inode & _INODES)
    seen = day(today).to_bytes(2, "little")
    for device, blocks in noted.items():
        rows = []
        for number, _, entries in _read(db, device, blocks):
            inodes = blocks[number]
            kept = [entry[:-2] + seen if entry[0] in inodes else entry for entry in _split(entries)]
            rows.append((number, b"".join(kept)))
        _write(db, device, rows)


def forget_before(db: sqlite3.Connection, first: int) -> None:
    """Files that were last met before that day are not known any more, in a transaction of the caller's."""
    while rows := db.execute(f"SELECT {_COLUMNS} FROM files WHERE oldest < ? LIMIT {_PAGE}", (first,)).fetchall():
        for columns in rows:
            device, number, _, entries, _ = columns
            _prove(*columns)
            kept = [entry for entry in _split(entries) if int.from_bytes(entry[-2:], "little") >= first]
            db.execute("DELETE FROM files WHERE device = ? AND block = ?", (device, number))
            if kept:
                _write(db, device, [(number, b"".join(kept))])


def day(number: int) -> int:
    """A day since 1970 as it is kept."""
    return min(max(number, 0), _LAST_DAY)


def signed(number: int) -> int:
    """
    A number as SQLite's integers hold it, which have 64 bits with a sign.

    Device numbers have none; a file's time in nanoseconds has more from the year 2262 on.
    """
    return number if -_HALF <= number < _HALF else ((number + _HALF) & _MASK) - _HALF


def unsigned(number: int) -> int:
    """A number that has no sign, from SQLite's integers (`signed`)."""
    return number & _MASK


def _wrapped(state: FileState) -> tuple[int, int, int]:
    return state.size, signed(state.mtime), signed(state.ctime)


def _split(entries: bytes) -> list[bytes]:
    return [entries[at : at + ENTRY.size] for at in range(0, len(entries), ENTRY.size)]


def _read(db: sqlite3.Connection, device: int, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
    """Those of the blocks of a device that are known: number, oldest, entries."""
    query = f"SELECT {_COLUMNS} FROM files WHERE device = {signed(device)} AND block IN ({{}})"
    for columns in select(db, query, list(numbers)):
        _prove(*columns)
        if columns[1] not in numbers:
            raise damaged("files")
        yield columns[1:4]


def _write(db: sqlite3.Connection, device: int, blocks: Iterable[tuple[int, bytes]]) -> None:
    rows = []
    device = signed(device)
    for number, entries in blocks:
        oldest = min([entry[5] for entry in ENTRY.iter_unpack(entries)])
        rows.append((device, number, oldest, entries, _sum(device, number, oldest, entries)))
    db.executemany(f"INSERT OR REPLACE INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", rows)


def _sum(device: int, number: int, oldest: int, entries: bytes) -> int:
    return zlib.crc32(entries, zlib.crc32(_HEAD.pack(device, number, oldest)))


def _prove(device: Any, number: Any, oldest: Any, entries: Any, checksum: Any) -> None:
    try:
        if _sum(device, number, oldest, entries) == checksum:
            return
    except (struct.error, TypeError):
        pass
    raise damaged("files")
