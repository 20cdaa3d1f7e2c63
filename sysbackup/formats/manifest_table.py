"""
The table of a manifest: where its members lie, so that a few entries of ten million are had with a few small reads.

A tree: rows of level 0 name the members of entries, snapshots and log in their
order; those of each further level name the table's own members of the level below;
until one member names all. A `Root`, before the last line, names that one. Each
names what it leads to with its SHA-256, so that what is reached is what was written.
"""

import hashlib
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from sysbackup.errors import FormatError
from sysbackup.formats import encodings, gzipping, manifest
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.manifest_members import ENTRIES, LINES, LOG, MEMBER_LIMIT, SNAPSHOTS, TEXT, ManifestMember
from sysbackup.model import Span, brief

ROWS = 512
"""Rows in one member of the table at the most."""

LEVELS = 8
"""Levels of a table at the most: more than anybody has entries for."""

PACKED_LIMIT = encodings.largest(MEMBER_LIMIT)
"""Bytes of one member, packed, at the most."""

_SHORTEST = 18  # bytes of the shortest gzip member there is

Place = tuple[int, bytes]
"""Where a line stands in a manifest: the rank of what it is, and its path."""

_RANKS = {ENTRIES: 0, SNAPSHOTS: 1, LOG: 2}


def place(of: str, path: bytes) -> Place:
    """Where a line stands: entries by their paths, then snapshots, then the log."""
    return _RANKS[of], path


class Row(Struct, tag_field="typ", tag="m", omit_defaults=True, kw_only=True):
    """
    One member: the path of its first line, how many lines it has, where it lies, its SHA-256.

    `of` as in `manifest_members`. The path is not called so, lest whoever looks for a
    path among all lines with simple tools should find this one. `key` is room for a member that lies in an earlier
    run's manifest, which this version refuses.
    """

    first: str = ""
    firstb: str | UnsetType = UNSET
    of: str = ENTRIES
    lines: int = field(name="n")
    offset: int = field(name="off")
    length: int = field(name="len")
    sha: str
    level: int = field(name="lvl", default=0)
    key: str | UnsetType = field(name="dat", default=UNSET)

    @property
    def place(self) -> Place:
        """Where its first line stands. `FormatError` where it makes no sense."""
        path = manifest.exact(self.first, self.firstb)
        if self.of not in _RANKS or bool(path) != (self.of == ENTRIES):
            raise FormatError(
                f"the manifest's table has a member of {brief(self.of, 40)!r}, from {brief(self.first)!r}"
            )
        return place(self.of, path)

    @property
    def span(self) -> Span:
        """Where the member lies."""
        return Span(self.offset, self.length)


class Root(Struct, tag_field="typ", tag="t", kw_only=True):
    """
    The line before the last: whose manifest this is, and where the member lies that names all others.

    `level` is that of the rows in it.
    """

    format: int
    host: str
    run: str
    offset: int = field(name="off")
    length: int = field(name="len")
    sha: str
    level: int = field(name="lvl")


_rows: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)


class Table:
    """
    Takes the members of one level and packs their rows: some 75 bytes for each are held at the end, no more.

    Not for use by two threads at once.
    """

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self._members: list[ManifestMember] = []
        self._rows: list[bytes] = []
        self._size = 0
        self._first: ManifestMember | None = None

    def add(self, member: ManifestMember, offset: int) -> None:
        """Note the next member, which lies there."""
        text, exact = manifest.lossy(member.first)
        row = Row(
            first=text,
            firstb=UNSET if exact is None else exact,
            of=member.of,
            lines=member.lines,
            offset=offset,
            length=len(member.packed),
            sha=member.sha.hex(),
            level=self.level,
        )
        line = msgspec.json.encode(row)
        if self._rows and (len(self._rows) >= ROWS or self._size + len(line) >= TEXT):
            self._pack()
        if not self._rows:
            self._first = member
        self._rows.append(line)
        self._size += len(line) + 1

    def members(self) -> list[ManifestMember]:
        """All rows, packed; one member without any where there is none."""
        if self._rows or not self._members:
            self._pack()
        return self._members

    def _pack(self) -> None:
        packed = gzipping.compress(b"".join(row + b"\n" for row in self._rows))
        first, of = (self._first.first, self._first.of) if self._first else (b"", ENTRIES)
        self._members.append(ManifestMember(first, packed, hashlib.sha256(packed).digest(), len(self._rows), of))
        self._rows.clear()
        self._size = 0


def rows(text: bytes, level: int, before: int) -> list[Row]:
    """
    The rows of one member of the table, which begins at `before`.

    Trusts nothing: `FormatError` where they are not of that level, more than any
    writer puts in, not in order, or lead to what overlaps, has gaps, or does not lie
    before them. `LaterFormat` where one leads to another manifest.
    """
    lines = text.split(b"\n")
    if lines.pop() or len(lines) > ROWS:
        raise FormatError("the manifest's table is damaged")
    found = [manifest.decoded(line, _rows) for line in lines]
    check_rows(found, level, before)
    return found


def check_rows(found: Sequence[Row], level: int, before: int) -> None:
    """See `rows`."""
    last: Place | None = None
    end: int | None = None
    for row in found:
        if row.key is not UNSET:
            raise LaterFormat(
                "parts of the manifest lie in those of earlier runs: a later version of sysbackup wrote it (use that)"
            )
        if row.level != level or row.offset != (row.offset if end is None else end):
            raise FormatError("the manifest's table has gaps, or overlaps: it is damaged")
        here = row.place
        if last is not None and not (last < here or (last == here and here[0])):
            raise FormatError("the manifest's table is not in order: it is damaged")
        if row.offset < 0 or not _SHORTEST <= row.length <= PACKED_LIMIT or not 1 <= row.lines <= LINES:
            raise FormatError("the manifest's table has a member that cannot be: it is damaged")
        last, end = here, row.span.end
    if end is not None and end > before:
        raise FormatError("the manifest's table leads to what lies behind it: it is damaged")


def packed_table(table: Table, offset: int) -> Iterator[tuple[Span, int, ManifestMember]]:
    """
    The members of the table and of all levels above it, where each lies, from `offset` on, and of which level it is.

    The last one names all others.
    """
    while True:
        upper = Table(table.level + 1)
        found = table.members()
        for member in found:
            yield Span(offset, len(member.packed)), table.level, member
            upper.add(member, offset)
            offset += len(member.packed)
        if len(found) == 1:
            return
        table = upper
