"""
POSIX ACLs: the kernel's binary form and the short text form, and back; what of them lies on a file.

The binary form is the value of the extended attributes named below
(linux/posix_acl_xattr.h): a version, 2, in 32 bits, then for each entry tag and
permissions in 16 bits each and an id in 32, all little-endian. The text form is
acl(5)'s short one on one line, `u::rw-,u:www-data:r--,g::r--,m::r--,o::r--`;
entries of a default ACL begin with `d:`.
"""

import os
import re
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from sysbackup.errors import FormatError
from sysbackup.files.owners import Owners

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF

# linux/posix_acl.h
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_LETTER = {_USER_OBJ: "u", _USER: "u", _GROUP_OBJ: "g", _GROUP: "g", _MASK: "m", _OTHER: "o"}
_PERMISSIONS = tuple(
    f"{'r' if bits & 4 else '-'}{'w' if bits & 2 else '-'}{'x' if bits & 1 else '-'}" for bits in range(8)
)
_BITS = {text: bits for bits, text in enumerate(_PERMISSIONS)}
_MINIMAL = tuple(
    f"u::{_PERMISSIONS[mode >> 6]},g::{_PERMISSIONS[mode >> 3 & 7]},o::{_PERMISSIONS[mode & 7]}"
    for mode in range(0o1000)
)
_MINIMAL_MODE = {text: mode for mode, text in enumerate(_MINIMAL)}
_KINDS = {
    "u": (_USER_OBJ, _USER),
    "user": (_USER_OBJ, _USER),
    "g": (_GROUP_OBJ, _GROUP),
    "group": (_GROUP_OBJ, _GROUP),
    "m": (_MASK, None),
    "mask": (_MASK, None),
    "o": (_OTHER, None),
    "other": (_OTHER, None),
}

# What would end a name, or pass for a number, is written as the number.
_KEPT = 4096  # characters of an ACL that is worth remembering
_AMBIGUOUS = re.compile(r"[,:=#\\\s]|\A[0-9]+\Z|\A\Z")

_Entry = tuple[int, int, int]  # tag, permissions, id


@dataclass(frozen=True, slots=True)
class Acl:
    """
    What a text form says, ready for the kernel.

    `access` is None where the permission bits in `mode` (0 to 0o777) say it
    all; `default` is None where there is no default ACL. `bare` are the bits
    that give nobody more than the ACL does, for file systems without ACLs.
    `unknown` are users and groups that this machine does not have: their
    entries are left out, which takes rights from nobody who is here.
    """

    mode: int
    access: bytes | None
    default: bytes | None
    bare: int
    unknown: tuple[str, ...] = ()


def access_text(mode: int, acl: bytes | None, names: Owners) -> str:
    """
    The access ACL as text: from its attribute, or from the permission bits where there is none.

    `ValueError` where the attribute is malformed.
    """
    if acl is None:
        return _MINIMAL[mode & 0o777]
    return _text(acl, names, "")


def default_text(acl: bytes, names: Owners) -> str:
    """A directory's default ACL as text, `d:` before each entry. `ValueError` where it is malformed."""
    return _text(acl, names, "d:")


def parse(text: str, ids: Owners) -> Acl:
    """
    What `access_text` and `default_text`, joined by a comma, have made; long words (`user:`) do as well.

    Names stand for the users and groups of this machine, digits for themselves.
    `FormatError` where it is no valid ACL (acl(5), Valid ACLs).
    """
    mode = _MINIMAL_MODE.get(text)
    if mode is not None:
        return Acl(mode, None, None, mode)
    # what is remembered thousands of times over must not be as long as somebody else likes
    return _parsed(text, ids) if len(text) <= _KEPT else _parsed.__wrapped__(text, ids)


def remove(made: int | bytes, *names: str) -> None:
    """Take ACLs, `ACCESS` or `DEFAULT`, from an open file or what a `proc_path` leads to, where it has them."""
    for name in names:
        with suppress(OSError):
            os.removexattr(made, name)


def passes_on(directory: bytes) -> bool:
    """Whether what is made in the directory at this `proc_path` gets an ACL from it: whether it has a default one."""
    try:
        os.getxattr(directory, DEFAULT)
    except OSError:
        return False
    return True


