"""What the torture tree is built with, and the account of what was built."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

MIB = 1 << 20
SECOND = 1_000_000_000
PATH_MAX = 4096  # with the final NUL: 4,095 bytes are the longest path a system call takes (limits.h)
NAME_MAX = 255


@dataclass(slots=True)
class Torture:
    """
    What was built, by absolute paths.

    A backup of all that `find TREE` prints must hold every path of `kinds` and
    must leave out every one of `passed_over`. A path of `too_long` must be in
    it or be reported; those of `problems` must be reported, and a backup must
    go on past them.
    """

    tree: bytes
    outside: bytes
    """Beside the tree: reached from it by symlinks only."""
    kinds: dict[bytes, str] = field(default_factory=dict)
    """What a manifest must hold: `f`, `d`, `l`, `p`, `c` or `b` for each path (besides: parents above)."""
    passed_over: set[bytes] = field(default_factory=set)
    """Sockets."""
    too_long: set[bytes] = field(default_factory=set)
    """Regular files and directories beyond PATH_MAX: no system call takes such a path whole."""
    problems: dict[bytes, str] = field(default_factory=dict)
    """What cannot be read, and why."""
    leads: dict[bytes, bytes] = field(default_factory=dict)
    """Symlinks of the tree that lead to a regular file, and that file's own path."""
    astray: set[bytes] = field(default_factory=set)
    """Symlinks that lead nowhere or in a circle: recorded, and no problem."""
    roundabout: dict[bytes, bytes] = field(default_factory=dict)
    """Paths that a picker may print besides: through symlinked directories; and the file each means."""
    bad_picks: dict[bytes, str] = field(default_factory=dict)
    """Paths that a picker may print and that must be reported, and why."""
    gone_picks: dict[bytes, str] = field(default_factory=dict)
    """Paths that a picker may print where nothing is: noted, and no problem."""
    links: list[frozenset[bytes]] = field(default_factory=list)
    """Groups of names of one inode."""
    equal: list[frozenset[bytes]] = field(default_factory=list)
    """Groups of files of equal contents, to be stored once."""
    left_out: list[str] = field(default_factory=list)
    """What this user or this file system could not have, in words."""


class Ground:
    """Builds, and writes down what it built."""

    def __init__(self, made: Torture, random: Random) -> None:
        self.made = made
        self.random = random
        self.times: dict[bytes, int] = {}
        """Which mtimes (ns) are to be set at the end, by path."""

    def path(self, *names: bytes) -> bytes:
        return b"/".join((self.made.tree, *names))

    def directory(self, path: bytes) -> bytes:
        os.mkdir(path)
        os.chmod(path, 0o755)
        self.made.kinds[path] = "d"
        return path

    def file(self, path: bytes, data: bytes = b"") -> bytes:
        with open(path, "xb") as f:
            f.write(data)
        os.chmod(path, 0o644)
        self.made.kinds[path] = "f"
        return path

    def symlink(self, target: bytes, path: bytes, *, leads_to: bytes | None = None) -> bytes:
        os.symlink(target, path)
        self.made.kinds[path] = "l"
        if leads_to:
            self.made.leads[path] = leads_to
        return path

    def text(self, size: int) -> bytes:
        """Bytes that gzip to about a tenth, no two alike."""
        words = [b"%08x " % self.random.getrandbits(32) for _ in range(64)]
        line = b"".join(self.random.choices(words, k=8192))
        copies = range(size // len(line) + 1)
        return b"".join(b"%d\n" % n + line for n in copies)[:size]

    def note(self, path: bytes, kind: str) -> None:
        if len(path) < PATH_MAX:
            self.made.kinds[path] = kind
        else:
            self.made.too_long.add(path)

    @contextmanager
    def possible(self, what: str) -> Iterator[None]:
        """What the system refuses here is left out, and said to be."""
        try:
            yield
        except (OSError, OverflowError) as exc:
            self.made.left_out.append(f"{what}: {exc}")

    def settle(self) -> None:
        """Gives everything a time of its own, so that no restored mtime is right by chance."""
        for n, path in enumerate([*self.made.passed_over, *self.made.kinds]):
            when = self.times.get(path, (1_500_000_000 + n) * SECOND + n)
            os.utime(path, ns=(when, when), follow_symlinks=False)
            if path in self.times and os.lstat(path).st_mtime_ns != when:
                self.made.left_out.append(f"the time of {path!r}: this file system cannot hold it")
            if self.made.kinds.get(path) == "f" and not os.access(path, os.R_OK):
                self.made.problems[path] = "permission denied"


@contextmanager
def opened(directory: bytes) -> Iterator[int]:
    """A descriptor of a directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
