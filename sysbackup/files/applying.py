"""A manifest's entry given to what was restored: owner, permissions, extended attributes, time."""

import os
from typing import NamedTuple

from msgspec import UNSET

from sysbackup.files import permissions, times, xattrs
from sysbackup.files.owners import Owners, OwnerSetter
from sysbackup.files.shortfalls import Lack
from sysbackup.files.writing import Draft
from sysbackup.formats.manifest import Link, Node

_KINDS = 1024  # of owners and permissions that are remembered; a machine has a few dozens
_LONGEST = 256  # characters of each of their names and ACLs


class Plain(NamedTuple):
    """
    An owner that can be given, and permission bits: all that there is to most files.

    `ours`: that owner is this process's user, and the group is its group.
    """

    uid: int
    gid: int
    mode: int
    ours: bool


class Applier:
    """
    Gives what was restored all that its entry says, but for the contents.

    For one thread; `lack` is told what could not be given. `owners` may be shared.
    What is given is an open file, or the `proc_path` of anything. `umask` is what this
    process's takes of a file's permissions; all of them, where nobody knows.
    """

    def __init__(self, owners: Owners, lack: Lack, umask: int = 0o777) -> None:
        self._owners = owners
        self._setter = OwnerSetter(owners)
        self._lack = lack
        self._umask = umask
        self._plain: dict[tuple[object, ...], Plain | None] = {}

    def plain(self, node: Node) -> Plain | None:
        """What `node` says of owner and permissions, where that is no more than a `Plain` holds."""
        key = (node.owner, node.group, node.uid, node.gid, node.acl, node.mode, node.flags)
        try:
            return self._plain[key]
        except KeyError:
            found = self._plainly(node)
            if all(len(part) <= _LONGEST for part in key if isinstance(part, str)):
                if len(self._plain) >= _KINDS:
                    self._plain.clear()
                self._plain[key] = found
            return found

    def _plainly(self, node: Node) -> Plain | None:
        ids = self._setter.ids(node)
        bits = permissions.plain_bits(node, self._owners)
        return None if ids is None or bits is None else Plain(*ids, bits, self._setter.are_ours(*ids))

    def apply_to_draft(
        self, draft: Draft, plain: Plain, attributes: dict[str, str] | None, mtime: int, path: bytes
    ) -> None:
        """
        Like `apply`, for a file under way of whose entry `plain` is all that there is to owner and permissions.

        No system call is made for what it has from its birth: of somebody who restores
        a machine's files as root most have their owner, and all their permissions.
        """
        if not (plain.ours and draft.place.ours):
            self._setter.give(draft.fd, plain.uid, plain.gid, path, self._lack)
        # the umask does not hold where an ACL is inherited, and what that leaves nobody knows
        if draft.asked != plain.mode or plain.mode & self._umask or draft.place.inherits:
            os.chmod(draft.fd, plain.mode)
        if attributes is not None:
            xattrs.apply(draft.fd, attributes, path, self._lack)
        times.apply(draft.fd, mtime, path, self._lack)

    def apply(self, made: int | bytes, node: Node, path: bytes) -> None:
        """
        Set all that `node` says.

        In the one order that works: chown(2) clears setuid and security.capability,
        every other change moves the time. `OSError` where not even permission
        bits can be set; for all else a shortfall is counted.
        """
        owned = self._setter.apply(made, node, path, self._lack)
        permissions.apply(made, node, self._owners, path, self._lack, owned=owned)
        if node.xattrs is not UNSET:
            xattrs.apply(made, node.xattrs, path, self._lack)
        times.apply(made, node.mtime, path, self._lack)

    def apply_over(self, made: bytes, node: Node, path: bytes) -> None:
        """Like `apply`, for what was there before: an ACL that the backup does not know goes, too."""
        self.apply(made, node, path)
        permissions.remove_unknown_acl(made, node, self._owners)

    def apply_to_link(self, made: bytes, node: Node, path: bytes) -> None:
        """Like `apply`, for the `proc_path` of a symbolic link, which has no rights of its own."""
        self._setter.apply(made, node, path, self._lack)
        if node.xattrs is not UNSET:
            xattrs.apply(made, node.xattrs, path, self._lack)
        times.apply(made, node.mtime, path, self._lack)

    def matches(self, made: bytes, status: os.stat_result, node: Node, path: bytes) -> bool:
        """Whether what was there before, of that status, has all of it, but for an owner nobody here can set."""
        return (
            times.equal(status, node)
            and self._setter.equal(status, node, path, self._lack)
            and (node.xattrs is UNSET or xattrs.equal(made, node.xattrs))
            and (isinstance(node, Link) or permissions.equal(made, status, node, self._owners))
        )
