"""What the manifest says of one thing in the file system: owner, permissions, times, attributes."""

import os
import stat
from typing import Any

from sysbackup.files import permissions, times, xattrs
from sysbackup.files.folders import Place
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest
from sysbackup.model import Problem


def node(
    place: Place, status: os.stat_result, owners: Owners, shortfalls: list[Problem], fd: int | None = None
) -> manifest.FileNode:
    """
    The entry of what lies at `place`; a file's is yet without size and content.

    Extended attributes are read through `fd` where the file is open, else
    through the directory, never following a link. Those that cannot be read or
    are too many are left out, which `shortfalls` is told.
    """
    path = place.path
    common = manifest.named(path) | _attributes(place, path, status, owners, shortfalls, fd)
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return manifest.File(**common)
    if stat.S_ISDIR(mode):
        return manifest.Directory(**common)
    if stat.S_ISLNK(mode):
        text, exact = manifest.lossy(os.readlink(place.name, dir_fd=place.folder.fd))
        if exact is not None:
            common["targetb"] = exact
        return manifest.Link(target=text, **common)
    if stat.S_ISFIFO(mode):
        return manifest.Fifo(**common)
    kind = manifest.CharDevice if stat.S_ISCHR(mode) else manifest.BlockDevice
    return kind(major=os.major(status.st_rdev), minor=os.minor(status.st_rdev), **common)


def bare(
    path: bytes, status: os.stat_result, owners: Owners, kind: type[manifest.FileNode] = manifest.File
) -> manifest.FileNode:
    """The entry of a regular file, or a directory, that has no extended attributes."""
    found = owners.read(status) | permissions.read(status.st_mode, {}, owners) | {"mtime": times.read(status)}
    return kind(**manifest.named(path), **found)


def _attributes(
    place: Place, path: bytes, status: os.stat_result, owners: Owners, shortfalls: list[Problem], fd: int | None
) -> dict[str, Any]:
    """What all entries have but the path, as keyword arguments of `manifest.Node`; `applying` is the way back."""
    target: int | bytes = fd if fd is not None else place.folder.through_proc + (place.name or b".")
    values = xattrs.read(target, follow=fd is not None, path=path, shortfalls=shortfalls)
    found: dict[str, Any] = owners.read(status)
    found.update(permissions.read(status.st_mode, values, owners))
    found["mtime"] = times.read(status)
    if values:
        found["xattrs"] = xattrs.encoded(values)
    return found
