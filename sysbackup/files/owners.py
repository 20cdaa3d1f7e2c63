"""Users and groups of this machine, by number and by name; whose a file is: read, set and compared."""

import grp
import os
import pwd
from collections.abc import Callable
from typing import Any, TypeVar

from sysbackup.files.shortfalls import Lack
from sysbackup.formats.manifest import Node

_K = TypeVar("_K")
_V = TypeVar("_V")

# A machine with more owners than this looks the rest up again and again; it does not grow.
_KEPT = 65_536

_NO_ID = 0xFFFFFFFF  # chown(2): 'leave as it is'

_NO_OWNER = "owners and groups could not be set: only root may give files away"
_REFUSED_OWNER = "owners and groups could not be set: {}"
_BAD_OWNER = "owners and groups could not be set: the manifest has numbers that nobody can have"

_LONGEST = 256  # LOGIN_NAME_MAX (limits.h): nobody's name is longer


class Owners:
    """
    What the name service says (getpwnam(3), getgrnam(3) and back), remembered.

    Threads may share one: at worst two of them ask the same thing. With
    `numeric`, owners keep the number they had wherever it is known.
    """

    def __init__(self, *, numeric: bool = False) -> None:
        self._numeric = numeric
        self._users: dict[int, str | int] = {}
        self._groups: dict[int, str | int] = {}
        self._uids: dict[str, int | None] = {}
        self._gids: dict[str, int | None] = {}

    def user(self, uid: int) -> str | int:
        """The user's name, or the number itself where it has none that text can hold."""
        return _remembered(self._users, uid, _user)

    def group(self, gid: int) -> str | int:
        """The group's name, or the number itself where it has none that text can hold."""
        return _remembered(self._groups, gid, _group)

    def uid(self, owner: str | int, fallback: int | None = None) -> int | None:
        """
        The number of a user on this machine; `fallback` where there is no such user.

        A number stands for itself.
        """
        if isinstance(owner, int):
            return owner
        if self._numeric and fallback is not None:
            return fallback
        found = _remembered(self._uids, owner, _uid) if len(owner) <= _LONGEST else None
        return fallback if found is None else found

    def gid(self, group: str | int, fallback: int | None = None) -> int | None:
        """The number of a group on this machine, like `uid`."""
        if isinstance(group, int):
            return group
        if self._numeric and fallback is not None:
            return fallback
        found = _remembered(self._gids, group, _gid) if len(group) <= _LONGEST else None
        return fallback if found is None else found

    def read(self, status: os.stat_result) -> dict[str, Any]:
        """Whose a thing of that status is, as an entry has it."""
        uid, gid = status.st_uid, status.st_gid
        return {"owner": self.user(uid), "group": self.group(gid), "uid": uid, "gid": gid}

    def ids(self, node: Node) -> tuple[int, int]:
        """The numbers of an entry's owner and group on this machine; -1 where there is none."""
        uid = self.uid(node.uid if node.owner == "" else node.owner, node.uid if node.uid >= 0 else None)
        gid = self.gid(node.gid if node.group == "" else node.group, node.gid if node.gid >= 0 else None)
        return -1 if uid is None else uid, -1 if gid is None else gid


class OwnerSetter:
    """Gives files to whom their entries name, where this process may do that. `owners` may be shared."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._root = os.geteuid() == 0
        self._us = (os.geteuid(), os.getegid())
        self._uids = {-1, os.geteuid()}
        self._gids = {-1, os.getegid(), *os.getgroups()}

    def apply(self, made: int | bytes, node: Node, path: bytes, lack: Lack) -> bool:
        """Set both on an open file, or what a `proc_path` leads to; whether that was done."""
        uid, gid = self._owners.ids(node)
        if not _possible(uid, gid):
            lack(_BAD_OWNER, path)
            return False
        if not self._may_set(uid, gid):
            lack(_NO_OWNER, path)
            return False
        return self.give(made, uid, gid, path, lack)

    def ids(self, node: Node) -> tuple[int, int] | None:
        """The numbers that `give` is to be told for an entry; None where only `apply` knows what to say of it."""
        uid, gid = self._owners.ids(node)
        return (uid, gid) if _possible(uid, gid) and self._may_set(uid, gid) else None

    def are_ours(self, uid: int, gid: int) -> bool:
        """Whether what belongs to this process's user and group has these numbers already."""
        return uid in (-1, self._us[0]) and gid in (-1, self._us[1])

    def give(self, made: int | bytes, uid: int, gid: int, path: bytes, lack: Lack) -> bool:
        """Set both, -1 leaves one as it is; whether that was done."""
        try:
            os.chown(made, uid, gid)
        except OSError as exc:
            lack(_REFUSED_OWNER.format(exc.strerror), path)
            return False
        return True

    def equal(self, status: os.stat_result, node: Node, path: bytes, lack: Lack) -> bool:
        """Whether a thing of that status is whose it should be, or that cannot be helped here."""
        uid, gid = self._owners.ids(node)
        if not self._may_set(uid, gid):
            lack(_NO_OWNER, path)
            return True
        return uid in (-1, status.st_uid) and gid in (-1, status.st_gid)

    def _may_set(self, uid: int, gid: int) -> bool:
        return self._root or (uid in self._uids and gid in self._gids)


def _possible(uid: int, gid: int) -> bool:
    return -1 <= uid < _NO_ID and -1 <= gid < _NO_ID


def _remembered(known: dict[_K, _V], key: _K, ask: Callable[[_K], _V]) -> _V:
    try:
        return known[key]
    except KeyError:
        if len(known) >= _KEPT:
            known.clear()
        answer = known[key] = ask(key)
        return answer


def _user(uid: int) -> str | int:
    try:
        return _text(pwd.getpwuid(uid).pw_name) or uid
    except KeyError:
        return uid


def _group(gid: int) -> str | int:
    try:
        return _text(grp.getgrgid(gid).gr_name) or gid
    except KeyError:
        return gid


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL, or text that is no name in this locale
        return None


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def _text(name: str) -> str:
    """The name, or nothing where it holds what a manifest's text cannot (bytes that are not UTF-8)."""
    return name if name.isprintable() else ""
