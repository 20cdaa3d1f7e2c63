"""
Gzip as sysbackup writes it: deterministic (no name, time zero), so equal input gives equal objects.

isal's igzip does the work where it has a wheel, zlib elsewhere; either reads
what the other wrote. The bytes differ between the two, never the contents.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple, Protocol, cast

from sysbackup.errors import FormatError

try:
    from isal import isal_zlib

    _fast: ModuleType = isal_zlib
    _Damaged: tuple[type[Exception], ...] = (zlib.error, cast("type[Exception]", isal_zlib.error))
except ImportError:  # no wheel for this processor
    _fast = zlib
    _Damaged = (zlib.error,)

LEVEL = 1  # the fastest of zlib's; igzip's go from 0 to 3

_GZIP = 31  # zlib's wbits: a gzip header and trailer around a 32 KiB window (zlib manual, deflateInit2)
_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952: deflate, no flags, no time, unknown system
MAGIC = _HEADER[:3]
_STORED = 65_535  # RFC 1951, 3.2.4: a stored block's length has 16 bits
_BLOCK = struct.Struct("<BHH")
_END = struct.Struct("<II")

# What an unpacker is given at a time: it copies what it leaves of that, at the end of each piece and of each member.
_WINDOW = 32 << 10

# A content is worth gzip where that saves at least 1/32 of it: below that the time to unpack it is not paid for.
_WORTH = 32

# Bytes up to which gzip is not tried: of 1,200 files of a Debian system up to this size it saved 1 %, and took five
# times as long as storing them.
_HOPELESS = 96

# A large content is judged by so many samples of so many bytes.
_SAMPLES = 4
_SAMPLE = 2 << 10


class Compressor(Protocol):
    """zlib's incremental compressor."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor() -> Compressor:
    """An incremental compressor that writes one gzip member."""
    made: Compressor = _fast.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    return made


def compress(content: bytes | bytearray) -> bytes:
    """The content as one gzip member."""
    packed: bytes = _fast.compress(content, LEVEL, _GZIP)
    return packed


def stored(content: bytes | bytearray) -> bytes:
    """The content as one gzip member of stored blocks: what gzip would only make larger."""
    if len(content) <= _STORED:  # which most are
        end = _END.pack(_fast.crc32(content), len(content))
        return b"".join((_HEADER, _BLOCK.pack(1, len(content), len(content) ^ 0xFFFF), content, end))
    return b"".join(_stored_pieces(memoryview(content)))


