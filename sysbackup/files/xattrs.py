"""Extended attributes: read, set and compared; the ACLs among them have a field of their own (`permissions`)."""

import base64
import errno
import os

from sysbackup.files.shortfalls import Lack
from sysbackup.model import Problem

# listxattr(2), getxattr(2): no such support, gone meanwhile, or not for us (trusted.*). Nothing is amiss then.
_ABSENT = {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ELOOP}

# What one manifest entry takes of extended attributes. Some file systems let anybody give a file any amount of them,
# and a line too long to read would be the loss of the whole manifest.
_AT_MOST = 1 << 20

_SPACES = {"user", "trusted", "security"}  # xattr(7)
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}

_NO_XATTR = "extended attributes {} could not be set: {}"


def read(target: int | bytes, *, follow: bool, path: bytes, shortfalls: list[Problem]) -> dict[str, bytes]:
    """
    All that an open file has, or the thing at a path, whose last component is not followed unless `follow` says so.

    What cannot be read or is too much is left out, which `shortfalls` is told of `path`.
    """
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
            if size > _AT_MOST:
                reason = f"its extended attributes hold more than {_AT_MOST >> 20} MiB: only the first were kept"
                shortfalls.append(Problem("xattrs.left_out", path, reason))
                break
            if name.isprintable():
                found[name] = value
    except OSError as exc:
        if exc.errno not in _ABSENT:
            reason = f"its extended attributes could not be read: {exc.strerror}"
            shortfalls.append(Problem("xattrs.left_out", path, reason))
    return found


def none(target: int | bytes, *, follow: bool) -> bool:
    """Whether `read` would surely find nothing, and tell of nothing."""
    try:
        return not os.listxattr(target, follow_symlinks=follow)
    except OSError:
        return False


def encoded(values: dict[str, bytes]) -> dict[str, str]:
    """The attributes as an entry has them."""
    return {name: base64.b64encode(value).decode() for name, value in values.items()}


def apply(made: int | bytes, xattrs: dict[str, str], path: bytes, lack: Lack) -> None:
    """Set an entry's attributes on an open file, or what a `proc_path` leads to."""
    for name, value in xattrs.items():
        space = name.partition(".")[0]
        if space == "system":  # ACLs have their own field; the rest is the kernel's
            continue
        kind = f"{space}.*" if space in _SPACES else "of unknown kind"
        try:
            os.setxattr(made, name, base64.b64decode(value, validate=True))
        except OSError as exc:
            reason = "not supported here" if exc.errno in _UNSUPPORTED else exc.strerror
            lack(_NO_XATTR.format(kind, reason), path)
        except ValueError:
            lack(_NO_XATTR.format(kind, "the manifest's value is damaged"), path)


def equal(made: bytes, xattrs: dict[str, str]) -> bool:
    """Whether a thing has an entry's attributes, but for those that `apply` passes over."""
    for name, value in xattrs.items():
        if name.partition(".")[0] == "system":
            continue
        try:
            if value_of(made, name) != base64.b64decode(value, validate=True):
                return False
        except ValueError:
            return False
    return True


def value_of(made: bytes, name: str) -> bytes | None:
    """One attribute; None where there is none, or it cannot be read."""
    try:
        return os.getxattr(made, name)
    except OSError:
        return None
