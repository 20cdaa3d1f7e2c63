"""Directories, symbolic links, FIFOs and devices: what stands around the contents."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sysbackup.concurrency.flag import Flag
from sysbackup.disk.sorting import Sorter
from sysbackup.errors import FormatError
from sysbackup.files.applying import Applier
from sysbackup.files.folders import proc_path
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import Obstacle, TargetPlace, Walker, split
from sysbackup.files.writing import check_free, discard, make_special, move
from sysbackup.formats import manifest
from sysbackup.formats.manifest import Directory, FileNode, Link
from sysbackup.recovery.present import Present
from sysbackup.recovery.refusals import reason, refused
from sysbackup.recovery.restore_report import Outcome

_T = TypeVar("_T")

_INVERTED = bytes(range(255, -1, -1))


class Skeleton:
    """
    Makes what has no contents beneath an open target; blocks on the disk.

    Directories are made closed to everybody else and get their owners, rights
    and times last, by `finish`, when nothing more is made in them. A context
    manager: leaving it frees memory and disk.
    """

    def __init__(self, root: int, owners: Owners, stop: Flag, spool: Path, *, overwrite: bool) -> None:
        self.outcome = Outcome()
        self._root = root
        self._applier = Applier(owners, self.outcome.lack)
        self._stop = stop
        self._overwrite = overwrite
        self._made = Sorter(spool, 16 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._made.close()

    def make_directories(self, directories: Iterable[Directory], *, target_made: bool) -> None:
        """
        Make the directories that are not there, each after those above it.

        One that is there stays as it is, unless things may be overwritten: then
        it gets rights, owner and time of the manifest's. That of `/` is the
        target itself, and is treated as one that was there unless the target was made.
        """
        with Walker(self._root) as walker:
            for entry in _until(self._stop, directories):
                path = entry.path_bytes
                try:
                    made = target_made if path == b"/" else self._make_directory(walker, path)
                except (OSError, Obstacle) as exc:
                    refused(self.outcome, path, exc)
                    continue
                if made:
                    self.outcome.directories += 1
                else:
                    self.outcome.kept += 1
                if made or self._overwrite:
                    self._made.add(_last_first(path), manifest.encode(entry))

    def make_others(self, others: Iterable[FileNode]) -> None:
        """Make symbolic links, FIFOs and devices."""
        with Walker(self._root) as walker:
            present = Present(walker, self._applier, self.outcome, overwrite=self._overwrite)
            for entry in _until(self._stop, others):
                path = entry.path_bytes
                try:
                    above, name = split(path)
                    place = walker.reach(above)
                    if present.other(place, name, entry, path):
                        continue
                    self._make_other(place, name, entry, path)
                except (OSError, OverflowError, ValueError, Obstacle, FormatError) as exc:
                    refused(self.outcome, path, exc)
                    continue
                if isinstance(entry, Link):
                    self.outcome.symlinks += 1
                else:
                    self.outcome.specials += 1

    def finish(self) -> None:
        """Give directories their owners, rights and times, each after those beneath it."""
        with Walker(self._root) as walker:
            for _, line in _until(self._stop, self._made.sorted()):
                entry = manifest.decode(line)
                if not isinstance(entry, Directory):
                    raise TypeError(entry)
                path = entry.path_bytes
                try:
                    fd = walker.opened(path[1:])
                    try:
                        self._applier.apply(proc_path(fd), entry, path)
                    finally:
                        os.close(fd)
                except (OSError, Obstacle) as exc:
                    self.outcome.fail(path, f"its rights could not be set: {reason(exc)}")

    def _make_directory(self, walker: Walker, path: bytes) -> bool:
        above, name = split(path)
        place = walker.reach(above)
        try:
            os.mkdir(name, 0o700, dir_fd=place.fd)
        except FileExistsError:
            if _is_directory(place, name):
                return False
            if not self._overwrite:
                check_free(place, name)
            os.unlink(name, dir_fd=place.fd)
            os.mkdir(name, 0o700, dir_fd=place.fd)
        if place.inherits:
            walker.disinherit(path[1:])
        return True

    def _make_other(self, place: TargetPlace, name: bytes, entry: FileNode, path: bytes) -> None:
        temporary, fd = make_special(place, entry)
        try:
            if isinstance(entry, Link):
                self._applier.apply_to_link(proc_path(fd), entry, path)
            else:
                self._applier.apply(proc_path(fd), entry, path)
            move(place, temporary, name, overwrite=self._overwrite)
        finally:
            os.close(fd)
            discard(place, temporary)


def _until(stop: Flag, entries: Iterable[_T]) -> Iterator[_T]:
    """The entries, up to the one at which the restore was stopped."""
    for entry in entries:
        if stop.is_set():
            return
        yield entry


def _last_first(path: bytes) -> bytes:
    """A key by which paths sort from the last to the first: what is beneath one before it, and neighbours together."""
    return (b"" if path == b"/" else path).translate(_INVERTED) + b"\xff"  # a NUL's, which is in no path


def _is_directory(place: TargetPlace, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place.fd, follow_symlinks=False).st_mode)
