"""
What a plan keeps of a file's entry: what it is called, and what it is given beside its content.

Where the content lies is the plan's order, and need not be said for each file; and of whom
may do what with them most files say the same.
"""

import msgspec
from msgspec import UNSET, Struct

from sysbackup.formats import manifest
from sysbackup.formats.manifest import File

_KINDS = 1024  # of owners and permissions that are remembered; a machine has a few dozens
_LONGEST = 256  # characters of each of their names and ACLs

_NUMBERS = range(-(1 << 63), 1 << 63)  # what a message takes for a number


class PlannedFile(Struct, array_like=True):
    """
    One name of a file.

    `rights` is an encoded entry of nothing but owner and permissions, equal for all that
    have the same. `mtime` is None where it cannot be a file's: then `rights` has it.
    """

    path: bytes
    mtime: int | None
    rights: bytes
    xattrs: dict[str, str] | None = None

    def entry(self) -> File:
        """Its entry as it was, but for its name and its content."""
        entry = entry_of(self.rights)
        if self.mtime is not None:
            entry.mtime = self.mtime
        if self.xattrs is not None:
            entry.xattrs = self.xattrs
        return entry


_encoder = msgspec.msgpack.Encoder()
planned = msgspec.msgpack.Decoder(PlannedFile).decode
"""The file that a plan has set down as these bytes."""


class Encoding:
    """Encodes files for a plan, those of one kind quickly."""

    def __init__(self) -> None:
        self._rights: dict[tuple[object, ...], bytes] = {}

    def encoded(self, entry: File, path: bytes) -> bytes:
        """What is to be kept of an entry, whose path this is."""
        key = (entry.owner, entry.group, entry.uid, entry.gid, entry.acl, entry.mode, entry.flags)
        rights = self._rights.get(key)
        if rights is None:
            rights = self._learn(key)
        mtime: int | None = entry.mtime
        if entry.mtime not in _NUMBERS:
            rights, mtime = manifest.encode(_bare(key, entry.mtime)), None
        if entry.xattrs is UNSET:
            return _encoder.encode((path, mtime, rights))
        return _encoder.encode((path, mtime, rights, entry.xattrs))

    def _learn(self, key: tuple[object, ...]) -> bytes:
        rights = manifest.encode(_bare(key))
        if all(len(part) <= _LONGEST for part in key if isinstance(part, str)):
            if len(self._rights) >= _KINDS:
                self._rights.clear()
            self._rights[key] = rights
        return rights


def entry_of(rights: bytes) -> File:
    """An entry of nothing but owner and permissions."""
    entry = manifest.decode(rights)
    if not isinstance(entry, File):
        raise TypeError(entry)
    return entry


def _bare(key: tuple[object, ...], mtime: int = -1) -> File:
    names = ("owner", "group", "uid", "gid", "acl", "mode", "flags")
    return msgspec.structs.replace(File(path="", mtime=mtime), **dict(zip(names, key, strict=True)))
