"""What the manifest says of one thing in the file system: owner, permissions, times, attributes."""

import base64
import errno
import os
import stat
from typing import Any

from sysbackup.formats import manifest
from sysbackup.sources import acl
from sysbackup.sources.folders import Place
from sysbackup.sources.owners import Owners

# listxattr(2), getxattr(2): no such support, gone meanwhile, or not for us (trusted.*): what can be read is kept.
_UNREADABLE = {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ELOOP}

_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


def node(place: Place, status: os.stat_result, owners: Owners, fd: int | None = None) -> manifest.FileNode:
    """
    The entry of what lies at `place`; a file's is yet without size and content.

    Extended attributes are read through `fd` where the file is open, else
    through the directory, never following a link.
    """
    common = manifest.named(place.path) | attributes(place, status, owners, fd)
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


def attributes(place: Place, status: os.stat_result, owners: Owners, fd: int | None = None) -> dict[str, Any]:
    """What all entries have but the path, as keyword arguments of `manifest.Node`."""
    uid, gid, mode = status.st_uid, status.st_gid, status.st_mode
    found: dict[str, Any] = {
        "owner": owners.user(uid),
        "group": owners.group(gid),
        "uid": uid,
        "gid": gid,
        "mtime": status.st_mtime_ns,
    }
    if mode & _SPECIAL and (flags := acl.flags_text(mode)) is not None:
        found["flags"] = flags
    xattrs = _xattrs(place, fd)
    if not stat.S_ISLNK(mode):  # a link has no permissions of its own (symlink(7))
        access, default = xattrs.pop(acl.ACCESS, None), xattrs.pop(acl.DEFAULT, None)
        try:
            text = acl.access_text(mode & 0o777, access, owners)
            found["acl"] = text if default is None else f"{text},{acl.default_text(default, owners)}"
        except ValueError:
            found["mode"] = stat.S_IMODE(mode)
    if xattrs:
        found["xattrs"] = {name: base64.b64encode(value).decode() for name, value in xattrs.items()}
    return found


def _xattrs(place: Place, fd: int | None) -> dict[str, bytes]:
    target: int | bytes = fd if fd is not None else place.folder.magic + (place.name or b".")
    follow = fd is not None
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as exc:
        if exc.errno in _UNREADABLE:
            return {}
        raise
    found = {}
    for name in names:
        try:
            found[name] = os.getxattr(target, name, follow_symlinks=follow)
        except OSError as exc:
            if exc.errno not in _UNREADABLE:
                raise
    return {name: value for name, value in found.items() if name.isprintable()} if found else found
