"""
Members of a manifest: stretches of its lines, each a gzip file by itself.

Where entries are cut, their paths say. So what two runs have in common is, but
for the member in which something changed, cut the same way and packed to equal
bytes. Cutting needs nothing but the entries: several processes may do it for a
range of paths each, and the manifest is their members in a row (`manifest_writing`).
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zlib import crc32

from sysbackup.formats import gzipping

# A line holds one file. What we write into it is bounded: 1 MiB of extended attributes (`files.xattrs`), which base64
# and escapes make 3 at the most; two ACLs of 64 KiB (acl(5)), 8,191 entries each with names of up to 256 bytes; a path
# of 64 KiB (`programs.picker_output`), whose control characters take six bytes each.
LINE_LIMIT = 8 << 20

MEMBER_LIMIT = LINE_LIMIT + 1
"""Bytes in one member, unpacked, at the most: those of one line. Where there are more lines, `TEXT` of them."""

TEXT = 1 << 20

ENTRIES, SNAPSHOTS, LOG = "", "s", "log"
"""What a member is of, in the order in which a manifest has them; none is of two."""

LINES = 1024
"""Lines in one member at the most."""

_FEWEST = 64
# One path in so many begins a member, if that is not too short: with the least and the most some 310 lines on average.
# A prime, for the checksums of names that are counted up differ in few bits.
_ONE_IN = 257


@dataclass(frozen=True, slots=True)
class ManifestMember:
    """
    Some lines, packed: `sha` is the SHA-256 of `packed`.

    `first` is the path of its first line; of what is not of `ENTRIES` it is empty.
    """

    first: bytes
    packed: bytes
    sha: bytes
    lines: int
    of: str = ENTRIES


def begins(path: bytes) -> bool:
    """Whether a member may begin with that path: a range of paths that is cut by itself had best do so, too."""
    return crc32(path) % _ONE_IN == 0


def members(lines: Iterable[tuple[bytes, bytes]]) -> Iterator[ManifestMember]:
    """The members of encoded entries with their paths; sorted by these, no path twice."""
    first = b""
    held: list[bytes] = []
    size = number = 0
    for path, line in lines:
        size += len(line) + 1
        # written out, for it is asked of every entry of a run
        if (number >= _FEWEST and (crc32(path) % _ONE_IN == 0 or number >= LINES)) or (size > TEXT and number):
            yield _packed(first, held)
            held.clear()
            size, number = len(line) + 1, 0
        if not number:
            first = path
        held.append(line)
        number += 1
    if held:
        yield _packed(first, held)


def further(lines: Iterable[bytes], of: str) -> Iterator[ManifestMember]:
    """The members of encoded snapshots, or of the log."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if held and (len(held) >= LINES or size > TEXT):
            yield _packed(b"", held, of)
            held.clear()
            size = len(line) + 1
        held.append(line)
    if held:
        yield _packed(b"", held, of)


def _packed(first: bytes, lines: list[bytes], of: str = ENTRIES) -> ManifestMember:
    packed = gzipping.compress(b"\n".join(lines) + b"\n")
    return ManifestMember(first, packed, hashlib.sha256(packed).digest(), len(lines), of)
