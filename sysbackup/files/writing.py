"""
Things made beneath the target: written out of sight, given all they have, and their name last.

A file is made without a name (open(2), O_TMPFILE) and linked into place when
it is complete, so that an interrupted restore leaves nothing half done. On file
systems that cannot do that it has a temporary name beside its place.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress

from sysbackup.files import acl
from sysbackup.files.folders import proc_path
from sysbackup.files.target_tree import UNNAMED, InTheWay, Obstacle, TargetPlace
from sysbackup.formats.manifest import BlockDevice, CharDevice, Fifo, FileNode, Link

_NAMED = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC

# What a file system without unnamed files says: EISDIR from kernels and drivers that do not know the flag.
_CANNOT_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
# What one without hard links says (link(2)); EMLINK is a file with all the links it can have.
_CANNOT_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}

_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)


class Draft:
    """
    A regular file under way in one directory, not visible under its own name.

    `fd` is open for reading and writing, `place` the directory; both must stay
    open until `close`, which removes whatever was not published. `asked` are the
    permission bits that it was opened with, of which the umask, or an ACL that it inherits, may have
    taken some. Nobody else reaches a file without a name: it has those of `mode` from the beginning.
    """

    __slots__ = ("_end", "_hole", "_published", "_temporary", "asked", "fd", "place")

    def __init__(self, place: TargetPlace, mode: int = 0o600, *, unnamed: bool = True) -> None:
        self._temporary: bytes | None = None
        self.place = place
        self._published = False
        fd = -1
        if unnamed:
            fd = _open_unnamed(place, mode)
        if fd < 0:
            self._temporary = _temporary()
            mode = 0o600
            fd = os.open(self._temporary, _NAMED, mode, dir_fd=place.fd)
        self.fd = fd
        self.asked = mode
        self._end = 0
        self._hole = False
        if place.inherits:
            acl.remove(fd, acl.ACCESS)

    def write(self, data: bytes) -> None:
        """Append; long runs of zeros become holes."""
        if len(data) < _BLOCK:
            _write_all(self.fd, data, self._end)
            self._end += len(data)
            self._hole = False
            return
        begin = 0  # of what is not yet written
        for at in range(0, len(data), _BLOCK):
            if data.startswith(_ZEROS, at):
                _write_all(self.fd, data[begin:at], self._end + begin)
                begin = at + _BLOCK
        _write_all(self.fd, data[begin:] if begin else data, self._end + begin)
        self._end += len(data)
        self._hole = begin == len(data)

    def settle(self) -> None:
        """Give the file its full length where it ends in a hole."""
        if self._hole:
            os.ftruncate(self.fd, self._end)

    def publish(self, name: bytes, *, overwrite: bool) -> None:
        """Give the file its name. `Obstacle` where something is in the way that may not be replaced."""
        source = proc_path(self.fd)
        if self._temporary is None or self._published:
            put_link(source, self.place, name, overwrite=overwrite)
            self._published = True
            return
        move(self.place, self._temporary, name, overwrite=overwrite)
        self._temporary = None
        self._published = True

    def link(self, place: TargetPlace, name: bytes, *, overwrite: bool) -> bool:
        """Give the published file another name; False where the file system cannot."""
        try:
            put_link(proc_path(self.fd), place, name, overwrite=overwrite)
        except OSError as exc:
            if cannot_link(exc):
                return False
            raise
        return True

    def close(self) -> None:
        """Close; what was not published is gone."""
        if self._temporary is not None:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self.place.fd)
            self._temporary = None
        os.close(self.fd)


def put_link(source: bytes, place: TargetPlace, name: bytes, *, overwrite: bool) -> None:
    """Link what the proc path `source` leads to as `name`; never through a symbolic link at `name`."""
    try:
        os.link(source, name, dst_dir_fd=place.fd, follow_symlinks=True)
    except FileExistsError:
        if not overwrite:
            raise in_the_way(place, name) from None
        temporary = _temporary()
        os.link(source, temporary, dst_dir_fd=place.fd, follow_symlinks=True)
        try:
            _replace(place, temporary, name)
        finally:
            # rename(2) does nothing, and says so to nobody, where both names are one file already
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place.fd)


def move(place: TargetPlace, temporary: bytes, name: bytes, *, overwrite: bool) -> None:
    """Rename within a directory; `Obstacle` where something is in the way that may not be replaced."""
    if overwrite:
        _replace(place, temporary, name)
        return
    try:
        os.link(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
    except FileExistsError:
        raise in_the_way(place, name) from None
    except OSError as exc:
        if not cannot_link(exc):
            raise
        # without hard links (FAT, some network file systems) nothing better than looking first is to be had
        check_free(place, name)
        _replace(place, temporary, name)
        return
    os.unlink(temporary, dir_fd=place.fd)


def cannot_link(exc: Exception) -> bool:
    """Whether this is what a file system says that has no hard links, or no more of them for this file."""
    return isinstance(exc, OSError) and exc.errno in _CANNOT_LINK


def check_free(place: TargetPlace, name: bytes) -> None:
    """`Obstacle` where something has that name already."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        raise in_the_way(place, name)


