"""
A manifest as it is stored, read as a stream, so that no number of entries costs memory.

In format 2 it is many gzip members (`manifest_members`), and what the table
among them says is compared with what goes by (`manifest_layout`); in format 1 it is one, or two.
A manifest without its end is damaged.
"""

from collections.abc import Iterator
from itertools import chain

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, manifest_layout
from sysbackup.formats.ends import HEADER_LIMIT, TRUNCATED, header_of
from sysbackup.formats.gzipping import Packed
from sysbackup.formats.manifest import End, Entry, RunHeader, decode
from sysbackup.formats.manifest_layout import Layout
from sysbackup.formats.manifest_members import LINE_LIMIT

# What is unpacked, and taken apart into lines, at a time: some thousand entries.
_PIECE = 256 << 10


class ManifestReader:
    """
    Takes the compressed stream apart: feed pieces of any size, then `finish`.

    Trusts nothing: the first line must be a header of a known format, nothing
    may follow the end, no line may be longer than `LINE_LIMIT`, and the first
    must end where a header can: what unpacks to gigabytes costs no memory.
    """

    def __init__(self) -> None:
        self._inflater = gzipping.MemberInflater(_PIECE)
        self._rest = bytearray()
        self._header: RunHeader | None = None
        self._layout: Layout | None = None
        self._end: End | None = None

    def feed(self, packed: bytes) -> Iterator[Entry]:
        """Yield the entries that `packed` completes, the header and the end among them."""
        return chain.from_iterable(self.batches(packed))

    def batches(self, packed: bytes) -> Iterator[list[Entry]]:
        """
        The same, some at a time: as many as the memory of one long line may hold, however long all of them are.

        The header is the first alone.
        """
        held: list[Entry] = []
        size = 0
        for piece in self._inflater.members(packed):
            if isinstance(piece, Packed):
                self._member_ended(piece)
                continue
            lines = self._lines(piece)
            if lines and self._header is None:
                self._header = header_of(decode(lines.pop(0)))
                if self._header.format > 1:
                    self._layout = Layout(self._header)
                yield [self._header]
            if lines:
                held += self._entries(lines)
            # members are small: several of them are handed out together
            size += len(piece)
            if held and size >= _PIECE:
                yield held
                held, size = [], 0
        if held:
            yield held

    def finish(self) -> None:
        """`FormatError` where the stream was cut short."""
        self._inflater.close()
        if self._rest or self._end is None:
            raise FormatError(TRUNCATED)

    def _lines(self, piece: bytes) -> list[bytes]:
        lines: list[bytes] = []
        if b"\n" not in piece:
            self._rest += piece
        else:
            lines = bytes(self._rest + piece).split(b"\n")
            self._rest = bytearray(lines.pop())
        if len(self._rest) > (LINE_LIMIT if self._header or lines else HEADER_LIMIT):
            raise FormatError("a manifest holds a line longer than any entry can be")
        return lines

    def _entries(self, lines: list[bytes]) -> list[Entry]:
        if self._layout is None:
            return [self._checked(decode(line)) for line in lines]
        entries = self._layout.take(manifest_layout.decode(lines))
        if entries and isinstance(entries[-1], End):
            self._end = entries[-1]
        return entries

    def _checked(self, entry: Entry) -> Entry:
        """An entry of format 1."""
        if self._end is not None:
            raise FormatError("the manifest goes on after its last line: it is damaged")
        if isinstance(entry, RunHeader):
            raise FormatError("the manifest holds a second run: it is damaged")
        if isinstance(entry, End):
            self._end = entry
        return entry

    def _member_ended(self, packed: Packed) -> None:
        if self._layout is not None:
            if self._rest:
                raise FormatError("a member of the manifest ends within a line: it is damaged")
            self._layout.ended(packed)
