"""What one read of one object brings, and for which files."""

from dataclasses import dataclass, field

from sysbackup.config.sections import MIB
from sysbackup.formats import gzipping, manifest
from sysbackup.formats.manifest import File

# A content up to this size is held in memory whole, checked, and written at once; a larger one streams.
HELD = 8 * MIB

_GAP = MIB  # what lies between two members is read too, if it is no more than this: cheaper than a request
_RANGE = 32 * MIB  # no single read is longer


@dataclass(slots=True)
class Wanted:
    """
    One content and who wants it.

    `offset` and `length` are of its bytes in the object; None: all of it.
    `groups` holds for each file to be made its encoded entries: more than one
    where they are hard links to one inode. `gzip` is what the manifest says of
    the bytes; of an object of its own (no `offset`) they may be either.
    """

    sha: bytes
    size: int
    gzip: bool
    offset: int | None
    length: int | None
    groups: list[list[bytes]] = field(default_factory=list)

    @property
    def stored_most(self) -> int:
        """The most bytes that this content can take in its object."""
        return gzipping.largest(self.size) if self.length is None else self.length


@dataclass(slots=True)
class Fetch:
    """
    What one read of one object brings. `key` is empty for empty files, which need none.

    `start` and `length` are the range to read; `length` None: to the end. `entry_bytes`
    are those of all entries that want its contents.
    """

    key: str
    version: str | None
    start: int = 0
    length: int | None = None
    contents: list[Wanted] = field(default_factory=list)
    entry_bytes: int = 0

    @property
    def streams(self) -> bool:
        """Whether its one content is too large to be held."""
        return len(self.contents) == 1 and self.contents[0].size > HELD

    @property
    def cost(self) -> int:
        """The most bytes it holds in memory."""
        if self.streams:
            return 8 * MIB + self.entry_bytes
        largest = max(wanted.size for wanted in self.contents)
        return self.entry_bytes + largest + (self.contents[0].stored_most if self.length is None else self.length)

    def part(self, contents: list[Wanted]) -> "Fetch":
        """A read of some of its contents, no longer than it must be; what it may cost is not more."""
        entry_bytes = sum(len(line) for wanted in contents for group in wanted.groups for line in group)
        fetch = Fetch(self.key, self.version, self.start, self.length, contents, entry_bytes)
        ends = [(w.offset, w.offset + w.length) for w in contents if w.offset is not None and w.length is not None]
        if ends and self.length is not None:
            fetch.start = min(begin for begin, _ in ends)
            fetch.length = max(end for _, end in ends) - fetch.start
        return fetch


def file_of(line: bytes) -> File:
    """The file that a plan has set down as `line`."""
    entry = manifest.decode(line)
    if not isinstance(entry, File):
        raise TypeError(entry)
    return entry


def begun(where: tuple[str, str | None], first: Wanted) -> Fetch:
    """A fetch of that object that begins with `first`, which is to be `join`ed to it."""
    return Fetch(where[0], where[1], first.offset or 0, first.length)


def joins(fetch: Fetch, where: tuple[str, str | None], wanted: Wanted) -> bool:
    """Whether one read can bring `wanted` too, which lies behind all that the fetch has."""
    if (fetch.key, fetch.version) != where:
        return False
    if _same(fetch.contents[-1], wanted):
        return True
    if fetch.length is None or wanted.offset is None or wanted.length is None:
        return False
    if fetch.streams or wanted.size > HELD:
        return False
    near = wanted.offset <= fetch.start + fetch.length + _GAP
    return near and wanted.offset + wanted.length - fetch.start <= _RANGE


def join(fetch: Fetch, wanted: Wanted, lines: list[bytes]) -> None:
    """Bring `wanted` too, for the file whose names `lines` are the entries of."""
    if not fetch.contents or not _same(fetch.contents[-1], wanted):
        fetch.contents.append(wanted)
        if wanted.offset is not None and wanted.length is not None:
            fetch.length = max(fetch.length or 0, wanted.offset + wanted.length - fetch.start)
    fetch.contents[-1].groups.append(lines)
    fetch.entry_bytes += sum(map(len, lines))


def _same(one: Wanted, other: Wanted) -> bool:
    return (one.offset, one.length, one.sha, one.size, one.gzip) == (
        other.offset,
        other.length,
        other.sha,
        other.size,
        other.gzip,
    )
