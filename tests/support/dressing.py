"""What the torture tree's entries wear: types, permissions, owners, ACLs, xattrs, times."""

import os
import pwd
import socket
import stat
import struct
from contextlib import closing

from tests.support.building import SECOND, Ground, opened

MTIMES = {
    b"before 1970": -315_619_200 * SECOND + 123_456_789,  # 1960-01-01, and some
    b"just before 1970": -1,
    b"at 1970": 0,
    b"nanoseconds": 1_700_000_000 * SECOND + 1,
    b"after 2038": 2**31 * SECOND + 999_999_999,
    b"future": 7_258_118_400 * SECOND + 5,  # 2200-01-01
}
ACL_TAGS = {"user": 2, "group": 8}


def special_files(ground: Ground) -> None:
    """FIFOs, a socket, and device nodes where they may be made."""
    here = ground.directory(ground.path(b"special"))
    os.mkfifo(here + b"/fifo", 0o640)
    ground.made.kinds[here + b"/fifo"] = "p"
    with opened(here) as fd, closing(socket.socket(socket.AF_UNIX)) as listener:
        # sun_path holds 108 bytes, whatever the length of `root` (unix(7)).
        listener.bind(b"/proc/self/fd/%d/socket" % fd)
    ground.made.passed_over.add(here + b"/socket")
    for name, kind, mode in ((b"character", "c", stat.S_IFCHR), (b"block", "b", stat.S_IFBLK)):
        with ground.possible(f"a {name.decode()} device"):
            os.mknod(here + b"/" + name, mode | 0o600, os.makedev(7, 65_537))
            ground.made.kinds[here + b"/" + name] = kind


def modes(ground: Ground) -> None:
    """Setuid, setgid and sticky on files and directories, and permissions that look wrong."""
    here = ground.directory(ground.path(b"modes"))
    for mode in (0o4755, 0o2755, 0o6711, 0o1644, 0o2644, 0o7000, 0o777, 0o111, 0o400, 0o007):
        os.chmod(ground.file(here + b"/file %04o" % mode, b"%o\n" % mode), mode)
    for mode in (0o2775, 0o1777, 0o3770, 0o4755, 0o500):
        path = ground.directory(here + b"/directory %04o" % mode)
        ground.file(path + b"/inside", b"%o\n" % mode)
        os.chmod(path, mode)


def owners(ground: Ground) -> None:
    """Owners with a name other than the tree's, and numbers that no user or group has."""
    here = ground.directory(ground.path(b"owners"))
    nobody = pwd.getpwnam("nobody")
    for name, uid, gid in (
        (b"no name", 3_210_987, 3_210_988),
        (b"named", nobody.pw_uid, nobody.pw_gid),
        (b"mixed", 0, 3_210_988),
        (b"highest", 2**32 - 2, 2**32 - 2),
    ):
        path = ground.file(here + b"/" + name, name)
        folder = ground.directory(path + b" directory")
        link = ground.symlink(name, path + b" link", leads_to=path)
        with ground.possible(f"ownership by {uid}:{gid}"):
            for each in (path, folder, link):
                os.lchown(each, uid, gid)
            os.chmod(path, 0o4755)  # chown takes setuid away (chown(2))


def acls(ground: Ground) -> None:
    """Named users and groups, masks that hide rights, and default ACLs on directories."""
    here = ground.directory(ground.path(b"ACLs"))
    several = posix_acl("rwx", "r--", "---", {("user", 4242): "rwx", ("group", 4343): "r-x"}, mask="r-x")
    hidden = posix_acl("rw-", "rwx", "r--", {("user", pwd.getpwnam("nobody").pw_uid): "rwx"}, mask="---")
    bare = posix_acl("rwx", "r-x", "r-x")
    files, folders = (here + b"/several", here + b"/hidden"), (here + b"/default", here + b"/both")
    for path in files:
        ground.file(path, b"guarded\n")
    for path in folders:
        ground.directory(path)
    with ground.possible("ACLs"):
        os.setxattr(files[0], "system.posix_acl_access", several)
        os.setxattr(files[1], "system.posix_acl_access", hidden)
        os.setxattr(folders[0], "system.posix_acl_default", bare)
        os.setxattr(folders[1], "system.posix_acl_default", several)
        os.setxattr(folders[1], "system.posix_acl_access", several)
        ground.file(folders[1] + b"/inherited", b"by default\n")


def xattrs(ground: Ground) -> None:
    """Binary, empty, long and many values; on a directory; capabilities where they may be set."""
    here = ground.directory(ground.path(b"xattrs"))
    values = {
        b"binary": {"user.binary": bytes(range(256))},
        b"empty": {"user.empty": b""},
        b"text": {"user.name with spaces": "naïve".encode(), "user.é": b"\n"},
        b"many": {f"user.number-{n:02}": b"%d" % n for n in range(40)},
        b"long": {"user.long": b"x" * 2_000},
    }
    for name, attributes in values.items():
        path = ground.file(here + b"/" + name, name)
        with ground.possible(f"xattrs ({name.decode()})"):
            for attribute, value in attributes.items():
                os.setxattr(path, attribute, value)
    with ground.possible("xattrs of a directory"):
        os.setxattr(here, "user.directory", b"\0")
    capable = ground.file(here + b"/capable", b"#!/bin/true\n")
    os.chmod(capable, 0o755)
    with ground.possible("capabilities"):
        # cap_net_bind_service=ep, revision 2: capabilities(7), linux/capability.h.
        os.setxattr(capable, "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))


def mtimes(ground: Ground) -> None:
    """Times before 1970, beyond 2038 and with nanoseconds, on files, directories, symlinks and FIFOs."""
    here = ground.directory(ground.path(b"mtimes"))
    for name, when in MTIMES.items():
        path = ground.file(here + b"/" + name, name)
        folder = ground.directory(path + b" directory")
        link = ground.symlink(name, path + b" link", leads_to=path)
        os.mkfifo(path + b" FIFO")
        ground.made.kinds[path + b" FIFO"] = "p"
        ground.times |= dict.fromkeys((path, folder, link, path + b" FIFO"), when)


def unreadable(ground: Ground) -> None:
    """A file without any permission: root backs it up, others must report it."""
    path = ground.file(ground.path(b"unreadable"), b"secret\n")
    os.chmod(path, 0)


def posix_acl(
    user: str,
    group: str,
    other: str,
    named: dict[tuple[str, int], str] | None = None,
    mask: str | None = None,
) -> bytes:
    """
    An ACL as the kernel's xattrs `system.posix_acl_access` and `_default` hold it (linux/posix_acl_xattr.h).

    Rights are written like `r-x`; `named` has them by `("user", uid)` and `("group", gid)`.
    """
    nobody = 2**32 - 1
    entries = [(1, user, nobody), (4, group, nobody), (32, other, nobody)]
    entries += [(ACL_TAGS[kind], rights, number) for (kind, number), rights in (named or {}).items()]
    if mask is not None:
        entries.append((16, mask, nobody))
    bits = {"r": 4, "w": 2, "x": 1, "-": 0}
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, sum(bits[r] for r in rights), number)
        for tag, rights, number in sorted(entries, key=lambda e: (e[0], e[2]))
    )
