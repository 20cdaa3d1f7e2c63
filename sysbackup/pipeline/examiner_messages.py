"""
What a run's own process and an examiner say to each other: small messages, each behind its length.

Digests, contents of packs and states of files are rows of bytes (`contents.crossing`).

The run's process gives one job at a time, and answers what the examiner asks
meanwhile. Contents do not cross here: they lie in shared memory.
"""

import socket
import struct
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from sysbackup.contents.lookups import LookupOrder
from sysbackup.contents.stowing import Full, OpenPack, Single, Sizes
from sysbackup.disk.sorted_runs import Change, SortedRun, State

LENGTH = struct.Struct("<I")


class Sit(Struct, frozen=True, array_like=True, tag=True):
    """
    Begin, or go on where another examiner has ended.

    `berths` and `entries` are the numbers and sizes of slots, for contents and for
    records; the descriptors of both, of the `Pointer`s, and of all files of records come with this message.
    """

    seat: int
    cache: bytes
    berths: tuple[int, int]
    entries: tuple[int, int]
    lookup: LookupOrder
    sizes: Sizes
    allowance: int
    lock_timeout: float
    state: State
    pack: OpenPack | None


class Examine(Struct, frozen=True, array_like=True, tag=True):
    """
    Look at these paths, joined by NULs. `number` grows from job to job: of two looks at a path the later one counts.

    `rescan`: every file is read. `anew`: what contents are stored the run's process alone knows.
    """

    number: int
    paths: bytes
    rescan: bool
    anew: bool


class Granted(Struct, frozen=True, array_like=True, tag=True):
    """The answer to `Ask`: 1 for each content that is the examiner's to store."""

    mask: bytes


class Given(Struct, frozen=True, array_like=True, tag=True):
    """The answer to `Room`."""

    slot: int


class SetDown(Struct, frozen=True, array_like=True, tag=True):
    """No more paths come: the open pack is to be stored, the records are to lie in the file."""


class Merge(Struct, frozen=True, array_like=True, tag=True):
    """
    Make members of the manifest from a range of paths, from `begin` on and below `end`: of these runs, each in the
    file of a seat. `believing`: see `Merger`.
    """

    begin: bytes
    end: bytes | None
    runs: list[tuple[int, SortedRun]]
    believing: bool


ToExaminer = Sit | Examine | Granted | Given | SetDown | Merge


class Ready(Struct, frozen=True, array_like=True, tag=True):
    """It sits."""


class Ask(Struct, frozen=True, array_like=True, tag=True):
    """Which of these contents, that it did not find, it is to store; those `used` it found."""

    shas: bytes
    used: bytes


class Room(Struct, frozen=True, array_like=True, tag=True):
    """It needs a slot for so many bytes."""

    size: int


class Back(Struct, frozen=True, array_like=True, tag=True):
    """It does not need this slot after all."""

    slot: int


class PackFull(Struct, frozen=True, array_like=True, tag=True):
    """A pack is to be stored: the open one as it was acknowledged, and what was `added`."""

    full: Full
    added: bytes


class Alone(Struct, frozen=True, array_like=True, tag=True):
    """A content is to be stored by itself."""

    single: Single


class Done(Struct, frozen=True, array_like=True, tag=True, kw_only=True):
    """A job is done: what was found, and what has become of its seat (`pack`: the slot of the open one)."""

    change: Change
    pack: int | None
    added: bytes
    files: int = 0
    bytes_read: int = 0
    bytes_unchanged: int = 0
    sockets: int = 0
    problems: Sequence[tuple[str, bytes, str]] = ()
    vanished: Sequence[bytes] = ()
    warned: Sequence[tuple[bytes, str]] = ()
    large: Sequence[bytes] = ()
    states: bytes = b""
    met: Sequence[tuple[int, int]] = ()
    used: bytes = b""


class Stretch(Struct, frozen=True, array_like=True):
    """A member of the manifest, which lies in a seat's file."""

    first: bytes
    offset: int
    length: int
    sha: bytes
    lines: int


class Merged(Struct, frozen=True, array_like=True, tag=True):
    """A range is merged. `placeless` are files, left out, whose contents are stored nowhere."""

    change: Change
    stretches: Sequence[Stretch]
    counts: dict[str, int]
    size: int
    unchanged: int
    placeless: Sequence[bytes]


class Failed(Struct, frozen=True, array_like=True, tag=True):
    """It cannot go on, nor could another: an error of the catalog (`unusable`) or of the cache directory."""

    unusable: bool
    reason: str


FromExaminer = Ready | Ask | Room | Back | PackFull | Alone | Done | Merged | Failed

Message = ToExaminer | FromExaminer

_encoder = msgspec.msgpack.Encoder()
to_examiner: "msgspec.msgpack.Decoder[ToExaminer]" = msgspec.msgpack.Decoder(ToExaminer)
from_examiner: "msgspec.msgpack.Decoder[FromExaminer]" = msgspec.msgpack.Decoder(FromExaminer)

_T = TypeVar("_T")


def encoded(message: Message) -> bytes:
    """A message behind its length."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def receive(channel: socket.socket) -> ToExaminer | None:
    """The next message to an examiner; None where the other side has closed."""
    length = _exactly(channel, LENGTH.size)
    if length is None:
        return None
    body = _exactly(channel, *LENGTH.unpack(length))
    return None if body is None else to_examiner.decode(body)


def _exactly(channel: socket.socket, length: int) -> bytes | None:
    parts = []
    while length:
        got = channel.recv(length, socket.MSG_WAITALL)
        if not got:
            return None
        parts.append(got)
        length -= len(got)
    return b"".join(parts)
