"""
Packs: many small contents as one object.

A pack is a row of gzip members, one for each content, and a last member that
lists them as JSON lines `[sha256, offset, length, size]`. So the whole is a
valid gzip file, and so is each content's byte range: `zcat` on a ranged GET
restores a file by hand. The object's metadata `pack-index` gives the offset
of the list, from which all that is known of a pack can be read again.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from sysbackup.errors import FormatError
from sysbackup.formats import encodings, gzipping
from sysbackup.formats.lines import UNREADABLE
from sysbackup.model import Member, Span

ENCODING = encodings.GZIP
"""What contents in a pack are encoded with: it is part of the format."""

CONTENTS_AT_MOST = 20_000
"""Contents in one pack, however small they are: bounds the memory that its list takes to make and to read."""

LIST_AT_MOST = CONTENTS_AT_MOST * 128
"""Bytes of a list, unpacked or not: a line has the 64 digits of a hash, and three numbers of up to 15 digits."""


_decoder = msgspec.json.Decoder(tuple[str, int, int, int])


@dataclass(frozen=True, slots=True)
class Pack:
    """A finished pack: `sha` is the digest of `body` and names the object; `index` is the list's offset."""

    sha: bytes
    body: memoryview
    index: int
    contents: tuple[Member, ...]


def encode(content: bytes | bytearray) -> bytes:
    """A content as it stands in a pack: one gzip member, of stored blocks where gzip would not pay."""
    return gzipping.member(content)


class PackWriter:
    """
    Puts members in a row, into memory of the caller's: what they take, and `LIST_AT_MOST` for their list.

    `begun` are the contents that lie there already. Not for use by two threads at once.
    """

    def __init__(self, memory: memoryview, begun: Iterable[Member] = ()) -> None:
        self._memory = memory
        self._contents = list(begun)
        last = self._contents[-1].span if self._contents else None
        self._length = last.end if last is not None else 0

    def __len__(self) -> int:
        return self._length

    @property
    def contents(self) -> int:
        """How many contents are in it."""
        return len(self._contents)

    def add(self, sha: bytes, member: bytes | bytearray, size: int) -> Member:
        """Append one content's gzip member; the caller has made sure that this content is not in it yet."""
        begin, self._length = self._length, self._length + len(member)
        self._memory[begin : self._length] = member
        self._contents.append(added := Member(sha, size, Span(begin, len(member))))
        return added

    def finish(self) -> Pack:
        """Append the list and close; the writer must not be used again."""
        index = self._length
        packed = packed_list(self._contents)
        body = self._memory[: index + len(packed)]
        body[index:] = packed
        return Pack(hashlib.sha256(body).digest(), body, index, tuple(self._contents))


def packed_list(contents: Iterable[Member]) -> bytes:
    """The list of a pack that holds these contents, in their order: its last member."""
    return gzipping.compress(b"".join(map(_row, contents)))


def read_index(packed: bytes, index: int) -> list[Member]:
    """
    The contents of a pack, from its bytes from offset `index` on.

    Trusts nothing: `FormatError` where the list is damaged, is longer than any
    that was written, names a range outside the first `index` bytes, or ranges that
    overlap or run backwards.
    """
    contents = []
    at = 0
    for row in _rows(packed):
        try:
            sha, offset, length, size = _decoder.decode(row)
            digest = bytes.fromhex(sha)
        except (*UNREADABLE, ValueError) as exc:
            raise FormatError(f"a pack's list holds a line that is none: {row[:80]!r}") from exc
        if len(digest) != 32 or offset < at or length < 18 or size < 0 or offset + length > index:
            raise FormatError(f"a pack's list names a place that cannot be: {row[:120]!r}")
        at = offset + length
        contents.append(Member(digest, size, Span(offset, length)))
    return contents


def _row(member: Member) -> bytes:
    span = member.span or Span(0, 0)
    return b'["%s",%d,%d,%d]\n' % (member.sha.hex().encode(), span.offset, span.length, member.size)


def _rows(packed: bytes) -> Iterable[bytes]:
    inflater = gzipping.Inflater()
    text = bytearray()
    for piece in inflater.feed(packed):
        text += piece
        if len(text) > LIST_AT_MOST:
            raise FormatError("a pack's list is longer than any can be")
    inflater.close()
    rows = bytes(text).splitlines()
    if len(rows) > CONTENTS_AT_MOST:
        raise FormatError("a pack's list is longer than any can be")
    return rows
