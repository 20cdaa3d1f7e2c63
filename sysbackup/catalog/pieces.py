"""
The contents of objects, written down some at a time: a piece is one row with up to 88 of them.

A row for each content would cost several times as much, to write and in room. A
piece proves itself as a whole (`rows`); what it holds fits into one page of SQLite's.
"""

import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sysbackup.catalog.rows import ObjectRow, damaged
from sysbackup.model import Member, Span

_EACH = 88
_MOST = (1 << 33) - 1  # of pieces, so that refs take 5 bytes
PLACES = 7
"""How many bits of a ref say where in its piece a content is; all others are the piece's number."""

_LAST = (1 << PLACES) - 1

# By the first byte of a piece: the object is the content; or it has spans, which are written in 4 or in 8 bytes; or the
# piece holds none, but the numbers of other objects, in which the chunks of the object's content lie.
_WHOLE, _NARROW, _WIDE, _NEEDS = b"\0", b"\1", b"\2", b"\3"
_FORMS = {
    _WHOLE[0]: struct.Struct("<32sq"),
    _NARROW[0]: struct.Struct("<32sIII"),
    _WIDE[0]: struct.Struct("<32sqqq"),
    _NEEDS[0]: struct.Struct("<qq"),
}
_NEEDED = 240  # in one piece, which fits into a page too
# what of the same says where a content lies, behind its digest, and how many bytes each content takes
_SPANS = {_NARROW[0]: (struct.Struct("<II"), 44), _WIDE[0]: (struct.Struct("<qq"), 56)}
_HEAD = struct.Struct("<qqq")
_new = tuple.__new__  # a third of the time that their own constructors take
GONE = bytes(32)
"""Instead of the digest of a content that lies in another object by now; nothing has it as its own."""

PIECE = "pieces.id, object, count, members, pieces.sum"
"""The columns that `proven_piece` takes, in a query over `pieces`."""


class Piece(NamedTuple):
    """A row of `pieces`."""

    number: int
    object: int
    held: int
    members: bytes

    def sum(self, identity: int) -> int:
        """Its checksum, in the object of that `identity`."""
        return zlib.crc32(self.members, zlib.crc32(_HEAD.pack(*self[:3]), identity))

    def member(self, ref: int) -> Member:
        """The content that a ref to this piece means."""
        form = _FORMS[self.members[0]]
        sha, *rest = form.unpack_from(self.members, 1 + (ref & _LAST) * form.size)
        return _member(sha, rest)

    def span(self, ref: int) -> Span | None:
        """Where that lies in the object; None where it is the object."""
        found = _SPANS.get(self.members[0])
        if found is None:
            return None
        form, size = found
        return _new(Span, form.unpack_from(self.members, 33 + (ref & _LAST) * size))

    @property
    def size(self) -> int:
        """How many bytes each content in it takes."""
        return _FORMS[self.members[0]].size

    def refs(self, key: int) -> Iterator[tuple[bytes, int]]:
        """The first `key` bytes of the digests in it, with what refers to them."""
        size, members = self.size, self.members
        if members[0] == _NEEDS[0]:
            return iter(())
        keys = [members[at : at + key] for at in range(1, len(members), size)]
        return zip(keys, range(self.number << PLACES, (self.number << PLACES) + len(keys)), strict=True)

    def all(self) -> Iterator[Member]:
        """The contents in it."""
        if self.members[0] == _NEEDS[0]:
            return
        for sha, *rest in _FORMS[self.members[0]].iter_unpack(memoryview(self.members)[1:]):
            if sha != GONE:
                yield _member(sha, rest)

    def needs(self) -> Iterator[tuple[int, int]]:
        """The objects in it that its object needs, and how many of their bytes."""
        return needs_in(self.members)

    def without(self, refs: Iterable[int]) -> "Piece":
        """The same once these contents lie elsewhere; all others keep their refs."""
        size = _FORMS[self.members[0]].size
        members, held = bytearray(self.members), self.held
        for ref in refs:
            at = 1 + (ref & _LAST) * size
            members[at : at + size] = bytes(size)
            held -= 1
        return self._replace(held=held, members=bytes(members))


