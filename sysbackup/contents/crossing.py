"""What crosses between processes in large numbers, as rows of bytes: nobody makes objects of it on the event loop."""

import struct
from collections.abc import Iterable, Sequence

from sysbackup.model import FileState, Member, Span

_DIGEST = 32
_MEMBER = struct.Struct(f"<{_DIGEST}sQQQ")
_STATE = struct.Struct(f"<QQQqq{_DIGEST}s")


def digests_to_bytes(digests: Iterable[bytes]) -> bytes:
    """Digests in a row."""
    return b"".join(digests)


def digests_from(rows: bytes) -> list[bytes]:
    """The digests of such a row."""
    return [rows[at : at + _DIGEST] for at in range(0, len(rows), _DIGEST)]


def member_to_bytes(member: Member) -> bytes:
    """A content in a pack."""
    span = member.span or Span(0, 0)
    return _MEMBER.pack(member.sha, member.size, *span)


def members_from(rows: bytes) -> list[Member]:
    """The contents of a pack, of such rows."""
    new = tuple.__new__  # a third of the time that their own constructors take
    return [new(Member, (sha, size, new(Span, place))) for sha, size, *place in _MEMBER.iter_unpack(rows)]


def members_digests(rows: bytes) -> list[bytes]:
    """The digests of the same."""
    return [rows[at : at + _DIGEST] for at in range(0, len(rows), _MEMBER.size)]


def states_to_bytes(states: Iterable[FileState]) -> bytes:
    """What files looked like. One of a time that 64 bits do not hold is left out: it is read again the next time."""
    rows = []
    for state in states:
        try:
            rows.append(_STATE.pack(*state))
        except struct.error:
            continue
    return b"".join(rows)


def states_from(rows: bytes) -> Sequence[FileState]:
    """The files of such rows."""
    new = tuple.__new__
    return [new(FileState, row) for row in _STATE.iter_unpack(rows)]
