"""
The demo's own judge: is what came back what is there?

It shares nothing with the code that backs up and restores. It walks both trees,
reads every file in both and compares byte by byte.
"""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from sysbackup.demo.tree_walk import TreeNode, inside, made_up, opened, walk
from sysbackup.demo.workspace import lies_in
from sysbackup.model import shown

_CHUNK = 1 << 20
_SHOWN = 20
_SPECIAL = stat.S_ISUID | stat.S_ISGID
# Never wait for a writer, where a FIFO has taken the file's place.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
    for node in walk(subject, but=b""):
        if not node.open_to_us:
            found.closed += 1
            continue
        found.entries += 1
        if node.kind == stat.S_IFREG:
            found.size += node.status.st_size
        elif node.kind == stat.S_IFLNK:
            target = os.path.realpath(node.path)
            if target not in targets and not lies_in(target, subject) and os.path.isfile(target):
                targets.add(target)
                found.elsewhere += os.path.getsize(target)
        if at_most is not None and found.total > at_most:
            break
    return found


@dataclass(slots=True)
class Comparison:
    """
    Compares the tree `restored` with what it was made from.

    `since` (ns since 1970): what changed later is not judged, nor what this user
    may not read (any more), nor what the kernel makes up. `told` are the paths
    that the backup said it could not keep. Read the results after `steps`.
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
        """Do it, in small steps: first what came back, then what should have; `but` is left out of that."""
        back: set[bytes] = set()
        waiting = [b"/"]
        while waiting:
            path = waiting.pop()
            with ExitStack() as stack:
                originals = copies = -1
                try:
                    copies = stack.enter_context(opened(self.restored + path))
                    originals = stack.enter_context(opened(path))
                except OSError:
                    if copies < 0:
                        self.changed += 1
                        continue
                for copy in inside(path, copies):
                    back.add(copy.path)
                    if copy.kind == stat.S_IFDIR:
                        waiting.append(copy.path)
                    if not made_up(copy.path):
                        yield from self._compare(copy, originals)
        for node in walk(subject, but):
            yield
            if node.path not in back and node.path not in self.told and self._due(node):
                self._differ(node.path, "is missing")

    def _due(self, node: TreeNode) -> bool:
        if node.status.st_ctime_ns >= self.since:
            self.changed += 1
            return False
        return node.kind != stat.S_IFSOCK and node.open_to_us

    def _compare(self, copy: TreeNode, originals: int) -> Iterator[None]:
        """One thing that came back with the one of the same name in `originals`, if that directory is still there."""
        yield
        path, name, kind = copy.path, copy.name, copy.kind
        try:
            old = os.stat(name, dir_fd=originals, follow_symlinks=False)
        except OSError:
            self.changed += 1
            return
        is_later = old.st_ctime_ns >= self.since
        if is_later and not stat.S_ISDIR(old.st_mode):
            self.changed += 1
            return
        if stat.S_IFMT(old.st_mode) != kind:
            self._differ(path, "has become something of another kind")
            return
        for what in _looks(old, copy.status, is_later=is_later):
            self._differ(path, what)
        if kind == stat.S_IFLNK and os.readlink(name, dir_fd=originals) != os.readlink(name, dir_fd=copy.folder):
            self._differ(path, "leads elsewhere")
        if kind == stat.S_IFREG:
            self.files += 1
            self._link(path, old, copy.status)
            yield from self._contents(copy, originals)
        else:
            self.others += 1

    def _contents(self, copy: TreeNode, originals: int) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                original, restored = (
                    stack.enter_context(open(os.open(copy.name, _FILE, dir_fd=folder), "rb"))
                    for folder in (originals, copy.folder)
                )
            except OSError:
                self.changed += 1
                return
            while True:
                yield
                was, now = original.read(_CHUNK), restored.read(_CHUNK)
                if was != now:
                    self._differ(copy.path, "has other contents")
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
