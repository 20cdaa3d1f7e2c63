"""
Entries of the manifest, as examiners set them down until it is written.

An entry is encoded once, where it is made. What is still to be known of it then
(which look it comes from, what content it wants the place of) stands before its line.
"""

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from sysbackup.disk.sorting import Record
from sysbackup.files import permissions
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest
from sysbackup.model import Location

# the type, whether it was not opened, whether a place is wanted; the look's number, the size, the content's hash,
# and how many bytes at the end of the line tell the place already
_HEAD = struct.Struct("<c??QQ32sI")
_NO_HASH = bytes(32)

_KEPT = 10_000  # owners with their permissions, and objects, that are kept encoded

_encode = msgspec.json.Encoder().encode


class Noted(NamedTuple):
    """
    What stands before an entry's line.

    `stored`: it is of a file whose content lies in the bucket, where its line is to say;
    so many bytes of it, `told`, said so when the file was looked at (before its last brace).
    """

    kind: bytes
    unchanged: bool
    stored: bool
    number: int
    size: int
    sha: bytes
    told: int


def spooled(path: bytes, entry: manifest.FileNode, number: int, *, unchanged: bool = False) -> Record:
    """What is set down of look `number` at a path; `unchanged` files were not opened."""
    kind = str(entry.__struct_config__.tag).encode()
    size, sha, stored = 0, _NO_HASH, False
    if isinstance(entry, manifest.File):
        size, stored = entry.size, entry.size > 0 and entry.key is UNSET
        sha = bytes.fromhex(entry.sha)
    return path, _HEAD.pack(kind, unchanged, stored, number, size, sha, 0) + manifest.encode(entry)


class Places:
    """Encodes where contents lie, as the lines of their files end; nothing of an object is encoded twice."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str | None, str | None], tuple[bytes, bytes]] = {}

    def told(self, at: Location) -> bytes:
        """What stands before the last brace of a line then, as `manifest.File` has it."""
        key, version, span, encoding = at
        begin, end = self._objects.get((key, version, encoding)) or self._found(key, version, encoding)
        return begin + end if span is None else b'%b,"off":%d,"len":%d%b' % (begin, *span, end)

    def _found(self, *named: *tuple[str, str | None, str | None]) -> tuple[bytes, bytes]:
        if len(self._objects) >= _KEPT:
            self._objects.clear()
        key, version, encoding = (b"" if word is None else _encode(word) for word in named)
        begin = b',"dat":' + key + (version and b',"ver":' + version)
        found = self._objects[named] = begin, encoding and b',"enc":' + encoding
        return found


class PlainFiles:
    """
    Encodes what most files are: regular, with one name that is UTF-8, and nothing but owner and permission bits;
    directories like that, too.

    Nothing of it is looked up or encoded twice that many files have in common.
    """

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._places = Places()
        self._common: dict[tuple[int, int, int], bytes] = {}

    def spooled(
        self,
        path: bytes,
        status: os.stat_result,
        sha: bytes,
        number: int,
        unchanged: bool = False,  # by place: it is asked for every file
        at: Location | None = None,
    ) -> Record | None:
        """
        The same as the function gives for its `manifest.File`; None where that is to be made.

        Its line says that the content lies `at` a place, where that is known.
        """
        words = self._words(path, status)
        if words is None or status.st_nlink > 1:
            return None
        name, common, mtime = words
        size = status.st_size
        sized = b',"sz":%d' % size if size else b""
        told = b"" if at is None or not size else self._places.told(at)
        head = _HEAD.pack(b"f", unchanged, size > 0, number, size, sha, len(told))
        return path, b'%b{"typ":"f"%b,"sha":"%b","path":%b%b,"mt":%d%b}' % (
            *(head, sized, sha.hex().encode(), name, common),
            *(mtime, told),
        )

    def directory(self, path: bytes, status: os.stat_result, number: int) -> Record | None:
        """The same of a directory: its `manifest.Directory`, or None."""
        words = self._words(path, status)
        if words is None:
            return None
        name, common, mtime = words
        head = _HEAD.pack(b"d", False, False, number, 0, _NO_HASH, 0)
        return path, b'%b{"typ":"d","path":%b%b,"mt":%d}' % (head, name, common, mtime)

    def _words(self, path: bytes, status: os.stat_result) -> tuple[bytes, bytes, int] | None:
        """Its name, its owner and rights, both encoded, and its time; None where one of them is unusual."""
        mtime = status.st_mtime_ns
        if mtime == -1:  # as good as none
            return None
        try:
            name = _encode(path.decode())
        except UnicodeDecodeError:
            return None
        named = (status.st_mode, status.st_uid, status.st_gid)
        return name, self._common.get(named) or self._found(named, status), mtime

    def _found(self, named: tuple[int, int, int], status: os.stat_result) -> bytes:
        if len(self._common) >= _KEPT:
            self._common.clear()
        mode = status.st_mode
        kind, tag = (manifest.Directory, b"d") if stat.S_ISDIR(mode) else (manifest.File, b"f")
        some = kind(path="", **self._owners.read(status), **permissions.read(mode, {}, self._owners))
        begin = b'{"typ":"%b","path":""' % tag
        common = self._common[named] = manifest.encode(some).removeprefix(begin).removesuffix(b"}")
        return common


def noted(value: bytes) -> Noted:
    """What stands before the line of a record's value."""
    return Noted._make(_HEAD.unpack_from(value))


def heads(values: Iterable[bytes]) -> list[tuple[bytes, bool, bool, int, int, bytes, int]]:
    """The same of many, for whom a name for each number costs too much: the fields of `Noted`."""
    unpack = _HEAD.unpack_from
    return [unpack(value) for value in values]


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
