"""
The index: what a run stored or renewed, for other machines and for a lost catalog.

Gzip JSON lines. The first names format, host and run; each of the others one
stored object with its version, lock and contents. The lines of an index are
claims of whoever could write to the bucket: `IndexReader` refuses what cannot
be, and whether to believe the rest is for `share` and `verify_shared` to say.
What a host said itself it knows again by a seal, an HMAC under a key that
never leaves it: a lost catalog is built from such lines alone without reading
one content again, and an attacker with all rights to the bucket makes none.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from sysbackup.errors import FormatError
from sysbackup.formats import chunk_list, encodings, gzipping, keys, pack
from sysbackup.formats.lines import UNREADABLE
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject

FORMAT = 1

# A pack has at most 20,000 contents (`pack.CONTENTS_AT_MOST`) of some 110 bytes each in this form, a list of chunks
# needs at most 65,536 objects (`chunk_list.OBJECTS_AT_MOST`) of some 90 bytes; with the longest versions, fewer.
LINE_LIMIT = 16 << 20
# Hashes hardly compress: what unpacks to more than so many times its bytes, behind the first ones, holds none.
_RATIO = 16
_FREE = 16 << 20
# S3: an opaque string of at most 1,024 bytes (User Guide, "How S3 Versioning works"). AWS, RGW, moto and MinIO use
# letters, digits and ._- alone; what else would go through a URL as it is may be another store's.
_VERSION = re.compile(r"[A-Za-z0-9._~+/=:-]{0,1024}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
# S3 keeps no object longer (User Guide, "Managing Object Lock": 100 years at most), and none is larger than 50 TB.
_FURTHEST = datetime(2200, 1, 1, tzinfo=UTC)
_LARGEST = 50 * 10**12


# How a line writes that a content is the whole of its object.
_WHOLE = (0, 0)


class IndexHeader(Struct, tag_field="typ", tag="index", kw_only=True):
    """The first line."""

    format: int
    host: str
    run: str


class IndexLine(Struct, tag_field="typ", tag="o", omit_defaults=True, kw_only=True):
    """
    One object. `contents` has `[sha256, offset, length, size]` of each content, offset and length 0 for a content
    object; `size` is -1 where it is not known. A list of chunks `needs` the objects in which
    they lie: `[key, version, bytes]`. `until` is in seconds since 1970. `teller` is the host whose word the
    contents are, where that is not the index's own: nobody has compared them with their hashes. `seal` is that of the
    host that wrote the line, over all the rest of it.
    """

    key: str
    version: str = msgspec.field(name="ver", default="")
    size: int = msgspec.field(name="sz")
    mode: str
    until: int
    encoding: str | None = msgspec.field(name="enc", default=None)
    contents: list[tuple[str, int, int, int]]
    needs: list[tuple[str, str, int]] = []
    teller: str | None = msgspec.field(name="of", default=None)
    seal: str | None = msgspec.field(name="mac", default=None)


class Indexed(Struct, frozen=True):
    """
    One object of an index, checked: `stored`, how it is encoded, and its contents.

    `sealed`: certain, since the reader's own host has said so and knew it for itself, or its bytes were hashed.
    """

    stored: StoredObject
    encoding: str | None
    contents: tuple[Member, ...]
    teller: str | None = None
    sealed: bool = False
    needs: tuple[tuple[str, str, int], ...] = ()


class Seal:
    """
    What makes and knows again the lines of one host about one bucket; `key` is secret, 32 random bytes.

    `bucket` is its name and its store's address: what is true of one is not of another to which indexes were copied.
    """

    def __init__(self, host: str, bucket: str, key: bytes) -> None:
        self._mac = hmac.new(key, host.encode() + b"\0" + bucket.encode() + b"\0", hashlib.sha256)

    def of(self, line: bytes) -> str:
        """The seal of a line that has none yet."""
        mac = self._mac.copy()
        mac.update(line)
        return mac.hexdigest()

    def fits(self, entry: IndexLine) -> bool:
        """Whether this seal is on a line. A line with fields of a later version is a stranger's."""
        if entry.seal is None:
            return False
        return hmac.compare_digest(self.of(_bare(entry)).encode(), entry.seal.encode("utf-8", "replace"))


_decoder: msgspec.json.Decoder[IndexHeader | IndexLine] = msgspec.json.Decoder(IndexHeader | IndexLine)


def header(host: str, run: str) -> bytes:
    """The first line, with its newline."""
    return msgspec.json.encode(IndexHeader(format=FORMAT, host=host, run=run)) + b"\n"


