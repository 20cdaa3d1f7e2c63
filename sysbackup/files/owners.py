"""Users and groups of this machine, by number and by name."""

import grp
import pwd
from collections.abc import Callable
from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

# A machine with more owners than this looks the rest up again and again; it does not grow.
_KEPT = 65_536

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
