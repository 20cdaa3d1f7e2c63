"""What the manifest says of one thing in the file system: owner, permissions, times, attributes."""

import base64
import errno
import os
import stat
from typing import Any

from sysbackup.files import acl
from sysbackup.files.folders import Place
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest
from sysbackup.model import Problem

# listxattr(2), getxattr(2): no such support, gone meanwhile, or not for us (trusted.*). Nothing is amiss then.
_ABSENT = {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ELOOP}

# What one manifest entry takes of extended attributes. Some file systems let anybody give a file any amount of them,
# and a line too long to read would be the loss of the whole manifest.
_XATTRS_AT_MOST = 1 << 20

_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


def node(
    place: Place, status: os.stat_result, owners: Owners, shortfalls: list[Problem], fd: int | None = None
) -> manifest.FileNode:
    """
    The entry of what lies at `place`; a file's is yet without size and content.

    Extended attributes are read through `fd` where the file is open, else
    through the directory, never following a link. Those that cannot be read or
    are too many are left out, which `shortfalls` is told.
    """
    common = manifest.named(place.path) | _attributes(place, status, owners, shortfalls, fd)
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


def _attributes(
    place: Place, status: os.stat_result, owners: Owners, shortfalls: list[Problem], fd: int | None
) -> dict[str, Any]:
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
    xattrs = _xattrs(place, shortfalls, fd)
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


def _xattrs(place: Place, shortfalls: list[Problem], fd: int | None) -> dict[str, bytes]:
    target: int | bytes = fd if fd is not None else place.folder.magic + (place.name or b".")
    follow = fd is not None
    found: dict[str, bytes] = {}
    size = 0
    try:
        # sorted: the ACLs (`system.`) come before what users may add (`user.`)
        for name in sorted(os.listxattr(target, follow_symlinks=follow)):
            try:
                value = os.getxattr(target, name, follow_symlinks=follow)
            except OSError as exc:
                if exc.errno in _ABSENT:
                    continue
                raise
            size += len(name) + len(value)
            if size > _XATTRS_AT_MOST:
                reason = f"its extended attributes hold more than {_XATTRS_AT_MOST >> 20} MiB: only the first were kept"
                shortfalls.append(Problem("xattrs.left_out", place.path, reason))
                break
            if name.isprintable():
                found[name] = value
    except OSError as exc:
        if exc.errno not in _ABSENT:
            reason = f"its extended attributes could not be read: {exc.strerror}"
            shortfalls.append(Problem("xattrs.left_out", place.path, reason))
    return found
