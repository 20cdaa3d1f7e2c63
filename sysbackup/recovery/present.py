"""
What is in the target already: right, it stays and is not fetched; different, it is in the way.

A file is believed when its type, size and SHA-256 are those of the backup. Its
owner, rights, attributes and time are then set right where they are not: but
only of a file that has no other name. Who may write in the target could have
linked somebody else's file there, which must not change hands by that.
"""

import hashlib
import os
import stat

from sysbackup.errors import FormatError
from sysbackup.files.applying import Applier
from sysbackup.files.folders import proc_path
from sysbackup.files.target_tree import InTheWay, Obstacle, TargetPlace, Walker, split
from sysbackup.files.writing import cannot_link, in_the_way, put_link
from sysbackup.formats.manifest import CharDevice, Fifo, FileNode, Link
from sysbackup.recovery.fetches import Wanted
from sysbackup.recovery.planned import PlannedFile, planned
from sysbackup.recovery.refusals import refused
from sysbackup.recovery.restore_report import Outcome

_PIECE = 1 << 20
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_SHARED = (
    "it is there and right, but has other names (hard links) and another owner, rights or time than in the backup:"
    " it was kept as it is; --overwrite replaces it"
)


class Present:
    """Looks at the target, for one thread; what came of it is counted in `outcome`."""

    def __init__(self, walker: Walker, applier: Applier, outcome: Outcome, *, overwrite: bool) -> None:
        self._walker = walker
        self._applier = applier
        self._outcome = outcome
        self._overwrite = overwrite

    def left(self, wanted: Wanted, group: list[bytes]) -> list[bytes]:
        """Of the names of one file those that are still to be made. Blocks: what is there is read."""
        rest: list[bytes] = []
        kept = -1
        names = 0
        try:
            for line in group:
                file = planned(line)
                try:
                    fd = self._found(file, wanted)
                except (OSError, Obstacle, FormatError) as exc:
                    refused(self._outcome, file.path, exc)
                    continue
                if fd < 0:
                    rest.append(line)
                    continue
                self._outcome.present += 1
                self._outcome.present_size += wanted.size
                if kept < 0:
                    kept, names = fd, 1
                else:
                    names += os.path.samestat(os.fstat(kept), os.fstat(fd))
                    os.close(fd)
            if rest and kept >= 0 and os.fstat(kept).st_nlink == names:
                rest = [line for line in rest if not self._link(kept, line)]
        finally:
            if kept >= 0:
                os.close(kept)
        return rest

    def _found(self, file: PlannedFile, wanted: Wanted) -> int:
        """A descriptor of the file, there and right in all it has; -1 where it is to be made."""
        above, name = split(file.path)
        place = self._walker.reach(above)
        fd = self._equal(place, name, wanted)
        settled = False
        try:
            settled = fd >= 0 and self._settle(fd, place, name, file.entry(), file.path)
        finally:
            if fd >= 0 and not settled:
                os.close(fd)
        return fd if settled else -1

    def other(self, place: TargetPlace, name: bytes, entry: FileNode, path: bytes) -> bool:
        """Whether a symbolic link, FIFO or device is there and right now. `InTheWay` where something else is."""
        try:
            fd = os.open(name, _LOOK, dir_fd=place.fd)
        except FileNotFoundError:
            return False
        try:
            if not _is_like(fd, entry):
                return self._different(place, name)
            if not self._settle(fd, place, name, entry, path):
                return False
        finally:
            os.close(fd)
        self._outcome.present += 1
        return True

    def readable(self, place: TargetPlace, name: bytes) -> int:
        """A descriptor of the regular file of that name; -1 where there is none. OSError where it may not be read."""
        try:
            look = os.open(name, _LOOK, dir_fd=place.fd)
        except FileNotFoundError:
            return -1
        try:
            return _readable(look) if stat.S_ISREG(os.fstat(look).st_mode) else -1
        finally:
            os.close(look)

    def _equal(self, place: TargetPlace, name: bytes, wanted: Wanted) -> int:
        """A descriptor of the file, if it holds that content; -1 where it is to be made, and may be."""
        try:
            look = os.open(name, _LOOK, dir_fd=place.fd)
        except FileNotFoundError:
            return -1
        fd = -1
        try:
            status = os.fstat(look)
            if stat.S_ISREG(status.st_mode) and status.st_size == wanted.size:
                fd = _readable(look)
        finally:
            os.close(look)
        try:
            if fd >= 0 and _holds(fd, wanted):
                found, fd = fd, -1
                return found
        finally:
            if fd >= 0:
                os.close(fd)
        self._different(place, name)
        return -1

    def _different(self, place: TargetPlace, name: bytes) -> bool:
        if not self._overwrite:
            raise in_the_way(place, name)
        return False

    def _settle(self, fd: int, place: TargetPlace, name: bytes, entry: FileNode, path: bytes) -> bool:
        """Whether the thing now has all that the entry says; False where it is to be replaced."""
        made = proc_path(fd)
        if self._applier.matches(made, os.fstat(fd), entry, path):
            return True
        # One look tells both: that this is what has the name, and that it has no other.
        there = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        if not os.path.samestat(there, os.fstat(fd)) or there.st_nlink != 1:
            if self._overwrite:
                return False
            raise InTheWay(_SHARED)
        if isinstance(entry, Link):
            self._applier.apply_to_link(made, entry, path)
        else:
            self._applier.apply_over(made, entry, path)
        return True

    def _link(self, fd: int, line: bytes) -> bool:
        """Give a file that is there one more of its names; False where only a copy will do."""
        path = planned(line).path
        try:
            above, name = split(path)
            put_link(proc_path(fd), self._walker.reach(above), name, overwrite=self._overwrite)
        except (OSError, Obstacle) as exc:
            if cannot_link(exc):
                return False
            refused(self._outcome, path, exc)
            return True
        self._outcome.hard_links += 1
        return True


def _is_like(fd: int, entry: FileNode) -> bool:
    """Whether what is there has the entry's type, and leads to the same thing."""
    status = os.fstat(fd)
    if isinstance(entry, Link):
        return stat.S_ISLNK(status.st_mode) and os.readlink(b"", dir_fd=fd) == entry.target_bytes
    if isinstance(entry, Fifo):
        return stat.S_ISFIFO(status.st_mode)
    kind = stat.S_ISCHR if isinstance(entry, CharDevice) else stat.S_ISBLK
    numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return kind(status.st_mode) and numbers == (getattr(entry, "major", -1), getattr(entry, "minor", -1))


def _readable(look: int) -> int:
    """The very file that `look` leads to, open for reading; -1 where this user may not read it."""
    try:
        return os.open(proc_path(look), _READ)
    except PermissionError:
        return -1


def _holds(fd: int, wanted: Wanted) -> bool:
    hashed = hashlib.sha256()
    at = 0
    while at <= wanted.size and (piece := os.pread(fd, _PIECE, at)):
        hashed.update(piece)
        at += len(piece)
    return at == wanted.size and hashed.digest() == wanted.sha