def _member(sha: bytes, rest: Sequence[int]) -> Member:
    return Member(sha, rest[0]) if len(rest) == 1 else Member(sha, rest[2], Span(rest[0], rest[1]))


def proven_piece(identity: int, *columns: Any) -> Piece:
    """
    The piece that these `PIECE` columns are, of the object of that `identity`.

    `CatalogUnusable` where they do not fit their checksum.
    """
    piece = Piece(*columns[:-1])
    try:
        fits = piece.sum(identity) == columns[-1]
    except (struct.error, TypeError):
        fits = False
    if not fits:
        raise damaged("pieces")
    return piece


def well_formed(*columns: Any) -> Piece:
    """
    The piece of these columns, as far as can be seen without its object.

    `CatalogUnusable` where they cannot be one.
    """
    number, *_, members = columns
    if isinstance(number, int) and 0 < number <= _MOST and isinstance(members, bytes) and members:
        form = _FORMS.get(members[0])
        if form is not None and not (len(members) - 1) % form.size:
            return Piece(*columns)
    raise damaged("pieces")


def needs_in(members: bytes) -> Iterator[tuple[Any, ...]]:
    """The objects that a piece with these members tells to be needed, and how many of their bytes."""
    form = _FORMS[_NEEDS[0]]
    if members.startswith(_NEEDS) and len(members) % form.size == 1:
        return form.iter_unpack(memoryview(members)[1:])
    return iter(())


def made(row: ObjectRow, contents: Iterable[Member], first: int) -> list[Piece]:
    """Pieces that hold contents of an object, with numbers from `first` on."""
    bodies = []
    spanned = []
    for member in contents:
        if member.sha == GONE:
            continue  # somebody's invention
        if member.span is None:
            bodies.append((1, _WHOLE + _FORMS[_WHOLE[0]].pack(member.sha, member.size)))
        else:
            spanned.append(member)
    rest = iter(spanned)
    while some := list(islice(rest, _EACH)):
        bodies.append((len(some), _body(some)))
    return [Piece(number, row.number, count, body) for number, (count, body) in enumerate(bodies, first)]


def needing(row: ObjectRow, needs: Sequence[tuple[int, int]], first: int) -> list[Piece]:
    """Pieces that say which objects `row` needs, by number, and how many of their bytes; numbered from `first` on."""
    pack = _FORMS[_NEEDS[0]].pack
    some = (needs[at : at + _NEEDED] for at in range(0, len(needs), _NEEDED))
    bodies = [_NEEDS + b"".join([pack(*need) for need in page]) for page in some]
    return [Piece(number, row.number, 0, body) for number, body in enumerate(bodies, first)]


def _body(members: Sequence[Any]) -> bytes:
    for form in (_NARROW, _WIDE):
        pack = _FORMS[form[0]].pack
        try:
            return form + b"".join([pack(sha, start, length, size) for sha, size, (start, length) in members])
        except struct.error:
            if form == _WIDE:
                raise
    raise AssertionError


def write(db: sqlite3.Connection, row: ObjectRow, pieces: Iterable[Piece]) -> None:
    """Write pieces of one object down, instead of those of the same numbers."""
    identity = row.identity
    db.executemany(
        "INSERT OR REPLACE INTO pieces (id, object, count, members, sum) VALUES (?, ?, ?, ?, ?)",
        [(*piece, piece.sum(identity)) for piece in pieces],
    )


def of_object(db: sqlite3.Connection, row: ObjectRow) -> Iterator[Piece]:
    """All that holds contents of an object."""
    identity = row.identity
    for columns in db.execute(f"SELECT {PIECE} FROM pieces WHERE object = ?", (row.number,)).fetchall():
        yield proven_piece(identity, *columns)


def members_of(db: sqlite3.Connection, row: ObjectRow) -> list[Member]:
    """The contents of an object, by offset."""
    found = [member for piece in of_object(db, row) for member in piece.all()]
    return sorted(found, key=lambda member: member.span or ())
