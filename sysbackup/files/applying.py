"""A manifest's entry given to what was restored: owner, permissions, extended attributes, time."""

import os

from msgspec import UNSET

from sysbackup.files import permissions, times, xattrs
from sysbackup.files.owners import Owners, OwnerSetter
from sysbackup.files.shortfalls import Lack
from sysbackup.formats.manifest import Link, Node


class Applier:
    """
    Gives what was restored all that its entry says, but for the contents.

    For one thread; `lack` is told what could not be given. `owners` may be shared.
    What is given is an open file, or the `proc_path` of anything.
    """

    def __init__(self, owners: Owners, lack: Lack) -> None:
        self._owners = owners
        self._setter = OwnerSetter(owners)
        self._lack = lack

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
        times.apply(made, node, path, self._lack)

    def apply_over(self, made: bytes, node: Node, path: bytes) -> None:
        """Like `apply`, for what was there before: an ACL that the backup does not know goes, too."""
        self.apply(made, node, path)
        permissions.remove_unknown_acl(made, node, self._owners)

    def apply_to_link(self, made: bytes, node: Node, path: bytes) -> None:
        """Like `apply`, for the `proc_path` of a symbolic link, which has no rights of its own."""
        self._setter.apply(made, node, path, self._lack)
        if node.xattrs is not UNSET:
            xattrs.apply(made, node.xattrs, path, self._lack)
        times.apply(made, node, path, self._lack)

    def matches(self, made: bytes, status: os.stat_result, node: Node, path: bytes) -> bool:
        """Whether what was there before, of that status, has all of it, but for an owner nobody here can set."""
        return (
            times.equal(status, node)
            and self._setter.equal(status, node, path, self._lack)
            and (node.xattrs is UNSET or xattrs.equal(made, node.xattrs))
            and (isinstance(node, Link) or permissions.equal(made, status, node, self._owners))
        )
