"""What a restored thing has besides its contents: owner, ACL or mode, extended attributes, time."""

import base64
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from msgspec import UNSET

from sysbackup.errors import FormatError
from sysbackup.files import acl
from sysbackup.files.owners import Owners
from sysbackup.formats.manifest import Directory, Link, Node
from sysbackup.model import brief

_NO_ID = 0xFFFFFFFF  # chown(2): 'leave as it is'

_NO_OWNER = "owners and groups could not be set: only root may give files away"
_REFUSED_OWNER = "owners and groups could not be set: {}"
_BAD_OWNER = "owners and groups could not be set: the manifest has numbers that nobody can have"
_BAD_RIGHTS = "ACLs could not be set, the manifest's are damaged: only the owner was given access"
_NO_SETUID = "setuid and setgid were left off, because the owner they stand for could not be set"
_NO_ACL = "ACLs could not be set, permission bits were set instead: {}"
_NO_DEFAULT = "default ACLs could not be set: {}"
_UNKNOWN = "ACL entries were left out: this machine has no {}"
_NO_XATTR = "extended attributes {} could not be set: {}"
_NO_TIME = "modification times could not be set: {}"

_SPACES = {"user", "trusted", "security"}  # xattr(7)
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}


class Dresser:
    """
    Gives what was restored its owner, rights, attributes and time.

    For one thread; `lack` is told what could not be given, a sentence that holds for
    many, and to which path. `owners` may be shared.
    """

    def __init__(self, owners: Owners, lack: Callable[[str, bytes], None]) -> None:
        self._owners = owners
        self._lack = lack
        self._root = os.geteuid() == 0
        self._uids = {-1, os.geteuid()}
        self._gids = {-1, os.getegid(), *os.getgroups()}

    def dress(self, made: int | bytes, node: Node, path: bytes) -> None:
        """
        Set all that `node` says on `made`: an open file, or the `proc_path` of anything.

        In the one order that works: chown(2) clears setuid and security.capability,
        every other change moves the time. `OSError` where not even permission
        bits can be set; for all else a shortfall is counted.
        """
        owned = self._own(made, node, path)
        self._allow(made, node, path, owned)
        if node.xattrs is not UNSET:
            self._attribute(made, node.xattrs, path)
        self._date(made, node, path)

    def redress(self, made: bytes, node: Node, path: bytes) -> None:
        """Like `dress`, for what was there before: an ACL that the backup does not know goes, too."""
        self.dress(made, node, path)
        wanted = self._acl(node)
        if wanted is not None and wanted.access is None:
            # after chmod(2), which has set the mask: the bits that stay are the right ones
            with suppress(OSError):
                os.removexattr(made, acl.ACCESS)

    def wears(self, made: bytes, status: os.stat_result, node: Node, path: bytes) -> bool:
        """Whether what was there before, of that status, has all of it, but for an owner nobody here can set."""
        uid, gid = self._ids(node)
        if status.st_mtime_ns != node.mtime:
            return False
        if not self._root and not (uid in self._uids and gid in self._gids):
            self._lack(_NO_OWNER, path)
        elif uid not in (-1, status.st_uid) or gid not in (-1, status.st_gid):
            return False
        if node.xattrs is not UNSET and not _has(made, node.xattrs):
            return False
        return isinstance(node, Link) or self._allows(made, status, node)

    def _allows(self, made: bytes, status: os.stat_result, node: Node) -> bool:
        try:
            flags = 0 if node.flags is UNSET else acl.flags_bits(node.flags)
        except FormatError:
            return False
        wanted = self._acl(node)
        if wanted is None:
            mode = _closed(node) if node.mode is UNSET or node.acl is not UNSET else node.mode & 0o777
            return _attribute(made, acl.ACCESS) is None and stat.S_IMODE(status.st_mode) == flags | mode
        return (
            not wanted.unknown
            and _attribute(made, acl.ACCESS) == wanted.access
            and stat.S_IMODE(status.st_mode) == flags | wanted.mode
        )

    def _acl(self, node: Node) -> acl.Acl | None:
        try:
            return None if node.acl is UNSET else acl.parse(node.acl, self._owners)
        except FormatError:
            return None

    def dress_link(self, made: bytes, node: Node, path: bytes) -> None:
        """Like `dress`, for the `proc_path` of a symbolic link, which has no rights of its own."""
        self._own(made, node, path)
        if node.xattrs is not UNSET:
            self._attribute(made, node.xattrs, path)
        self._date(made, node, path)

    def _ids(self, node: Node) -> tuple[int, int]:
        """The numbers of owner and group on this machine; -1: leave it."""
        uid = self._owners.uid(node.uid if node.owner == "" else node.owner, node.uid if node.uid >= 0 else None)
        gid = self._owners.gid(node.gid if node.group == "" else node.group, node.gid if node.gid >= 0 else None)
        return -1 if uid is None else uid, -1 if gid is None else gid

    def _own(self, made: int | bytes, node: Node, path: bytes) -> bool:
        uid, gid = self._ids(node)
        if not -1 <= uid < _NO_ID or not -1 <= gid < _NO_ID:
            self._lack(_BAD_OWNER, path)
            return False
        if not self._root and not (uid in self._uids and gid in self._gids):
            self._lack(_NO_OWNER, path)
            return False
        try:
            os.chown(made, uid, gid)
        except OSError as exc:
            self._lack(_REFUSED_OWNER.format(exc.strerror), path)
            return False
        return True

    def _allow(self, made: int | bytes, node: Node, path: bytes, owned: bool) -> None:
        try:
            flags = 0 if node.flags is UNSET else acl.flags_bits(node.flags)
            wanted = None if node.acl is UNSET else acl.parse(node.acl, self._owners)
        except FormatError:
            self._lack(_BAD_RIGHTS, path)
            os.chmod(made, _closed(node))
            return
        if flags & (stat.S_ISUID | stat.S_ISGID) and not owned:
            flags &= stat.S_ISVTX
            self._lack(_NO_SETUID, path)
        if wanted is None:
            mode = _closed(node) if node.mode is UNSET else node.mode & 0o777
        elif wanted.access is None and wanted.default is None and not wanted.unknown:
            mode = wanted.mode
        else:
            mode = self._set_acl(made, wanted, path)
        os.chmod(made, flags | mode)

    def _set_acl(self, made: int | bytes, wanted: acl.Acl, path: bytes) -> int:
        """Set both ACLs; returns the permission bits that go with what could be set."""
        mode = wanted.mode
        for name in wanted.unknown:
            self._lack(_UNKNOWN.format(brief(name, 80)), path)
        if wanted.access is not None:
            try:
                os.setxattr(made, acl.ACCESS, wanted.access)
            except OSError as exc:
                self._lack(_NO_ACL.format(exc.strerror), path)
                mode = wanted.bare
        if wanted.default is not None:
            try:
                os.setxattr(made, acl.DEFAULT, wanted.default)
            except OSError as exc:
                self._lack(_NO_DEFAULT.format(exc.strerror), path)
        return mode

    def _attribute(self, made: int | bytes, xattrs: dict[str, str], path: bytes) -> None:
        for name, value in xattrs.items():
            space = name.partition(".")[0]
            if space == "system":  # ACLs have their own field; the rest is the kernel's
                continue
            kind = f"{space}.*" if space in _SPACES else "of unknown kind"
            try:
                os.setxattr(made, name, base64.b64decode(value, validate=True))
            except OSError as exc:
                reason = "not supported here" if exc.errno in _UNSUPPORTED else exc.strerror
                self._lack(_NO_XATTR.format(kind, reason), path)
            except ValueError:
                self._lack(_NO_XATTR.format(kind, "the manifest's value is damaged"), path)

    def _date(self, made: int | bytes, node: Node, path: bytes) -> None:
        try:
            os.utime(made, ns=(node.mtime, node.mtime))
        except (OSError, OverflowError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not a time that a file can have"
            self._lack(_NO_TIME.format(reason), path)


def _has(made: bytes, xattrs: dict[str, str]) -> bool:
    """Whether a thing has these attributes, but for those that a restore leaves to their own field."""
    for name, value in xattrs.items():
        if name.partition(".")[0] == "system":
            continue
        try:
            if _attribute(made, name) != base64.b64decode(value, validate=True):
                return False
        except ValueError:
            return False
    return True


def _attribute(made: bytes, name: str) -> bytes | None:
    try:
        return os.getxattr(made, name)
    except OSError:
        return None


def _closed(node: Node) -> int:
    """The permission bits of a node whose own are not known: nobody gets a right that nobody named."""
    return 0o700 if isinstance(node, Directory) else 0o600
