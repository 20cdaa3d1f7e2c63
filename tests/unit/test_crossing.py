"""What crosses between processes as rows of bytes is the same on the other side."""

import os
from random import Random

from sysbackup.contents import crossing
from sysbackup.model import FileState, Member, Span

MOST = (1 << 64) - 1


def digest() -> bytes:
    return os.urandom(32)


def test_digests() -> None:
    digests = [digest() for _ in range(100)]
    assert crossing.digests_from(crossing.digests_to_bytes(digests)) == digests
    assert crossing.digests_from(b"") == []


def test_members() -> None:
    chance = Random(3)
    members = [Member(digest(), chance.randrange(MOST), Span(chance.randrange(MOST), n)) for n in range(100)]
    rows = b"".join(map(crossing.member_to_bytes, members))
    found = crossing.members_from(rows)
    assert found == members
    assert {type(member) for member in found} == {Member}
    assert {type(member.span) for member in found} == {Span}
    assert crossing.members_digests(rows) == [member.sha for member in members]


def test_states() -> None:
    """Inodes have 64 bits, times a sign; a time that does not fit costs that file another look, and nobody else."""
    states = [
        FileState(1, 2, 3, 4, 5, digest()),
        FileState(MOST, MOST, 1 << 62, -(1 << 63), (1 << 63) - 1, digest()),
        FileState(1, 3, 3, 0, 0, digest()),
    ]
    beyond = [FileState(1, 4, 3, 1 << 63, 0, digest()), FileState(1, 5, 3, 0, 1 << 70, digest())]
    found = crossing.states_from(crossing.states_to_bytes([states[0], *beyond, *states[1:]]))
    assert list(found) == states
    assert {type(state) for state in found} == {FileState}