def make_special(place: TargetPlace, node: FileNode) -> tuple[bytes, int]:
    """
    A symbolic link, FIFO or device under a temporary name: that name, and an O_PATH descriptor of it.

    The descriptor is proven to be what was just made: whoever may write to the
    directory could have put something else in its place.
    """
    name = _temporary()
    if isinstance(node, Link):
        os.symlink(node.target_bytes, name, dir_fd=place.fd)
    elif isinstance(node, Fifo):
        os.mkfifo(name, 0o600, dir_fd=place.fd)
    elif isinstance(node, CharDevice | BlockDevice):
        kind = stat.S_IFCHR if isinstance(node, CharDevice) else stat.S_IFBLK
        os.mknod(name, 0o600 | kind, _device(node.major, node.minor), dir_fd=place.fd)
    else:
        raise TypeError(node)
    fd = -1
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
        found = os.fstat(fd)
        ours = found.st_nlink == 1 and found.st_uid == os.geteuid()
        if not ours or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            raise Obstacle("something else took its place while it was made")
    except BaseException:
        if fd >= 0:
            os.close(fd)
        discard(place, name)
        raise
    if place.inherits:
        acl.remove(proc_path(fd), acl.ACCESS)
    return name, fd


def discard(place: TargetPlace, temporary: bytes) -> None:
    """Remove a temporary name, if it is still there."""
    with suppress(OSError):
        os.unlink(temporary, dir_fd=place.fd)


def _device(major: int, minor: int) -> int:
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):  # what the kernel's dev_t holds
        raise Obstacle(f"no device has the numbers {major}, {minor}")
    return os.makedev(major, minor)


def _open_unnamed(place: TargetPlace, mode: int) -> int:
    """A file without a name in `place`; -1 where the file system, or a machine without /proc, has none."""
    try:
        return os.open(b".", UNNAMED, mode, dir_fd=place.fd)
    except OSError as exc:
        if exc.errno in _CANNOT_UNNAMED:
            return -1
        raise


def _write_all(fd: int, data: bytes, at: int) -> None:
    written = os.pwrite(fd, data, at) if data else 0
    while written < len(data):  # a signal, or 2 GiB at once (write(2))
        written += os.pwrite(fd, memoryview(data)[written:], at + written)


def _replace(place: TargetPlace, temporary: bytes, name: bytes) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    except IsADirectoryError:
        raise InTheWay("a directory is in the way: directories are not replaced") from None


def in_the_way(place: TargetPlace, name: bytes) -> InTheWay:
    """What to raise where something has that name already."""
    try:
        mode = os.stat(name, dir_fd=place.fd, follow_symlinks=False).st_mode
    except OSError:
        mode = 0
    if stat.S_ISDIR(mode):
        return InTheWay("a directory is in the way and was kept")
    return InTheWay("something else is in the way and was kept; --overwrite replaces it")


def _temporary() -> bytes:
    return b".sysbackup-" + secrets.token_hex(8).encode()
