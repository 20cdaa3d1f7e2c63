"""Reading back: bytes from the bucket are taken for a content only when its hash says so."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress

from sysbackup.errors import FormatError
from sysbackup.formats import encodings, pack
from sysbackup.formats.encodings import Encoding
from sysbackup.model import Location

DIFFERS = "what the bucket holds is not what was backed up: the SHA-256 differs"


def encoding_at(place: Location) -> Encoding:
    """
    How the bytes at a place are encoded: in a pack as in all packs, whatever is said of it.

    `FormatError` where that is no encoding.
    """
    return encodings.named(place.encoding) if place.span is None else pack.ENCODING


def read_back(encoded: bytes | memoryview, sha: bytes, size: int, encoding: Encoding, *, alone: bool) -> bytes:
    """
    The content, proven to be what was backed up.

    Encoded as is said, or else, in an object of its own (`alone`), as the bytes are.
    `FormatError` where they are not it.
    """
    try:
        return _decoded(encoded, sha, size, encoding)
    except FormatError:
        for other in encodings.candidates(encoding.name)[1:] if alone else ():
            with suppress(FormatError):
                return _decoded(encoded, sha, size, other)
        raise


def _decoded(encoded: bytes | memoryview, sha: bytes, size: int, encoding: Encoding) -> bytes:
    content = encoding.decode(encoded, size)
    if len(content) != size or hashlib.sha256(content).digest() != sha:
        raise FormatError(DIFFERS)
    return content


class ReadingBack:
    """The same for a content too large to be held: it goes by in pieces, and `finish` says whether it was right."""

    def __init__(self, sha: bytes, size: int, encoding: Encoding) -> None:
        self._sha = sha
        self._left = self._size = size
        self._decoder = encoding.decoder()
        self._hash = hashlib.sha256()

    def feed(self, encoded: bytes) -> Iterator[bytes]:
        """What the next bytes add to the content. `FormatError` where it cannot be that content."""
        for piece in self._decoder.feed(encoded):
            self._left -= len(piece)
            if self._left < 0:
                raise FormatError(f"the bucket holds more than the {self._size} bytes backed up")
            self._hash.update(piece)
            yield piece

    def finish(self) -> None:
        """There are no more bytes. `FormatError` where what went by is not that content."""
        self._decoder.close()
        if self._left or self._hash.digest() != self._sha:
            raise FormatError(DIFFERS)
