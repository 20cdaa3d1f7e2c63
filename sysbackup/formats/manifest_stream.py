"""
A manifest as it is stored: gzip, written and read as a stream, so that no number of entries costs memory.

The end is a gzip member of its own, so that it can be read alone (`ends`); in
manifests of older versions all is one member. A manifest without its end is damaged.
"""

from collections.abc import Iterator

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping
from sysbackup.formats.ends import HEADER_LIMIT, TRUNCATED, header_of
from sysbackup.formats.manifest import End, Entry, RunHeader, decode, encode

# A line holds one file. What we write into it is bounded: 1 MiB of extended attributes (`files.xattrs`), which base64
# and escapes make 3 at the most; two ACLs of 64 KiB (acl(5)), 8,191 entries each with names of up to 256 bytes; a path
# of 64 KiB (`programs.picker_output`), whose control characters take six bytes each.
LINE_LIMIT = 8 << 20

# What is unpacked, and taken apart into lines, at a time: some thousand entries.
_PIECE = 256 << 10


class ManifestWriter:
    """Makes the compressed stream: feed lines in order, send on what comes back, end with `end`."""

    def __init__(self) -> None:
        self._gzip = gzipping.compressor()
        self._waiting: list[bytes] = []
        self._bytes = 0

    def add(self, line: bytes) -> bytes:
        """Take one encoded entry; returns compressed bytes that are ready, often none."""
        self._waiting.append(line)
        self._bytes += len(line)
        if self._bytes < 1 << 18:
            return b""
        return self._drain()

    def end(self, end: End) -> bytes:
        """The rest of the stream, with this last line in a member of its own."""
        return self.finish() + gzipping.compress(encode(end) + b"\n")

    def finish(self) -> bytes:
        """The rest of the stream, whatever its last line was."""
        return self._drain() + self._gzip.flush()

    def _drain(self) -> bytes:
        self._waiting.append(b"")
        text = b"\n".join(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return self._gzip.compress(text)


class ManifestReader:
    """
    Takes the compressed stream apart: feed pieces of any size, then `finish`.

    Trusts nothing: the first line must be a header of a known format, nothing
    may follow the end, no line may be longer than `LINE_LIMIT`, and the first
    must end where a header can: what unpacks to gigabytes costs no memory.
    """

    def __init__(self) -> None:
        self._inflater = gzipping.Inflater(_PIECE)
        self._rest = bytearray()
        self._header: RunHeader | None = None
        self._end: End | None = None

    def feed(self, packed: bytes) -> Iterator[Entry]:
        """Yield the entries that `packed` completes, the header and the end among them."""
        for lines in self._lines(packed):
            for line in lines:
                yield self._checked(decode(line))

    def batches(self, packed: bytes) -> Iterator[list[Entry]]:
        """The same, some at a time: as many as the memory of one long line may hold, however long all of them are."""
        for lines in self._lines(packed):
            yield [self._checked(decode(line)) for line in lines]

    def finish(self) -> None:
        """`FormatError` where the stream was cut short."""
        self._inflater.close()
        if self._rest or self._end is None:
            raise FormatError(TRUNCATED)

    def _lines(self, packed: bytes) -> Iterator[list[bytes]]:
        for piece in self._inflater.feed(packed):
            if b"\n" not in piece:
                self._rest += piece
            else:
                lines = bytes(self._rest + piece).split(b"\n")
                self._rest = bytearray(lines.pop())
                yield lines
            if len(self._rest) > (LINE_LIMIT if self._header else HEADER_LIMIT):
                raise FormatError("a manifest holds a line longer than any entry can be")

    def _checked(self, entry: Entry) -> Entry:
        if self._end is not None:
            raise FormatError("the manifest goes on after its last line: it is damaged")
        if self._header is None:
            self._header = header_of(entry)
        elif isinstance(entry, RunHeader):
            raise FormatError("the manifest holds a second run: it is damaged")
        if isinstance(entry, End):
            self._end = entry
        return entry
