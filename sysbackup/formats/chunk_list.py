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
from msgspec import Struct

from sysbackup.errors import FormatError
from sysbackup.formats import encodings, gzipping, keys
from sysbackup.formats.lines import UNREADABLE, refuse_later
from sysbackup.model import Location, Span

FORMAT = 1

NAME = "chunks"
"""What stands for the encoding of a content where a list lies in its place."""

CHUNK_AT_MOST = 16 << 20
"""Bytes of a chunk, so that a reader can hold some."""

LEVELS_AT_MOST = 3
"""Lists of lists of lists: of chunks of 128 KiB and lists cut where they pass 32 MiB, more than S3 can hold."""

_LINE_LIMIT = 4096
# A chunk's line has a digest, which gzip makes no shorter than its 32 bytes: what unpacks to more is none of ours.
_RATIO = 16
_FREE = 1 << 20
_LARGEST = (1 << 63) - 1
_BATCH = 256 << 10  # bytes of lines that are packed at a time


class Chunk(NamedTuple):
    """One chunk: its digest, its size, and where it lies."""

    sha: bytes
    size: int
    at: Location


class _Header(Struct, tag_field="typ", tag="chunks", omit_defaults=True, kw_only=True):
    """The first line. `levels` above 1: what the chunks make is a list with one level less."""

    format: int
    levels: int = 1


class _Object(Struct, tag_field="typ", tag="o", omit_defaults=True, kw_only=True):
    """An object, numbered from 0 on in the order in which they come."""

    key: str = msgspec.field(name="dat")
    version: str | None = msgspec.field(name="ver", default=None)
    encoding: str | None = msgspec.field(name="enc", default=None)


class _End(Struct, tag_field="typ", tag="end", kw_only=True):
    """The last line: how many chunks there were, and how many bytes they make."""

    chunks: int
    size: int = msgspec.field(name="sz")


class _Row(Struct, array_like=True):
    """A chunk: digest, size, number of the object; offset and length there, where it has only a range of it."""

    sha: str
    size: int
    object: int
    offset: int = -1
    length: int = -1


_lines: msgspec.json.Decoder[_Header | _Object | _End] = msgspec.json.Decoder(_Header | _Object | _End)
_rows = msgspec.json.Decoder(_Row)
_encoder = msgspec.json.Encoder()


class ChunkListWriter:
    """Makes a list; the bytes that come are to be written one behind the other."""

    def __init__(self, levels: int = 1) -> None:
        self._packer = gzipping.compressor()
        self._waiting = bytearray(_encoder.encode(_Header(format=FORMAT, levels=levels)) + b"\n")
        self._objects: dict[tuple[str, str | None, str | None], int] = {}
        self._chunks = 0
        self._size = 0

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
        self._size += chunk.size
        return self._packed() if len(self._waiting) >= _BATCH else b""

    def end(self) -> bytes:
        """The rest; the writer must not be used again."""
        self._waiting += _encoder.encode(_End(chunks=self._chunks, size=self._size)) + b"\n"
        return self._packed() + self._packer.flush()

    def _packed(self) -> bytes:
        packed = self._packer.compress(bytes(self._waiting))
        self._waiting.clear()
        return packed


class ChunkListReader:
    """
    Takes a list apart: feed pieces of any size, then `finish`. `FormatError` where it is damaged.

    `levels` are known with the first chunk. What comes is a claim until the chunks have been hashed.
    """

    def __init__(self) -> None:
        self._inflater = gzipping.Inflater(alone=True)
        self._rest = bytearray()
        self._objects: list[_Object] = []
        self._chunks = 0
        self._packed = 0
        self._unpacked = 0
        self._ended = False
        self.levels = 0
        self.size = 0

    def feed(self, packed: bytes) -> Iterator[Chunk]:
        """Yield the chunks that `packed` completes."""
        self._packed += len(packed)
        for piece in self._inflater.feed(packed):
            self._unpacked += len(piece)
            if self._unpacked > _FREE + _RATIO * self._packed:
                raise FormatError("a list of chunks unpacks to more than any that holds hashes")
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
        if self._ended or len(line) > _LINE_LIMIT:
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
        if isinstance(said, _Header):
            refuse_later(line, FORMAT, "a list of chunks")
            if said.format != FORMAT or not 1 <= said.levels <= LEVELS_AT_MOST:
                raise FormatError(f"a list of chunks cannot begin like this: {line[:120]!r}")
            self.levels = said.levels
        elif isinstance(said, _Object):
            if not keys.possible(said.key, said.version) or not encodings.is_known(said.encoding):
                raise FormatError(f"a list of chunks names an object that cannot be: {line[:120]!r}")
            self._objects.append(said)
        else:
            if (said.chunks, said.size) != (self._chunks, self.size):
                raise FormatError("a list of chunks has other chunks than it says at its end")
            self._ended = True
        return None

    def _chunk(self, row: _Row) -> Chunk:
        digest = bytes.fromhex(row.sha)
        whole = (row.offset, row.length) == (-1, -1)
        # a gzip member has 18 bytes, and none of ours is much longer than what is in it
        ranged = 0 <= row.offset <= _LARGEST - row.length and 18 <= row.length <= encodings.largest(row.size)
        possible = len(digest) == 32 and 0 < row.size <= CHUNK_AT_MOST and 0 <= row.object < len(self._objects)
        if not possible or not (whole or ranged):
            raise FormatError(f"a list of chunks names a chunk that cannot be: {row.sha[:80]!r}")
        self._chunks += 1
        self.size += row.size
        named = self._objects[row.object]
        span = None if whole else Span(row.offset, row.length)
        return Chunk(digest, row.size, Location(named.key, named.version, span, named.encoding))
