"""
Entries of the manifest, as examiners set them down until it is written.

An entry is encoded once, where it is made. What is still to be known of it then
(which look it comes from, what content it wants the place of) stands before its line.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from sysbackup.disk.sorting import Record
from sysbackup.files import permissions
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest

# the type, whether it was not opened, whether a place is wanted; the look's number, the size, the content's hash
_HEAD = struct.Struct("<c??QQ32s")
_NO_HASH = bytes(32)

_KEPT = 10_000  # owners with their permissions that are kept encoded

_encode = msgspec.json.Encoder().encode


class Noted(NamedTuple):
    """What stands before an entry's line."""

    kind: bytes
    unchanged: bool
    placeless: bool
    number: int
    size: int
    sha: bytes


def spooled(path: bytes, entry: manifest.FileNode, number: int, *, unchanged: bool = False) -> Record:
    """What is set down of look `number` at a path; `unchanged` files were not opened."""
    kind = str(entry.__struct_config__.tag).encode()
    size, sha, placeless = 0, _NO_HASH, False
    if isinstance(entry, manifest.File):
        size, placeless = entry.size, entry.size > 0 and entry.key is UNSET
        sha = bytes.fromhex(entry.sha)
    return path, _HEAD.pack(kind, unchanged, placeless, number, size, sha) + manifest.encode(entry)


class PlainFiles:
    """
    Encodes what most files are: regular, with one name that is UTF-8, and nothing but owner and permission bits.

    Nothing of it is looked up or encoded twice that many files have in common.
    """

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._common: dict[tuple[int, int, int], bytes] = {}

    def spooled(
        self, path: bytes, status: os.stat_result, sha: bytes, number: int, *, unchanged: bool = False
    ) -> Record | None:
        """The same as the function gives for its `manifest.File`; None where that is to be made."""
        size, mtime = status.st_size, status.st_mtime_ns
        if mtime == -1 or status.st_nlink > 1:  # -1: as good as none
            return None
        try:
            name = _encode(path.decode())
        except UnicodeDecodeError:
            return None
        named = (status.st_mode, status.st_uid, status.st_gid)
        common = self._common.get(named) or self._found(named, status)
        sized = b',"sz":%d' % size if size else b""
        line = b'{"typ":"f"%b,"sha":"%b","path":%b%b,"mt":%d}' % (sized, sha.hex().encode(), name, common, mtime)
        return path, _HEAD.pack(b"f", unchanged, size > 0, number, size, sha) + line

    def _found(self, named: tuple[int, int, int], status: os.stat_result) -> bytes:
        if len(self._common) >= _KEPT:
            self._common.clear()
        some = manifest.File(path="", **self._owners.read(status), **permissions.read(status.st_mode, {}, self._owners))
        common = self._common[named] = manifest.encode(some).removeprefix(b'{"typ":"f","path":""').removesuffix(b"}")
        return common


def noted(value: bytes) -> Noted:
    """What stands before the line of a record's value."""
    return Noted._make(_HEAD.unpack_from(value))


def line_in(value: bytes) -> bytes:
    """The line itself."""
    return value[_HEAD.size :]


def latest(records: Iterable[Record]) -> Iterator[Record]:
    """Of sorted records with one path the one of the latest look."""
    held: Record | None = None
    for record in records:
        if held is None or held[0] != record[0]:
            if held is not None:
                yield held
            held = record
        elif noted(held[1]).number <= noted(record[1]).number:
            held = record
    if held is not None:
        yield held
