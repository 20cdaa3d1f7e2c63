"""
What must be true of a whole manifest of format 2, looked at while it goes by.

That lines stand in their order, entries sorted by path; that no member is of two
kinds; that the table, level by level, names just the members that there are. So
whoever reads from the middle finds what whoever reads all of it finds.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from operator import lt
from typing import Any, cast

import msgspec
from msgspec import UNSET

from sysbackup.errors import FormatError
from sysbackup.formats import manifest
from sysbackup.formats.ends import check_format
from sysbackup.formats.gzipping import Packed
from sysbackup.formats.manifest import (
    BlockDevice,
    CharDevice,
    Directory,
    End,
    Entry,
    Fifo,
    File,
    FileNode,
    Link,
    Log,
    RunHeader,
    Snapshot,
)
from sysbackup.formats.manifest_members import ENTRIES, LOG, SNAPSHOTS
from sysbackup.formats.manifest_table import LEVELS, Place, Root, Row, check_rows, place

Line = Entry | Row | Root

_decoder: "msgspec.json.Decoder[Line]" = msgspec.json.Decoder(Line)

_HEADER, _TABLE, _END = "header", "table", "end"
_ORDER = [_HEADER, ENTRIES, SNAPSHOTS, LOG, _TABLE, _END]
_RANK = {of: rank for rank, of in enumerate(_ORDER)}
_OF: dict[type, str] = {
    RunHeader: _HEADER,
    **dict.fromkeys([File, Link, Directory, Fifo, CharDevice, BlockDevice], ENTRIES),
    Snapshot: SNAPSHOTS,
    Log: LOG,
    Row: _TABLE,
    Root: _END,
    End: _END,
}


def decode(lines: Sequence[bytes]) -> list[Line]:
    """Some lines of a manifest of format 2. `FormatError` where one is none."""
    return manifest.all_decoded(lines, _decoder)


def sorted_behind(last: bytes, nodes: Sequence[FileNode]) -> bytes:
    """The last path of some entries. `FormatError` where they are not sorted, or not behind `last`."""
    paths = [node.path.encode() if node.pathb is UNSET else node.path_bytes for node in nodes]
    if not (last < paths[0] and all(map(lt, paths, islice(paths, 1, None)))):
        raise FormatError("the manifest's entries are not sorted by path: it is damaged")
    return paths[-1]


class Layout:
    """
    Looks at all that comes behind the header: at its lines with `take`, with `ended` at each member.

    What it remembers does not grow: what the members are and what the table says of
    them is compared by one hash for each level.
    """

    def __init__(self, header: RunHeader) -> None:
        self._header = header
        # of the member that is going by
        self._of: str | None = _HEADER
        self._first: Place = (0, b"")
        self._lines = 1
        self._rank = 0
        self._path = b""
        self._level = 0
        self._seen: defaultdict[int, Any] = defaultdict(hashlib.sha256)
        self._told: defaultdict[int, Any] = defaultdict(hashlib.sha256)
        self._tables: Counter[int] = Counter()  # members of the table by their level
        self._table: tuple[int, Packed] | None = None
        self._root: Root | None = None
        self._at = 0

    def take(self, lines: list[Line]) -> list[Entry]:
        """The entries among some lines of one member, the end among them; the table's lines are looked at alone."""
        of = {_OF[kind] for kind in set(map(type, lines))}
        if self._of is not None:
            of.add(self._of)
        if len(of) != 1:
            raise FormatError("the manifest has lines of two kinds in one member: it is damaged")
        beginning, self._of = self._of is None, of.pop()
        self._lines += len(lines)
        if beginning:
            self._begin(self._of)
        if self._of == ENTRIES:
            nodes = cast("list[FileNode]", lines)
            if beginning:
                self._first = place(ENTRIES, nodes[0].path_bytes)
            self._path = sorted_behind(self._path, nodes)
        elif self._of == _TABLE:
            self._take_rows(cast("list[Row]", lines), beginning=beginning)
            return []
        elif self._of == _END:
            return self._take_end(lines)
        return cast("list[Entry]", lines)

    def ended(self, packed: Packed) -> None:
        """A member has ended, whose lines were all taken."""
        self._at = packed.offset + packed.length
        if self._of is None:  # a table of nothing
            self._begin(_TABLE)
            self._of, self._first = _TABLE, place(ENTRIES, b"")
        if self._of == _TABLE:
            self._seen[self._level + 1].update(_said(self._first, self._lines, packed, packed.sha.hex()))
            self._tables[self._level] += 1
            self._table = (self._level, packed)
        elif self._of not in (_HEADER, _END):
            self._seen[0].update(_said(self._first, self._lines, packed, packed.sha.hex()))
        self._of = None
        self._lines = 0

    def _begin(self, of: str) -> None:
        rank = _RANK[of]
        if rank < self._rank or (rank == self._rank and of == _END):
            raise FormatError("the manifest's parts are not in their order: it is damaged")
        self._rank = rank
        if of in (SNAPSHOTS, LOG):
            self._first = place(of, b"")

    def _take_rows(self, rows: list[Row], *, beginning: bool) -> None:
        level = rows[0].level if beginning else self._level
        if not self._level <= level <= min(self._level + 1, LEVELS):
            raise FormatError("the manifest's table has levels that cannot be: it is damaged")
        self._level = level
        check_rows(rows, level, self._at)
        if beginning:
            self._first = rows[0].place
        for row in rows:
            self._told[level].update(_said(row.place, row.lines, row.span, row.sha))

    def _take_end(self, lines: list[Line]) -> list[Entry]:
        found: list[Entry] = []
        for line in lines:
            if isinstance(line, Root) and self._root is None:
                self._root = line
            elif isinstance(line, End) and self._root is not None and not found:
                self._check(self._root)
                found.append(line)
            else:
                raise FormatError("the manifest's last lines are not in their order: it is damaged")
        return found

    def _check(self, root: Root) -> None:
        """`FormatError` where the table is not that of the members that went by."""
        check_root(root, self._header.host, self._header.run)
        if self._table is None:
            raise FormatError("the manifest has no table: it is damaged")
        level, packed = self._table
        led = (root.level, root.offset, root.length, root.sha, self._tables[level])
        told = [self._told[n].digest() for n in range(level + 1)]
        seen = [self._seen[n].digest() for n in range(level + 1)]
        if led != (level, packed.offset, packed.length, packed.sha.hex(), 1) or told != seen:
            raise FormatError("the manifest's table is not that of its members: it is damaged")


def check_root(root: Root, host: str, run: str) -> None:
    """`FormatError` where a table is of a format not known, or another run's."""
    check_format(root.format)
    if (root.host, root.run) != (host, run):
        raise FormatError("the manifest's table is another run's: it is damaged")


def _said(first: Place, lines: int, span: Any, sha: str) -> bytes:
    """What is said of one member: nothing else gives these bytes."""
    said = [str(part).encode() for part in (first[0], lines, span.offset, span.length, sha, len(first[1]))]
    return b" ".join([*said, first[1]])
