"""
Stream packs: packs that are sent in parts while they fill.

What is in one is not known when its upload begins, so neither its key nor its
metadata can say it. The key is drawn; where the list begins stands at the end, in
the header of a last member that holds nothing. So the whole is gzip, as each content's
range is, and the list is found with the object's last bytes (a GET of a suffix).
"""

import struct
from collections.abc import Sequence

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, pack
from sysbackup.model import Member, Span

# RFC 1952, 2.3.1: a header with an extra field, in it one subfield "SB" of eight bytes; then an empty block of fixed
# codes (RFC 1951, 3.2.6), and the checksum and size of nothing.
_END = struct.Struct("<10sH2sHQ2s8s")
_HEADER = gzipping.MAGIC + b"\x04\0\0\0\0\0\xff"
_NAME = b"SB"
_NOTHING = b"\x03\0", bytes(8)

END_LENGTH = _END.size
"""How many of the last bytes say where the list begins."""


class StreamPackWriter:
    """Tells where contents lie in a pack of which only the length is kept here. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._contents: list[Member] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def contents(self) -> Sequence[Member]:
        """What is in it so far."""
        return self._contents

    def add(self, sha: bytes, length: int, size: int) -> Member:
        """The next content: a gzip member of `length` bytes, to be written behind what there is."""
        added = Member(sha, size, Span(self._length, length))
        self._length += length
        self._contents.append(added)
        return added

    def end(self) -> bytes:
        """The list, and where it begins: to be written last. The writer must not be used again."""
        return pack.packed_list(self._contents) + _END.pack(_HEADER, 12, _NAME, 8, self._length, *_NOTHING)


def list_begins(tail: bytes, size: int) -> int:
    """
    The offset of the list in a pack of `size` bytes, by its last bytes, `END_LENGTH` of them or more.

    `FormatError` where these are not a stream pack's, or the list would be longer than any.
    """
    end = tail[-END_LENGTH:]
    if len(end) == END_LENGTH:
        *fixed, index, block, rest = _END.unpack(end)
        possible = END_LENGTH + 18 <= size - index <= END_LENGTH + pack.LIST_AT_MOST
        if fixed == [_HEADER, 12, _NAME, 8] and (block, rest) == _NOTHING and possible:
            return int(index)
    raise FormatError("its last bytes do not say where its list is")