def _stored_pieces(content: memoryview) -> list[bytes | memoryview]:
    """The same piece by piece, without a copy of the content."""
    last = max(0, (len(content) - 1) // _STORED)
    pieces: list[bytes | memoryview] = [_HEADER]
    for number in range(last + 1):
        block = content[number * _STORED : (number + 1) * _STORED]
        pieces += _BLOCK.pack(number == last, len(block), len(block) ^ 0xFFFF), block
    return [*pieces, _END.pack(_fast.crc32(content), len(content) & 0xFFFFFFFF)]


def member(content: bytes | bytearray) -> bytes:
    """The content as one gzip member, stored where gzip does not pay."""
    if len(content) <= _HOPELESS:
        return stored(content)
    packed = compress(content)
    return packed if pays(len(content), len(packed)) else stored(content)


def member_pieces(content: memoryview) -> list[bytes | memoryview]:
    """
    The same for a large content, piece by piece: where it is stored, these are of itself.

    Gzip is not tried where samples from all over it say that it would not pay.
    """
    step = len(content) // _SAMPLES
    if step > 2 * _SAMPLE:
        sample = b"".join([content[at : at + _SAMPLE] for at in range(0, step * _SAMPLES, step)])
        if not pays(len(sample), len(compress(sample))):
            return _stored_pieces(content)
    packed: bytes = _fast.compress(content, LEVEL, _GZIP)
    return [packed] if pays(len(content), len(packed)) else _stored_pieces(content)


def pays(plain: int, packed: int) -> bool:
    """Whether `packed` bytes instead of `plain` ones are worth unpacking again."""
    return packed <= plain - plain // _WORTH


def inflate(packed: bytes | bytearray | memoryview, size: int) -> bytes:
    """
    The content of one gzip member that is to have `size` bytes.

    `FormatError` where it is damaged, has another size, or goes on after its
    end. Never makes more than `size` + 1 bytes, whatever the member says.
    """
    unpacker = _fast.decompressobj(_GZIP)
    try:
        content: bytes = unpacker.decompress(packed, size + 1)
        if not unpacker.eof and len(content) <= size:
            content += unpacker.decompress(unpacker.unconsumed_tail, size + 1 - len(content) or 1)
    except _Damaged as exc:
        raise FormatError(f"a gzip member is damaged: {exc}") from exc
    if len(content) != size or not unpacker.eof or unpacker.unused_data:
        raise FormatError("a gzip member does not hold what its pack's list says")
    return content


def last_members(tail: bytes, most: int) -> Iterator[bytes]:
    """
    What the last gzip member in `tail` may hold: each whole member of up to `most` bytes that ends where `tail` does.

    Few things look like one and are none: its checksum must be right.
    """
    at = len(tail)
    while (at := tail.rfind(MAGIC, 0, at)) >= 0:
        unpacker = _fast.decompressobj(_GZIP)
        try:
            content: bytes = unpacker.decompress(tail[at:], most)
        except _Damaged:
            continue
        if unpacker.eof and not unpacker.unused_data:
            yield content


class Inflater:
    """
    A gzip stream taken apart piece by piece; several members in a row are one stream, as for gzip(1).

    `feed` yields pieces of at most `step` bytes, so a small input that unpacks
    to terabytes costs no memory. With `alone` there may be one member only, as
    for `inflate`.
    """

    def __init__(self, step: int = 1 << 20, *, alone: bool = False) -> None:
        self._step = step
        self._alone = alone
        self._unpacker = _fast.decompressobj(_GZIP)
        self._inside = False

    def feed(self, packed: bytes | bytearray) -> Iterator[bytes]:
        """Yield what `packed` adds to the content. `FormatError` where it is no gzip."""
        for content, _ in self._steps(packed):
            if content:
                yield content

    @property
    def complete(self) -> bool:
        """Whether the last member has come to its end."""
        return self._unpacker.eof and not self._inside

    def close(self) -> None:
        """`FormatError` where the last member was cut short, or there was none."""
        if not self.complete:
            raise FormatError("gzip data end before their end")

    def _steps(self, packed: bytes | bytearray) -> Iterator[tuple[bytes, memoryview]]:
        """Each piece of the content, which may be empty, and the bytes that were taken for it: all of one member."""
        left = memoryview(packed)
        full = False
        while left or full:
            if self._unpacker.eof:
                if self._alone:
                    raise FormatError("gzip data go on after their end")
                self._unpacker = _fast.decompressobj(_GZIP)
            self._inside = True
            window = left[:_WINDOW]
            try:
                content = self._unpacker.decompress(window, self._step)
            except _Damaged as exc:
                raise FormatError(f"gzip data are damaged: {exc}") from exc
            ended = self._unpacker.eof
            rest = self._unpacker.unused_data if ended else self._unpacker.unconsumed_tail
            taken = window[: len(window) - len(rest)]
            left = left[len(taken) :]
            self._inside = not ended
            # what is taken may wait for room in a piece
            full = len(content) == self._step and not ended
            yield content, taken


class Packed(NamedTuple):
    """One member of a gzip stream that has gone by: the range of its bytes, and their SHA-256."""

    offset: int
    length: int
    sha: bytes


class MemberInflater(Inflater):
    """The same for a stream whose members count: after the pieces of each comes where it was."""

    def __init__(self, step: int = 1 << 20) -> None:
        super().__init__(step)
        self._offset = 0
        self._length = 0
        self._hash = hashlib.sha256()

    def members(self, packed: bytes) -> Iterator[bytes | Packed]:
        """Yield what `packed` adds to the content, and each member that it ends."""
        for content, taken in self._steps(packed):
            self._hash.update(taken)
            self._length += len(taken)
            if content:
                yield content
            if self._unpacker.eof:
                yield Packed(self._offset, self._length, self._hash.digest())
                self._offset += self._length
                self._length = 0
                self._hash = hashlib.sha256()