def _bare(entry: IndexLine) -> bytes:
    """A line as seals are made over it."""
    return msgspec.json.encode(msgspec.structs.replace(entry, seal=None))


def line(
    stored: StoredObject,
    encoding: str | None,
    contents: Sequence[Member],
    teller: str | None = None,
    seal: Seal | None = None,
    needs: Sequence[tuple[str, str, int]] = (),
) -> bytes:
    """One object's line, with its newline; what is another host's word (`teller`) is not sealed."""
    entry = IndexLine(
        key=stored.key,
        version=stored.version or "",
        size=stored.size,
        mode=stored.lock.mode.value,
        until=int(stored.lock.until.timestamp()),
        encoding=encoding,
        contents=[(c.sha.hex(), *(c.span or _WHOLE), c.size) for c in contents],
        needs=[*needs],
        teller=teller,
    )
    if seal is not None and teller is None:
        entry.seal = seal.of(_bare(entry))
    return msgspec.json.encode(entry) + b"\n"


def possible_host(host: str) -> bool:
    """Whether a host can have that name."""
    return _HOST.fullmatch(host) is not None


class IndexReader:
    """
    Takes an index apart: feed pieces of any size, then `finish`. `FormatError` where it is damaged.

    Lines under `seal` are told from others.
    """

    def __init__(self, seal: Seal | None = None) -> None:
        self._seal = seal
        self._inflater = gzipping.Inflater()
        self._rest = bytearray()
        self._begun = False
        self._packed = 0
        self._unpacked = 0

    def feed(self, packed: bytes) -> Iterator[Indexed]:
        """Yield the objects that `packed` completes."""
        self._packed += len(packed)
        for piece in self._inflater.feed(packed):
            self._unpacked += len(piece)
            if self._unpacked > _FREE + _RATIO * self._packed:
                raise FormatError("an index unpacks to more than any that holds hashes")
            self._rest += piece
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            if max(map(len, (*lines, rest))) > LINE_LIMIT:
                raise FormatError("an index holds a line longer than any object's can be")
            for text in lines:
                entry = _decoded(text)
                if self._begun is isinstance(entry, IndexHeader):
                    raise FormatError("an index does not begin with its one header")
                if isinstance(entry, IndexHeader):
                    self._begun = True
                    if entry.format != FORMAT:
                        raise FormatError(f"an index has format {entry.format}, this sysbackup reads {FORMAT}")
                else:
                    sealed = self._seal is not None and entry.teller is None and self._seal.fits(entry)
                    yield _checked(entry, sealed=sealed)

    def finish(self) -> None:
        """`FormatError` where the stream was cut short."""
        self._inflater.close()
        if self._rest or not self._begun:
            raise FormatError("an index ends in the middle")


def _decoded(text: bytes) -> IndexHeader | IndexLine:
    try:
        return _decoder.decode(text)
    except UNREADABLE as exc:
        raise FormatError(f"an index holds a line that is none ({exc}): {text[:120]!r}") from exc


def _checked(entry: IndexLine, *, sealed: bool) -> Indexed:
    try:
        mode = LockMode(entry.mode)
        until = datetime.fromtimestamp(entry.until, UTC)
        contents = tuple(
            Member(bytes.fromhex(sha), size, None if (offset, length) == _WHOLE else Span(offset, length))
            for sha, offset, length, size in entry.contents
        )
    except (ValueError, OverflowError, OSError) as exc:
        raise FormatError(f"an index holds an object that cannot be: {entry.key[:200]!r}: {exc}") from exc
    alone = keys.content_sha(entry.key)
    if alone is not None:
        possible = [(c.sha, c.span) for c in contents] == [(alone, None)]
    else:
        possible = (
            entry.encoding == pack.ENCODING.name
            and keys.is_pack(entry.key)
            and all(
                len(c.sha) == 32
                and c.span is not None
                and c.span.offset >= 0
                and c.span.length >= 18
                and c.span.end <= entry.size
                for c in contents
            )
        )
    listed = entry.encoding == chunk_list.NAME and alone is not None
    possible = possible and (listed or (encodings.is_known(entry.encoding) and not entry.needs)) and until < _FURTHEST
    possible = possible and _VERSION.fullmatch(entry.version) is not None
    possible = possible and (entry.teller is None or possible_host(entry.teller))
    if not possible or not 0 <= entry.size <= _LARGEST or any(not -1 <= c.size <= _LARGEST for c in contents):
        raise FormatError(f"an index names what cannot be: {entry.key[:200]!r}")
    stored = StoredObject(entry.key, entry.version or None, entry.size, Lock(mode, until))
    return Indexed(stored, entry.encoding, contents, entry.teller, sealed, tuple(entry.needs))
