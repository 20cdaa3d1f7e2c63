"""
The demo's own judge: is what came back what is there?

It shares nothing with the code that backs up and restores. It walks both trees,
reads every file in both and compares byte by byte.
"""

import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from sysbackup.cli.demo_workspace import lies_in
from sysbackup.model import shown

_CHUNK = 1 << 20
_SHOWN = 20
_SPECIAL = stat.S_ISUID | stat.S_ISGID


@dataclass(slots=True)
class Extent:
    """
    How much of a tree a backup would keep: entries in it, and bytes.

    `elsewhere` are the bytes of files outside that links in it lead to, `closed`
    the entries that are not for this user to read.
    """

    entries: int = 0
    size: int = 0
    elsewhere: int = 0
    closed: int = 0

    @property
    def total(self) -> int:
        """All bytes that the backup would hold."""
        return self.size + self.elsewhere


def extent(subject: bytes, at_most: int | None) -> Extent:
    """What the demo's picker would find in a tree. Stops early where it is more than `at_most` bytes."""
    found = Extent()
    targets: set[bytes] = set()
    for path, status in walk(subject):
        if not _open_to_us(path, status):
            found.closed += 1
            continue
        found.entries += 1
        if stat.S_ISREG(status.st_mode):
            found.size += status.st_size
        elif stat.S_ISLNK(status.st_mode):
            target = os.path.realpath(path)
            if target not in targets and not lies_in(target, subject) and os.path.isfile(target):
                targets.add(target)
                found.elsewhere += os.path.getsize(target)
        if at_most is not None and found.total > at_most:
            break
    return found


def walk(top: bytes, but: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    """
    Everything in a tree, itself included, on one file system; `but` is left out, and what vanishes meanwhile.

    A directory that may not be listed is named, and nothing in it.
    """
    try:
        status = os.lstat(top)
    except OSError:
        return
    device = status.st_dev
    yield top, status
    waiting = [top] if stat.S_ISDIR(status.st_mode) else []
    while waiting:
        above = waiting.pop()
        try:
            with os.scandir(above) as entries:
                inside = [entry.path for entry in entries]
        except OSError:
            continue
        for path in inside:
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if path == but:
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                waiting.append(path)


def made_up(path: bytes) -> bool:
    """Whether a path leads to what the kernel makes up when it is read: it never is the same twice."""
    return any(lies_in(path, above) for above in (b"/proc", b"/sys", b"/dev"))


def _open_to_us(path: bytes, status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return os.access(path, os.R_OK | os.X_OK)
    return stat.S_ISLNK(status.st_mode) or os.access(path, os.R_OK)


@dataclass(slots=True)
class Comparison:
    """
    Compares the tree `restored` with what it was made from.

    `since` (ns since 1970): what changed later is not judged, nor what the
    kernel makes up. `told` are the paths that the backup said it could not keep.
    Read the results after `steps`.
    """

    restored: bytes
    since: int
    told: Collection[bytes]
    files: int = 0
    others: int = 0
    size: int = 0
    changed: int = 0
    differing: int = 0
    differences: list[str] = field(default_factory=list)
    _links: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    _linked: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def steps(self, subject: bytes, but: bytes) -> Iterator[None]:
        """Do it, in small steps: first what came back, then what should have."""
        for path, status in walk(self.restored):
            original = path[len(self.restored) :]
            if original and not made_up(original):
                yield from self._compare(original, path, status)
        for path, status in walk(subject, but):
            yield
            if not os.path.lexists(self.restored + path) and self._missed(path, status):
                self._differ(path, "is missing")

    def _missed(self, path: bytes, status: os.stat_result) -> bool:
        if stat.S_ISSOCK(status.st_mode) or not _open_to_us(path, status):
            return False
        if status.st_ctime_ns >= self.since:
            self.changed += 1
            return False
        return path not in self.told

    def _compare(self, path: bytes, copy: bytes, new: os.stat_result) -> Iterator[None]:
        yield
        try:
            old = os.lstat(path)
            is_later = old.st_ctime_ns >= self.since
            if is_later and not stat.S_ISDIR(old.st_mode):
                self.changed += 1
                return
            if (kind := stat.S_IFMT(old.st_mode)) != stat.S_IFMT(new.st_mode):
                self._differ(path, "has become something of another kind")
                return
            self.files += kind == stat.S_IFREG
            self.others += kind != stat.S_IFREG
            for what in _looks(old, new, is_later=is_later):
                self._differ(path, what)
            if kind == stat.S_IFLNK and os.readlink(path) != os.readlink(copy):
                self._differ(path, "leads elsewhere")
            if kind == stat.S_IFREG:
                self._link(path, old, new)
                yield from self._contents(path, copy)
        except OSError as error:
            # Gone, or closed to us, since it was read: not the copy's fault. A copy that cannot be read is.
            if error.filename == copy:
                self._differ(path, f"cannot be read: {error.strerror}")
            elif error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG):
                self.changed += 1
            else:
                raise

    def _contents(self, path: bytes, copy: bytes) -> Iterator[None]:
        with open(path, "rb") as one, open(copy, "rb") as two:
            while True:
                yield
                was, now = one.read(_CHUNK), two.read(_CHUNK)
                if was != now:
                    self._differ(path, "has other contents")
                    return
                if not was:
                    return
                self.size += len(was)

    def _link(self, path: bytes, old: os.stat_result, new: os.stat_result) -> None:
        """Names of one file must be names of one file again, and of no other."""
        if old.st_nlink == 1 == new.st_nlink:
            return
        was, now = (old.st_dev, old.st_ino), (new.st_dev, new.st_ino)
        if self._links.setdefault(was, now) != now or self._linked.setdefault(now, was) != was:
            self._differ(path, "is linked to other files than before")

    def _differ(self, path: bytes, what: str) -> None:
        self.differing += 1
        if len(self.differences) < _SHOWN:
            self.differences.append(f"{shown(path)} {what}")


def _looks(old: os.stat_result, new: os.stat_result, *, is_later: bool) -> Iterator[str]:
    """In what two things of one kind differ, contents aside."""
    kind = stat.S_IFMT(old.st_mode)
    same_owner = (old.st_uid, old.st_gid) == (new.st_uid, new.st_gid)
    if os.geteuid() == 0 and not same_owner:
        yield f"belonged to {old.st_uid}:{old.st_gid}, now to {new.st_uid}:{new.st_gid}"
    # Who cannot give a file its owner does not give it the owner's rights either.
    mask = 0o7777 if same_owner else 0o7777 & ~_SPECIAL
    was, now = old.st_mode & mask, new.st_mode & mask
    if kind != stat.S_IFLNK and was != now:
        yield f"had mode {was:04o}, has {now:04o}"
    if kind == stat.S_IFREG and old.st_size != new.st_size:
        yield f"had {old.st_size} bytes, has {new.st_size}"
    if not is_later and old.st_mtime_ns != new.st_mtime_ns:
        yield "has another modification time"
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and old.st_rdev != new.st_rdev:
        yield "is another device"
