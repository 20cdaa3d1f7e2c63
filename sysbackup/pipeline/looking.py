"""
Looking: from paths to entries of the manifest, and to the contents of what is to be read.

Nothing here knows of the catalog, the spool or other threads: what is remembered of
a file is asked of `Memory`, and what is found is handed back.
"""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence

from sysbackup.disk.sorting import Record
from sysbackup.files import xattrs
from sysbackup.files.folders import LINKS_AT_MOST, Folder, Folders, Place, link_status, made_up
from sysbackup.files.nodes import bare, node
from sysbackup.files.owners import Owners
from sysbackup.files.reading import TRIES, Patience, Reading, Replaced, TooLarge, opened, read
from sysbackup.formats import manifest
from sysbackup.pipeline.entries import PlainFiles, spooled
from sysbackup.pipeline.file_facts import describe_file, in_two_states, settled, state_of, states_of, unreadable
from sysbackup.pipeline.found import Found, Unhashed
from sysbackup.pipeline.remembered import Memory

Seen = tuple[bytes, os.stat_result, bool]
"""A regular file: its real path, its status, and whether it surely has no extended attributes."""

# What a slash, and what leads elsewhere, ends with.
_NO_NAMES = (b"", b".", b"..")


class Looker:
    """
    Looks at paths. For one thread; one that has its process to itself (`alone`) changes its working directory.

    `lock_timeout`: seconds that all files of one batch together wait for locks;
    `stop`, once set, ends that waiting. Files of more than `whole` bytes are not read. `at` is
    told what is looked at.
    """

    def __init__(
        self,
        memory: Memory,
        owners: Owners,
        lock_timeout: float,
        whole: int,
        stop: threading.Event,
        at: Callable[[bytes], None] = lambda _: None,
        *,
        alone: bool = False,
    ) -> None:
        self._alone = alone
        self._memory = memory
        self._at = at
        self._owners = owners
        self._plain = PlainFiles(owners)
        self._lock_timeout = lock_timeout
        self._whole = whole
        self._stop = stop

    def look(self, paths: Sequence[bytes], allowance: int, number: int) -> Found:
        """
        Record what lies at the paths and read the files among it, about `allowance` bytes of them.

        An error may come from a directory that we hold open and that another one
        has replaced since: such paths are looked up again from the root.
        """
        out = Found(number)
        for _ in range(TRIES):
            missed: list[tuple[bytes, Exception]] = []
            found: list[Seen] = []
            with Folders(alone=self._alone) as folders:
                self._look_at_all(folders, paths, found, out, missed)
                left = allowance - sum(len(file.reading.content) for file in out.unhashed)
                self._read_all(folders, found, left, out, missed)
            moved = [(path, exc) for path, exc in missed if not out.settle(path, exc)]
            missed.clear()  # each error holds on to the frame that it came from, and that to the list
            if not moved:
                return out
            paths = [path for path, _ in moved]
        out.problems += [unreadable(path, exc) for path, exc in moved]
        return out

    def _look_at_all(
        self,
        folders: Folders,
        paths: Sequence[bytes],
        found: list[Seen],
        out: Found,
        missed: list[tuple[bytes, Exception]],
    ) -> None:
        """Record the paths, regular files but for their contents; `missed` is told of those that could not be."""
        at, look, regular, directory = self._at, os.lstat, stat.S_ISREG, stat.S_ISDIR
        before: bytes | None = None
        folder = None
        for path in paths:
            at(path)
            above, _, name = path.rpartition(b"/")
            try:
                if above != before:
                    # "//name" is another spelling of "/name"; every other one leads to a directory that is not known
                    before, folder = above, None if above == b"/" else folders.known(above)
                # Most are files in a directory that is open; all others take the long way.
                if folder is not None and name not in _NO_NAMES:
                    status = look(name, dir_fd=folder.fd)
                    if regular(status.st_mode):
                        found.append((path, status, self._plainly(folders, folder, name)))
                        continue
                    if directory(status.st_mode):
                        self._record_once(folders, Place(folder, name), status, out)
                        continue
                before = None
                self._look(folders, path, found, out)
            except OSError as exc:
                missed.append((path, exc))
            # always, and before any of them is closed
            self._record_folders(folders, path, out, missed)
            folders.trim()

    def _look(self, folders: Folders, path: bytes, found: list[Seen], out: Found) -> None:
        """Record one path and, of a link that leads to a file, every link on the way (rule 8)."""
        place = folders.find(path)
        picked = True
        for _ in range(LINKS_AT_MOST + 1):
            for link in place.links:
                self._record(link, link_status(link), out)
            status = link_status(place)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                found.append((place.path, status, self._plainly(folders, place.folder, place.name)))
                return
            if kind == stat.S_IFSOCK:
                out.sockets += picked
                return
            if kind == stat.S_IFDIR and picked:
                self._record_once(folders, place, status, out)
            elif kind == stat.S_IFLNK or picked:
                self._record(place, status, out)
            if kind != stat.S_IFLNK:
                return
            picked = False
            try:
                place = folders.target(place)
                link_status(place)
            except OSError:
                return  # dangling, circular or closed to us: the link itself is recorded
            if made_up(place.path) and not made_up(path):
                return

    def _plainly(self, folders: Folders, folder: Folder, name: bytes) -> bool:
        """
        Whether a file has no extended attributes, as far as that is of use: where it may be unchanged.

        Asked right after its status, while all that the kernel has of it is at hand.
        """
        return self._memory.knows_files and xattrs.none(folders.inside(folder) + name, follow=False)

    def _record(self, place: Place, status: os.stat_result, out: Found) -> None:
        if not stat.S_ISDIR(status.st_mode):
            self._memory.not_recorded(place.path)  # should it be a directory again
        entry = node(place, status, self._owners, out.problems)
        out.records.append(spooled(place.path, entry, out.number))

    def _record_once(self, folders: Folders, place: Place, status: os.stat_result | None, out: Found) -> None:
        """Record a directory, unless it was: most are picked and, for what is in them, opened."""
        path = place.path
        if not self._memory.first_seen(path):
            return
        try:
            status = status or os.fstat(place.folder.fd)
            bare = xattrs.none(folders.inside(place.folder) + (place.name or b"."), follow=False)
            record = self._plain.directory(path, status, out.number) if bare else None
            if record is None:
                self._record(place, status, out)
            else:
                out.records.append(record)
        except OSError:
            self._memory.not_recorded(path)
            raise

    def _record_folders(
        self, folders: Folders, picked: bytes, out: Found, missed: "list[tuple[bytes, Exception]]"
    ) -> None:
        for folder in folders.fresh():
            if made_up(folder.path) and not made_up(picked):
                folders.close(folder)  # it may be picked yet
                continue
            try:
                self._record_once(folders, Place(folder, b""), None, out)
            except OSError as exc:
                missed.append((folder.path, exc))

    def _read_all(
        self,
        folders: Folders,
        found: list[Seen],
        left: int,
        out: Found,
        missed: "list[tuple[bytes, Exception]]",
    ) -> None:
        """Read files, `left` bytes of them; `missed` is told of those that could not be."""
        patience = Patience(self._lock_timeout, self._stop)
        states = states_of(status for _, status, _ in found)
        known, places = self._memory.unchanged(states)
        moving = in_two_states(states)
        quick, records, number = self._plain.spooled, out.records, out.number
        for path, status, plain in found:
            named = status.st_dev, status.st_ino
            if (sha := known.get(named)) is not None and named not in moving:
                record = quick(path, status, sha, number, True, places.get(named)) if plain else None
                if record is None:
                    try:
                        record = self._reused(folders, path, status, sha, out)
                    except OSError as exc:
                        missed.append((path, exc))
                        continue
                records.append(record)
                out.files += 1
                out.bytes_unchanged += status.st_size
                continue
            if status.st_size > self._whole:
                out.large.append(path)
                continue
            if status.st_size > left:
                out.later.append((path, status.st_size))
                continue
            left -= status.st_size
            self._at(path)
            try:
                out.unhashed.append(self._read(folders, path, status, patience, out))
            except TooLarge:
                out.large.append(path)
            except (OSError, Replaced) as exc:
                missed.append((path, exc))

    def _reused(self, folders: Folders, path: bytes, status: os.stat_result, sha: bytes, out: Found) -> Record:
        """The entry of a file that is as it was; it is not opened, but what may change without it is read afresh."""
        folders.trim()
        entry = _file(node(folders.find(path), status, self._owners, out.problems))
        describe_file(entry, status, status.st_size, sha, ())
        return spooled(path, entry, out.number, unchanged=True)

    def finish(self, found: Found) -> None:
        """Finish the entries of the files that were read, and have their contents by hash."""
        for path, entry, reading, begun in found.unhashed:
            content, status, warnings = reading
            sha = hashlib.sha256(content).digest()
            # A size that is not what it holds (proc(5), some of FUSE) says nothing the next time either.
            sized = len(content) == status.st_size
            found.records.append(
                (entry is None and sized and not warnings and self._plain.spooled(path, status, sha, found.number))
                or self._special(path, entry, reading, sha, found.number)
            )
            found.files += 1
            found.bytes_read += len(content)
            if warnings:
                found.warned += [(path, warning) for warning in warnings]
            elif sized and settled(status, begun):
                found.states.append(state_of(status, sha))
            if content:
                found.contents[sha] = content
        found.unhashed.clear()

    def _special(self, path: bytes, entry: manifest.File | None, reading: Reading, sha: bytes, number: int) -> Record:
        if entry is None:
            entry = _file(bare(path, reading.status, self._owners))
        describe_file(entry, reading.status, len(reading.content), sha, reading.warnings)
        return spooled(path, entry, number)

    def _read(self, folders: Folders, path: bytes, status: os.stat_result, patience: Patience, out: Found) -> Unhashed:
        for attempt in range(1, TRIES + 1):
            folders.trim()
            place = folders.find(path)
            begun = time.time_ns()
            try:
                fd, status = opened(place, status.st_dev, status.st_ino)
            except Replaced:
                # An editor saved it between our look and our opening: the file is the new one.
                status = link_status(place)
                if attempt == TRIES or not stat.S_ISREG(status.st_mode):
                    raise
                continue
            try:
                reading = read(fd, status, self._whole, patience)
                plain = not place.links and xattrs.none(fd, follow=True)
                entry = None if plain else _file(node(place, reading.status, self._owners, out.problems, fd))
            finally:
                os.close(fd)
            return Unhashed(path, entry, reading, begun)
        raise AssertionError  # the last try returns or raises


def _file(entry: manifest.FileNode) -> manifest.File:
    assert isinstance(entry, manifest.File)
    return entry
