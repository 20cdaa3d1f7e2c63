"""Finding a few lines of a manifest: which of its members can hold them, by what the table says."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, manifest
from sysbackup.formats.ends import last_lines
from sysbackup.formats.manifest import Entry, Log, Node, Snapshot
from sysbackup.formats.manifest_layout import sorted_behind
from sysbackup.formats.manifest_members import ENTRIES, LOG, MEMBER_LIMIT, SNAPSHOTS, TEXT
from sysbackup.formats.manifest_table import LEVELS, PACKED_LIMIT, Place, Root, Row, place, rows

Stretch = tuple[Place, Place]
"""Lines from the first of these places up to, and without, the second."""

SNAPSHOT_LINES: Stretch = (place(SNAPSHOTS, b""), place(LOG, b""))

_KINDS: dict[str, type[Entry] | type[Node]] = {ENTRIES: Node, SNAPSHOTS: Snapshot, LOG: Log}

_roots: msgspec.json.Decoder[Root] = msgspec.json.Decoder(Root)


def exactly(path: bytes) -> Stretch:
    """The entry of that path."""
    return place(ENTRIES, path), place(ENTRIES, path + b"\0")


def beneath(path: bytes) -> Stretch:
    """All that lies beneath a directory: not next to its own entry, for a dot, say, sorts before a slash."""
    return place(ENTRIES, path + b"/"), place(ENTRIES, path + b"0")


def root_in(tail: bytes, size: int) -> Root | None:
    """
    What leads to the table, from the last bytes of a manifest of `size` bytes; None where there is nothing of the kind.

    Manifests of format 1 have none, and damaged ones may have none.
    """
    for lines in last_lines(tail):
        try:
            root = manifest.decoded(lines[0], _roots)
        except FormatError:
            continue
        if 0 < root.length <= PACKED_LIMIT and 0 <= root.offset <= size - root.length and 0 <= root.level <= LEVELS:
            return root
    return None


class Search:
    """Stretches that are looked for; which members can hold some of them."""

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self._begins: list[Place] = []
        self._ends: list[Place] = []
        for begin, end in sorted(stretches):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def among(self, found: Sequence[Row], behind: Place | None) -> Iterator[tuple[Row, Place | None]]:
        """Those rows to follow, each with the place at which the one behind it begins; `behind` that of the last."""
        places: list[Place | None] = [*(row.place for row in found), behind]
        for row, (begin, end) in zip(found, pairwise(places), strict=True):
            assert begin is not None
            # The last stretch that begins before the member's end; all others end before that one begins.
            at = len(self._begins) if end is None else bisect_right(self._begins, end)
            if at and end is not None and self._begins[at - 1] == end and end[1]:
                at -= 1  # for no path occurs twice; of snapshots, and of the log, several members are in one place
            if at and self._ends[at - 1] > begin:
                yield row, end


def rows_of(packed: bytes, row: Row) -> list[Row]:
    """The rows of the table's member to which a row leads, read and proven. `FormatError` where they make no sense."""
    found = rows(_unpacked(packed, MEMBER_LIMIT), row.level - 1, row.offset)
    if len(found) != row.lines or (found and found[0].place != row.place):
        raise FormatError("the manifest's table is not that of its members: it is damaged")
    return found


def root_rows(packed: bytes, root: Root) -> list[Row]:
    """The same for what leads to the table."""
    return rows(_unpacked(packed, MEMBER_LIMIT), root.level, root.offset)


def lines_of(packed: bytes, row: Row, behind: Place | None) -> list[Entry]:
    """
    The entries of the member to which a row of level 0 leads, read and proven.

    `FormatError` where they are not sorted, or not between its place and the one behind it.
    """
    text = _unpacked(packed, TEXT if row.lines > 1 else MEMBER_LIMIT)
    if text.count(b"\n") != row.lines or not text.endswith(b"\n"):
        raise FormatError("the manifest's table is not that of its members: it is damaged")
    entries = [manifest.decode(line) for line in text[:-1].split(b"\n")]
    kind = _KINDS[row.of]
    if not all(isinstance(entry, kind) for entry in entries):
        raise FormatError("the manifest has lines of two kinds in one member: it is damaged")
    if row.of == ENTRIES:
        nodes = [entry for entry in entries if isinstance(entry, manifest.FileNode)]
        last = place(ENTRIES, sorted_behind(b"", nodes))
        if place(ENTRIES, nodes[0].path_bytes) != row.place or (behind is not None and last >= behind):
            raise FormatError("the manifest's table is not that of its members: it is damaged")
    return entries


def _unpacked(packed: bytes, most: int) -> bytes:
    """The content of one member. `FormatError` where it is damaged, or of more than `most` bytes."""
    inflater = gzipping.Inflater(alone=True)
    text = bytearray()
    for piece in inflater.feed(packed):
        text += piece
        if len(text) > most:
            raise FormatError("a member of the manifest is larger than any can be")
    inflater.close()
    return bytes(text)
