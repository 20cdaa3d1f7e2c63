"""Who may do what with a file: permission bits, setuid, setgid, sticky, and ACLs; read, set and compared."""

import os
import re
import stat
from typing import Any

from msgspec import UNSET

from sysbackup.errors import FormatError
from sysbackup.files import acl
from sysbackup.files.owners import Owners
from sysbackup.files.shortfalls import Lack
from sysbackup.files.xattrs import value_of
from sysbackup.formats.manifest import Directory, Node
from sysbackup.model import brief

_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

_BAD_RIGHTS = "ACLs could not be set, the manifest's are damaged: only the owner was given access"
_NO_SETUID = "setuid and setgid were left off, because the owner they stand for could not be set"
_NO_ACL = "ACLs could not be set, permission bits were set instead: {}"
_NO_DEFAULT = "default ACLs could not be set: {}"
_UNKNOWN = "ACL entries were left out: this machine has no {}"


def read(mode: int, xattrs: dict[str, bytes], owners: Owners) -> dict[str, Any]:
    """
    An entry's `acl` or `mode`, and `flags`, from a thing's mode and its attributes; the ACLs are taken out of `xattrs`.

    A symbolic link has no permissions of its own (symlink(7)).
    """
    found: dict[str, Any] = {}
    if mode & _SPECIAL:
        found["flags"] = flags_text(mode)
    if stat.S_ISLNK(mode):
        return found
    access, default = xattrs.pop(acl.ACCESS, None), xattrs.pop(acl.DEFAULT, None)
    try:
        text = acl.access_text(mode & 0o777, access, owners)
        found["acl"] = text if default is None else f"{text},{acl.default_text(default, owners)}"
    except ValueError:
        found["mode"] = stat.S_IMODE(mode)
    return found


def apply(made: int | bytes, node: Node, owners: Owners, path: bytes, lack: Lack, *, owned: bool) -> None:
    """
    Set an entry's permissions on an open file, or what a `proc_path` leads to.

    Setuid and setgid only where it is `owned` by whom they stand for. `OSError`
    where not even permission bits can be set.
    """
    try:
        flags = _flags(node)
        wanted = None if node.acl is UNSET else acl.parse(node.acl, owners)
    except FormatError:
        lack(_BAD_RIGHTS, path)
        os.chmod(made, _closed(node))
        return
    if flags & (stat.S_ISUID | stat.S_ISGID) and not owned:
        flags &= stat.S_ISVTX
        lack(_NO_SETUID, path)
    if wanted is None:
        mode = _closed(node) if node.mode is UNSET else node.mode & 0o777
    elif wanted.access is None and wanted.default is None and not wanted.unknown:
        mode = wanted.mode
    else:
        mode = _set_acls(made, wanted, path, lack)
    os.chmod(made, flags | mode)


def plain_bits(node: Node, owners: Owners) -> int | None:
    """The permission bits that are all there is to an entry's permissions; None where there is more."""
    if node.flags is not UNSET:
        return None
    if node.acl is UNSET:
        return None if node.mode is UNSET else node.mode & 0o777
    wanted = _parsed(node, owners)
    if wanted is None or wanted.access is not None or wanted.default is not None or wanted.unknown:
        return None
    return wanted.mode


def equal(made: bytes, status: os.stat_result, node: Node, owners: Owners) -> bool:
    """Whether a thing of that status has all of an entry's permissions, and no ACL beside them."""
    try:
        flags = _flags(node)
    except FormatError:
        return False
    wanted = _parsed(node, owners)
    if wanted is None:
        mode = _closed(node) if node.mode is UNSET or node.acl is not UNSET else node.mode & 0o777
        return value_of(made, acl.ACCESS) is None and stat.S_IMODE(status.st_mode) == flags | mode
    return (
        not wanted.unknown
        and value_of(made, acl.ACCESS) == wanted.access
        and stat.S_IMODE(status.st_mode) == flags | wanted.mode
    )


def remove_unknown_acl(made: bytes, node: Node, owners: Owners) -> None:
    """Take away the access ACL of what was there before, where the entry has none; after `apply`."""
    wanted = _parsed(node, owners)
    if wanted is not None and wanted.access is None:
        # chmod(2) has set the mask: the bits that stay are the right ones
        acl.remove(made, acl.ACCESS)


def flags_text(mode: int) -> str | None:
    """Setuid, setgid and sticky as getfacl's `flags:` line has them, `s-t`; None where none is set."""
    if not mode & _SPECIAL:
        return None
    return f"{'s' if mode & 0o4000 else '-'}{'s' if mode & 0o2000 else '-'}{'t' if mode & 0o1000 else '-'}"


def flags_bits(text: str) -> int:
    """The mode bits (0o7000) of a `flags_text`. `FormatError` where it is none."""
    if not re.fullmatch("[s-][s-][t-]", text):
        raise FormatError(f"{text[:20]!r} are no flags: they look like 's-t'")
    return (text[0] == "s") << 11 | (text[1] == "s") << 10 | (text[2] == "t") << 9


def _set_acls(made: int | bytes, wanted: acl.Acl, path: bytes, lack: Lack) -> int:
    """Set both ACLs; returns the permission bits that go with what could be set."""
    mode = wanted.mode
    for name in wanted.unknown:
        lack(_UNKNOWN.format(brief(name, 80)), path)
    if wanted.access is not None:
        try:
            os.setxattr(made, acl.ACCESS, wanted.access)
        except OSError as exc:
            lack(_NO_ACL.format(exc.strerror), path)
            mode = wanted.bare
    if wanted.default is not None:
        try:
            os.setxattr(made, acl.DEFAULT, wanted.default)
        except OSError as exc:
            lack(_NO_DEFAULT.format(exc.strerror), path)
    return mode


def _flags(node: Node) -> int:
    return 0 if node.flags is UNSET else flags_bits(node.flags)


def _parsed(node: Node, owners: Owners) -> acl.Acl | None:
    try:
        return None if node.acl is UNSET else acl.parse(node.acl, owners)
    except FormatError:
        return None


def _closed(node: Node) -> int:
    """The permission bits of a node whose own are not known: nobody gets a right that nobody named."""
    return 0o700 if isinstance(node, Directory) else 0o600
