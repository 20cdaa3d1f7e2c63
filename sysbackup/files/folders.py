"""
Directories opened without following a link: where every path of a run is looked up from.

A path given by a picker is walked component by component with O_NOFOLLOW, so
nobody who owns a directory on the way can swap it for a link and have the
backup read, or later restore, something else. A symbolic link on the way is
reported as such and its target walked in the same manner.
"""

import errno
import os
import stat
from collections import OrderedDict
from types import TracebackType
from typing import NamedTuple, Self

# What path_resolution(7) allows on the way to one file.
LINKS_AT_MOST = 40

# Twice the kernel's PATH_MAX: every directory on the way costs a descriptor and its path, and whoever may make
# directories may nest them without end.
_PATH_AT_MOST = 8192

AS_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens a directory as a place and no more: neither reading it nor a FIFO in its stead can block (open(2), O_PATH)."""


class Folder(NamedTuple):
    """
    An open directory: its real path (`/` alone ends with a slash) and a descriptor opened with O_PATH.

    `through_proc` is a path to the same directory through /proc, for the calls that
    take no descriptor (xattrs); names are appended to it.
    """

    path: bytes
    fd: int
    through_proc: bytes

    def child(self, name: bytes) -> bytes:
        """The path of what is called `name` in here."""
        return self.path + name if self.path == b"/" else self.path + b"/" + name


class Place(NamedTuple):
    """
    Where a path really is: its directory and its name in there.

    `name` is empty for `/` itself. `links` are the symbolic links that were met
    on the way, in the order in which they were followed.
    """

    folder: Folder
    name: bytes
    links: tuple["Place", ...] = ()

    @property
    def path(self) -> bytes:
        """The real path: no component of it but the last is a link."""
        return self.folder.child(self.name) if self.name else self.folder.path


def proc_path(fd: int) -> bytes:
    """A path that leads to what `fd` refers to, a symbolic link itself included, and nowhere else (proc(5))."""
    return b"/proc/self/fd/%d" % fd


def link_status(place: Place) -> os.stat_result:
    """lstat(2) of a place."""
    return os.stat(place.name or b".", dir_fd=place.folder.fd, follow_symlinks=False)


def made_up(path: bytes) -> bool:
    """
    Whether the kernel makes a path up as it goes (proc(5), sysfs(5)).

    Links lead there from real trees, /etc/mtab to /proc/self/mounts on every
    machine: what they lead to belongs to this process and moment. It is followed
    only where a picker names it.
    """
    return path.startswith((b"/proc/", b"/sys/")) or path in (b"/proc", b"/sys")


def missing(path: bytes) -> bool:
    """
    Whether nothing is at an absolute path: looked up afresh from the root, its last component not followed.

    Nothing but a lookup says so. A path that is closed to us, or whose file
    system does not answer, is not missing; nor is a file that a slash after its
    name takes for a directory.
    """
    with Folders() as folders:
        try:
            link_status(folders.find(path))
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return not path.endswith((b"/", b"/.", b"/.."))
        except OSError:
            return False
    return False


class Folders:
    """
    Keeps directories open, about `limit` of them, and closes all when left.

    Short-lived: a directory renamed meanwhile stays what it was when it was
    opened. Not for use by two threads at once. A `Place` is good until `trim`.

    Who has the process to itself (`alone`) may have its working directory changed; it is `/` in the end.
    """

    def __init__(self, limit: int = 128, *, alone: bool = False) -> None:
        self._limit = limit
        self._open: OrderedDict[bytes, Folder] = OrderedDict()
        self._fresh: list[Folder] = []
        self._alone = alone
        self._inside: Folder | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for folder in self._open.values():
            os.close(folder.fd)
        self._open.clear()
        if self._inside is not None:
            os.chdir(b"/")
            self._inside = None

    def trim(self) -> None:
        """Close what was opened longest ago; places handed out earlier must no longer be used."""
        while len(self._open) > self._limit:
            os.close(self._open.popitem(last=False)[1].fd)

    def find(self, path: bytes) -> Place:
        """
        Look up an absolute path, its last component not followed.

        `.`, `..` and doubled slashes are taken as the kernel takes them. OSError
        where a directory on the way is missing, closed to us, or none at all.
        """
        head, _, name = path.rpartition(b"/")
        folder = self._open.get(head or b"/")
        if folder is not None and name not in (b"", b".", b".."):
            return Place(folder, name)
        return self._walk(path)

    def close(self, folder: Folder) -> None:
        """Have a directory opened afresh, should it be met again; places in it must no longer be used."""
        if self._open.pop(folder.path, None) is not None:
            os.close(folder.fd)

    def known(self, directory: bytes) -> Folder | None:
        """The directory of that real path, where it is open."""
        return self._open.get(directory)

    def inside(self, folder: Folder) -> bytes:
        """What to put before a name in a directory, good until the next call: none, or the way through /proc."""
        if folder is not self._inside:
            if not self._alone:
                return folder.through_proc
            try:
                os.fchdir(folder.fd)  # a quarter of the time that the way through /proc takes
            except OSError:
                return folder.through_proc
            self._inside = folder
        return b""

    def target(self, link: Place) -> Place:
        """Where a symbolic link points, one step: the last component of its target is not followed either."""
        to = os.readlink(link.name, dir_fd=link.folder.fd)
        return self._walk(to if to.startswith(b"/") else link.folder.child(to))

    def _walk(self, path: bytes) -> Place:
        ahead = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        links: list[Place] = []
        trail = [self._root()]
        while ahead:
            name = ahead.pop()
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            if not ahead and not path.endswith((b"/", b"/.")):
                return Place(trail[-1], name, tuple(links))
            try:
                trail.append(self._enter(trail[-1], name))
            except NotADirectoryError:
                link = Place(trail[-1], name)
                if not stat.S_ISLNK(os.stat(name, dir_fd=link.folder.fd, follow_symlinks=False).st_mode):
                    raise
                links.append(link)
                if len(links) > LINKS_AT_MOST:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
                to = os.readlink(name, dir_fd=link.folder.fd)
                if to.startswith(b"/"):
                    trail = [self._root()]
                ahead += [part for part in reversed(to.split(b"/")) if part not in (b"", b".")]
        # The path ended in a directory: it is a name in the one above.
        here = trail.pop()
        if not trail:
            return Place(here, b"", tuple(links))
        return Place(trail[-1], here.path.rpartition(b"/")[2], tuple(links))

    def _root(self) -> Folder:
        known = self._open.get(b"/")
        return known or self._keep(b"/", os.open(b"/", AS_DIRECTORY))

    def _enter(self, above: Folder, name: bytes) -> Folder:
        path = above.child(name)
        if len(path) > _PATH_AT_MOST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        known = self._open.get(path)
        return known or self._keep(path, os.open(name, AS_DIRECTORY, dir_fd=above.fd))

    def _keep(self, path: bytes, fd: int) -> Folder:
        folder = self._open[path] = Folder(path, fd, proc_path(fd) + b"/")
        self._fresh.append(folder)
        return folder

    def fresh(self) -> list[Folder]:
        """The directories opened since this was last asked, those above before those below."""
        fresh, self._fresh = self._fresh, []
        return fresh