@lru_cache(maxsize=4096)
def _text(acl: bytes, names: Owners, before: str) -> str:
    if acl[:4] != _VERSION or len(acl) % _ENTRY.size != 4:
        raise ValueError(f"an ACL attribute of {len(acl)} bytes is not of version 2")
    entries = list(_ENTRY.iter_unpack(acl[4:]))
    _check(entries)
    return ",".join(
        f"{before}{_LETTER[tag]}:{_name(tag, number, names)}:{_PERMISSIONS[bits]}" for tag, bits, number in entries
    )


def _name(tag: int, number: int, names: Owners) -> str:
    if tag not in {_USER, _GROUP}:
        return ""
    name = str(names.user(number) if tag == _USER else names.group(number))
    return str(number) if _AMBIGUOUS.search(name) else name


def _check(entries: Iterable[_Entry]) -> None:
    """`ValueError` where the entries are no valid ACL: acl(5), and the order that the kernel asks for."""
    seen: set[tuple[int, int]] = set()
    last = 0
    for tag, bits, number in entries:
        named = tag in {_USER, _GROUP}
        mark = (tag, number if named else _NO_ID)
        if tag not in _LETTER or bits > 7 or tag < last or mark in seen or (named and number == _NO_ID):
            raise ValueError(f"an ACL has an entry that cannot be (tag {tag:#x}, permissions {bits:#x})")
        seen.add(mark)
        last = tag
    tags = {tag for tag, _ in seen}
    if not {_USER_OBJ, _GROUP_OBJ, _OTHER} <= tags or (tags & {_USER, _GROUP} and _MASK not in tags):
        raise ValueError("an ACL lacks the entry of its owner, group, others or mask")


@lru_cache(maxsize=4096)
def _parsed(text: str, ids: Owners) -> Acl:
    access: dict[tuple[int, int], int] = {}
    default: dict[tuple[int, int], int] = {}
    unknown: list[str] = []
    for item in text.split(","):
        tag, name, bits, is_default = _fields(item)
        number = _number(tag, name, ids)
        if number is None:
            unknown.append(("user " if tag == _USER else "group ") + name)
            continue
        entries = default if is_default else access
        if (tag, number) in entries and tag not in {_USER, _GROUP}:
            raise FormatError(f"an ACL names one thing twice: {text[:200]!r}")
        # two names of the other machine may be one user here: only what both allow
        entries[tag, number] = entries.get((tag, number), 7) & bits
    try:
        packed_default = _packed(default) if default else None
        packed = _packed(access)
    except ValueError as exc:
        raise FormatError(f"{exc}: {text[:200]!r}") from None
    group = access[_GROUP_OBJ, _NO_ID]
    mask = access.get((_MASK, _NO_ID), group)  # with a mask, it is what the group's mode bits hold (acl(5))
    others = access[_USER_OBJ, _NO_ID] << 6 | access[_OTHER, _NO_ID]
    return Acl(
        mode=others | mask << 3,
        access=packed if len(access) > 3 else None,
        default=packed_default,
        bare=others | (group & mask) << 3,
        unknown=tuple(unknown),
    )


def _fields(item: str) -> tuple[int, str, int, bool]:
    """(tag, name, permissions, whether of the default ACL) of one entry's text."""
    is_default = item.startswith(("d:", "default:"))
    parts = (item.split(":", 1)[1] if is_default else item).split(":")
    plain, named = _KINDS.get(parts[0], (None, None))
    if plain is None or len(parts) != 3 or parts[2] not in _BITS or (parts[1] and named is None):
        raise FormatError(f"{item[:120]!r} is no entry of an ACL: they look like 'u:www-data:r--'")
    return (named if parts[1] and named is not None else plain), parts[1], _BITS[parts[2]], is_default


def _number(tag: int, name: str, ids: Owners) -> int | None:
    if tag not in {_USER, _GROUP}:
        return _NO_ID
    if not (name.isascii() and name.isdigit()):
        return ids.uid(name) if tag == _USER else ids.gid(name)
    number = int(name) if len(name) <= 10 else _NO_ID
    if number >= _NO_ID:
        raise FormatError(f"an ACL has the id {name[:40]}, which nobody can have")
    return number


def _packed(entries: dict[tuple[int, int], int]) -> bytes:
    rows = [(tag, bits, number) for (tag, number), bits in sorted(entries.items())]
    _check(rows)
    return _VERSION + b"".join(_ENTRY.pack(*row) for row in rows)
