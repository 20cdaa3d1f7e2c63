"""What one read of one object brings, and for which files."""

from msgspec import Struct

from sysbackup.config.sections import MIB
from sysbackup.formats import chunk_list, encodings
from sysbackup.model import Span

# A content up to this size is held in memory whole, checked, and written at once; a larger one goes by in pieces.
HELD = 8 * MIB

_GAP = MIB  # what lies between two members is read too, if it is no more than this: cheaper than a request
RANGE = 32 * MIB
"""No single read into memory is longer."""

_PIECES = 8 * MIB  # of a content that goes by in pieces: what is under way
_CHUNKS = 48 * MIB  # of one that comes in chunks: ranges of `contents.assembling`, and a chunk of each level unpacked


class Wanted(Struct):
    """
    One content and who wants it.

    `span` is where its bytes are in the object; None: it is all of it. `encoding` names
    what the manifest says of them; of an object of its own they may be another.
    `groups` holds for each file to be made what was `planned`, encoded: more than one
    where they are hard links to one inode.
    """

    sha: bytes
    size: int
    encoding: str | None
    span: Span | None
    groups: list[list[bytes]] = []

    @property
    def stored_most(self) -> int:
        """The most bytes that this content can take in its object."""
        return encodings.largest(self.size) if self.span is None else self.span.length


class Fetch(Struct):
    """
    What one read of one object brings. `key` is empty for empty files, which need none.

    `start` and `length` are the range to read; `length` None: to the end. `entry_bytes`
    are those of all entries that want its contents.
    """

    key: str
    version: str | None
    start: int = 0
    length: int | None = None
    contents: list[Wanted] = []
    entry_bytes: int = 0

    @property
    def chunked(self) -> bool:
        """Whether it brings a list of the chunks that make its one content."""
        return len(self.contents) == 1 and self.contents[0].encoding == chunk_list.NAME

    @property
    def large(self) -> bool:
        """Whether its one content is too large to be held, or comes in chunks: it is by itself then."""
        return self.chunked or (len(self.contents) == 1 and self.contents[0].size > HELD)

    @property
    def cost(self) -> int:
        """The most bytes it holds in memory; of a large content without those that were read."""
        if self.large:
            return (_CHUNKS if self.chunked else _PIECES) + self.entry_bytes
        largest = max(wanted.size for wanted in self.contents)
        return self.entry_bytes + largest + self.read_most

    @property
    def read_most(self) -> int:
        """The most bytes that are to be read into memory; of a large content there may be more, chunks do not count."""
        if not self.key or self.chunked:
            return 0
        most = self.contents[0].stored_most if self.length is None else self.length
        return min(most, RANGE) if self.large else most

    def part(self, contents: list[Wanted]) -> "Fetch":
        """A read of some of its contents, no longer than it must be; what it may cost is not more."""
        entry_bytes = sum(len(line) for wanted in contents for group in wanted.groups for line in group)
        fetch = Fetch(self.key, self.version, self.start, self.length, contents, entry_bytes)
        spans = [wanted.span for wanted in contents if wanted.span is not None]
        if spans and self.length is not None:
            fetch.start = min(span.offset for span in spans)
            fetch.length = max(span.end for span in spans) - fetch.start
        return fetch


def begun(where: tuple[str, str | None], first: Wanted) -> Fetch:
    """A fetch of that object that begins with `first`, which is to be `join`ed to it."""
    span = first.span
    return Fetch(*where) if span is None else Fetch(*where, span.offset, span.length)


def joins(fetch: Fetch, where: tuple[str, str | None], wanted: Wanted) -> bool:
    """Whether one read can bring `wanted` too, which lies behind all that the fetch has."""
    if (fetch.key, fetch.version) != where or fetch.length is None or wanted.span is None:
        return False
    if fetch.large or wanted.size > HELD:
        return False
    near = wanted.span.offset <= fetch.start + fetch.length + _GAP
    return near and wanted.span.end - fetch.start <= RANGE


def join(fetch: Fetch, wanted: Wanted) -> None:
    """Bring `wanted` too."""
    fetch.contents.append(wanted)
    if wanted.span is not None:
        fetch.length = max(fetch.length or 0, wanted.span.end - fetch.start)
