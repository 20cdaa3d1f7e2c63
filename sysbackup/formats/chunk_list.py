"""
Lists of chunks: what stands for a large content that was cut into smaller ones.

Gzip JSON lines. The first says what the list is of; the others name objects, and
the chunks in their order, each with its digest, its size and its place in one of
the objects named so far; the last one counts them. How the cuts were found no
reader needs to know: whatever comes one behind the other is the content.

A list that would be too long is a content of its own, cut in the same way: then
the chunks make a list (`levels`). A reader proves each chunk by its digest, and the
whole by the content's.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from sysbackup.errors import FormatError
from sysbackup.formats import encodings, gzipping, keys
from sysbackup.formats.lines import UNREADABLE, refuse_later
from sysbackup.model import Location, Span

FORMAT = 1

NAME = "chunks"
"""What stands for the encoding of a content where a list lies in its place."""

CHUNK_AT_MOST = 4 << 20
"""Bytes of a chunk, so that a reader can hold some."""

LEVELS_AT_MOST = 3
"""Lists of lists of lists: of chunks of 128 KiB and lists cut where they pass 32 MiB, more than S3 can hold."""

OBJECTS_AT_MOST = 65_536
"""Objects that one list names: a reader keeps them."""

_LINE_LIMIT = 4096
_VERSION_LIMIT = 1024
_BATCH = 256 << 10  # bytes of lines that are packed at a time


def chunks_at_most(size: int) -> int:
    """How many chunks a list of `size` bytes can have: more would cost a reader time, and nobody any less room."""
    return size // 1024 + 1024


def longest(size: int, levels: int) -> int:
    """The most bytes of a list of so many levels, for a content of `size`."""
    return size if not levels else longest(512 * chunks_at_most(size), levels - 1)


class Chunk(NamedTuple):
    """One chunk: its digest, its size, and where it lies."""

    sha: bytes
    size: int
    at: Location


class _Header(Struct, tag_field="typ", tag="chunks", omit_defaults=True, kw_only=True):
    """The first line: how many bytes the chunks make. `levels` above 1: that is a list with one level less."""

    format: int
    size: int = field(name="sz")
    levels: int = 1


class _Object(Struct, tag_field="typ", tag="o", omit_defaults=True, kw_only=True):
    """An object, numbered from 0 on in the order in which they come."""

    key: str = field(name="dat")
    version: str | None = field(name="ver", default=None)
    encoding: str | None = field(name="enc", default=None)


class _End(Struct, tag_field="typ", tag="end", kw_only=True):
    """The last line: how many chunks there were."""

    chunks: int


class _Row(Struct, array_like=True):
    """A chunk: digest, size, number of the object; offset and length there, where it has only a range of it."""

    sha: str
    size: int
    object: int
    offset: int | None = None
    length: int | None = None


_lines: msgspec.json.Decoder[_Header | _Object | _End] = msgspec.json.Decoder(_Header | _Object | _End)
_rows = msgspec.json.Decoder(_Row)
_encoder = msgspec.json.Encoder()


class ChunkListWriter:
    """Makes a list of a content of `size` bytes; what comes is to be written one behind the other."""

    def __init__(self, size: int, levels: int = 1) -> None:
        self._packer = gzipping.compressor()
        self._waiting = bytearray(_encoder.encode(_Header(format=FORMAT, size=size, levels=levels)) + b"\n")
        self._objects: dict[tuple[str, str | None, str | None], int] = {}
        self._chunks = 0

    def add(self, chunk: Chunk) -> bytes:
        """The next chunk; returns what is to be written by now, which may be nothing."""
        at = chunk.at
        named = at.key, at.version, at.encoding
        if (number := self._objects.get(named)) is None:
            number = self._objects[named] = len(self._objects)
            self._waiting += _encoder.encode(_Object(key=at.key, version=at.version, encoding=at.encoding)) + b"\n"
        self._waiting += b'["%s",%d,%d' % (chunk.sha.hex().encode(), chunk.size, number)
        self._waiting += b"]\n" if at.span is None else b",%d,%d]\n" % at.span
        self._chunks += 1
        return self._packed() if len(self._waiting) >= _BATCH else b""

    def end(self) -> bytes:
        """The rest; the writer must not be used again."""
        self._waiting += _encoder.encode(_End(chunks=self._chunks)) + b"\n"
        return self._packed() + self._packer.flush()

    def _packed(self) -> bytes:
        packed = self._packer.compress(bytes(self._waiting))
        self._waiting.clear()
        return packed


class ChunkListReader:
    """
    Takes a list apart: feed pieces of any size, then `finish`. `FormatError` where it is damaged.

    With the first chunk `levels` are known, and the size that is `promised`. What comes is a
    claim until the chunks have been hashed. The objects that were named are all that is kept.
    """

    def __init__(self) -> None:
        self._inflater = gzipping.Inflater(alone=True)
        self._rest = bytearray()
        self._objects: list[_Object] = []
        self._named = False  # just now: its chunk must follow
        self._chunks = 0
        self._size = 0
        self._ended = False
        self.levels = 0
        self.promised = 0

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self._ended and self._inflater.complete

    def feed(self, packed: bytes | bytearray) -> Iterator[Chunk]:
        """Yield the chunks that `packed` completes."""
        for piece in self._inflater.feed(packed):
            self._rest += piece
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            for line in lines:
                if (chunk := self._understood(line)) is not None:
                    yield chunk
            if len(rest) > _LINE_LIMIT:
                raise FormatError("a list of chunks holds a line that is too long")

    def finish(self) -> None:
        """`FormatError` where it was cut short."""
        self._inflater.close()
        if self._rest or not self._ended:
            raise FormatError("a list of chunks ends in the middle")

    def _understood(self, line: bytes) -> Chunk | None:
        if self._ended or len(line) > _LINE_LIMIT or (self._named and not line.startswith(b"[")):
            raise FormatError(f"a list of chunks holds a line that cannot be: {line[:120]!r}")
        try:
            if line.startswith(b"["):
                return self._chunk(_rows.decode(line))
            said = _lines.decode(line)
        except (*UNREADABLE, ValueError) as exc:
            refuse_later(line, FORMAT, "a list of chunks")
            raise FormatError(f"a list of chunks holds a line that is none ({exc}): {line[:120]!r}") from exc
        if isinstance(said, _Header) is bool(self.levels):
            raise FormatError("a list of chunks does not begin with its one header")
        match said:
            case _Header():
                self._begin(said, line)
            case _Object():
                self._name(said)
            case _:
                if (said.chunks, self.promised) != (self._chunks, self._size):
                    raise FormatError("a list of chunks has others than it says")
                self._ended = True
        return None

    def _begin(self, said: _Header, line: bytes) -> None:
        refuse_later(line, FORMAT, "a list of chunks")
        if said.format != FORMAT or not 1 <= said.levels <= LEVELS_AT_MOST or said.size < 0:
            raise FormatError(f"a list of chunks cannot begin like this: {line[:120]!r}")
        self.levels, self.promised = said.levels, said.size

    def _name(self, said: _Object) -> None:
        version = said.version or ""
        ours = keys.content_sha(said.key) is not None or keys.is_pack(said.key)
        fits = version.isascii() and len(version) <= _VERSION_LIMIT and keys.possible(said.key, version)
        if not ours or not fits or not encodings.is_known(said.encoding) or len(self._objects) >= OBJECTS_AT_MOST:
            raise FormatError(f"a list of chunks names an object that cannot be: {said.key[:120]!r}")
        said.version = version or None
        self._objects.append(said)
        self._named = True

    def _chunk(self, row: _Row) -> Chunk:
        digest = bytes.fromhex(row.sha)
        number = len(self._objects)
        known = number - 1 <= row.object < number if self._named else 0 <= row.object < number
        possible = len(digest) == 32 and digest.hex() == row.sha and 0 < row.size <= CHUNK_AT_MOST and known
        span = None
        if possible and (row.offset, row.length) != (None, None):
            span = _span(row, self._objects[row.object])
            possible = span is not None
        self._chunks += 1
        self._size += row.size
        if not possible or self._size > self.promised or self._chunks > chunks_at_most(self.promised):
            raise FormatError(f"a list of chunks names a chunk that cannot be: {row.sha[:80]!r}")
        self._named = False
        named = self._objects[row.object]
        return Chunk(digest, row.size, Location(named.key, named.version, span, named.encoding))


def _span(row: _Row, of: _Object) -> Span | None:
    """The range of a chunk; None where it cannot be that. Ranges are gzip members, of 18 bytes at the least."""
    if row.offset is None or row.length is None or of.encoding != encodings.GZIP.name:
        return None
    possible = 0 <= row.offset < 1 << 62 and 18 <= row.length <= encodings.largest(row.size)
    return Span(row.offset, row.length) if possible else None
