"""
Encodings: what can stand in an object for the bytes of a content.

A registry, one entry each. An encoding's name is what metadata, index, catalog
and manifest say of a content's bytes; None is the content itself. A new one is
written here, and nowhere else asks which there are. (Packs, manifests and
indexes are gzip by their own formats, so that `zcat` reads them.)
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping

# Contents are judged by so many samples of so many bytes.
_SAMPLES = 4
_SAMPLE = 64 << 10

Name = str | None
"""What an encoding is called where it is written down; None: the content itself."""


class Decoder(Protocol):
    """Makes a content of stored bytes, piece by piece, in pieces of bounded size. Both raise `FormatError`."""

    def feed(self, data: bytes, /) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Encoding(Protocol):
    """One way to write the bytes of a content."""

    name: Name

    def encode(self, content: bytes | bytearray) -> bytes | bytearray:
        """The bytes to store for a whole content."""
        ...

    def decode(self, encoded: bytes | memoryview, size: int) -> bytes:
        """
        The content of `size` bytes, or what looks like it: its hash is for the caller to compare.

        `FormatError` where it cannot be that. Never makes more than `size` + 1 bytes.
        """
        ...

    def decoder(self, *, alone: bool = False) -> Decoder:
        """The same, piece by piece; `alone`: in the one form in which contents are written."""
        ...


class _Plain:
    """The content itself."""

    name: Name = None

    def encode(self, content: bytes | bytearray) -> bytes | bytearray:
        return content

    def decode(self, encoded: bytes | memoryview, size: int) -> bytes:
        return bytes(encoded[: size + 1])

    def decoder(self, *, alone: bool = False) -> Decoder:  # noqa: ARG002  # it has one form
        return _Through()


class _Through:
    """Bytes as they are."""

    def feed(self, data: bytes, /) -> Iterator[bytes]:
        yield data

    def close(self) -> None:
        """Its end is wherever it ends."""


class _Gzip:
    """One gzip member."""

    name: Name = "gzip"

    def encode(self, content: bytes | bytearray) -> bytes | bytearray:
        return gzipping.compress(content)

    def decode(self, encoded: bytes | memoryview, size: int) -> bytes:
        return gzipping.inflate(encoded, size)

    def decoder(self, *, alone: bool = False) -> Decoder:
        return gzipping.Inflater(alone=alone)


PLAIN: Encoding = _Plain()
GZIP: Encoding = _Gzip()

ENCODINGS: Mapping[Name, Encoding] = {encoding.name: encoding for encoding in (PLAIN, GZIP)}
"""All that there are, by name."""

# What contents are encoded with where that pays.
_PREFERRED = GZIP


def is_known(name: Name) -> bool:
    """Whether a content's bytes can be called that."""
    return name in ENCODINGS


def named(name: Name) -> Encoding:
    """The encoding of that name. `FormatError` where there is none."""
    try:
        return ENCODINGS[name]
    except KeyError:
        raise FormatError(f"it is stored in an encoding that nobody here knows: {name!r}") from None


def candidates(name: Name) -> list[Encoding]:
    """
    What the bytes of an object of its own may be, the most probable first.

    What programs say of encodings is not always so (s3-sysbackup 0.2.0): the bytes decide.
    """
    first = named(name)
    return [first, *(encoding for encoding in ENCODINGS.values() if encoding is not first)]


def encode(content: bytes | bytearray) -> tuple[Encoding, bytes | bytearray]:
    """A content as it is to be stored alone: encoded where that pays."""
    encoding = _fitting(content) if len(content) > _SAMPLES * _SAMPLE else _PREFERRED
    encoded = encoding.encode(content)
    return (encoding, encoded) if gzipping.pays(len(content), len(encoded)) else (PLAIN, content)


def _fitting(content: bytes | bytearray) -> Encoding:
    """How a content is to be encoded, judged by samples from all over it: most of what is large is compressed."""
    step = (len(content) - _SAMPLE) // (_SAMPLES - 1)
    sample = b"".join([content[at : at + _SAMPLE] for at in range(0, step * _SAMPLES, step)])
    return _PREFERRED if gzipping.pays(len(sample), len(_PREFERRED.encode(sample))) else PLAIN


def largest(size: int) -> int:
    """The most bytes that a content of `size` takes where it is stored: no encoding makes it larger than that."""
    return size + size // 8 + 4096
