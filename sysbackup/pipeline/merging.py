"""
Merging: what all examiners have set down becomes members of the manifest, range of paths by range of paths.

Where a content lies is looked up in the catalog, which knows nothing but what the
store has confirmed: so a manifest cannot name what is not stored. That is only now, but for
files that were unchanged; where anything is lost meanwhile, for these, too.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from sysbackup.disk.sorted_runs import Block, SortedRun
from sysbackup.disk.sorting import Record
from sysbackup.formats.manifest_members import begins
from sysbackup.model import Location
from sysbackup.pipeline.entries import Places, heads, latest, line_in, noted

_BATCH = 500

# Bytes of records in a range, as far as blocks show it: some 20,000 entries, a second's work for nobody.
_RANGE = 5 << 20
# Somebody may name files so that no member begins with them.
_RANGE_AT_MOST = 4 * _RANGE

Find = Callable[[Iterable[bytes]], dict[bytes, Location]]
"""Finds the places of contents, by hash."""

Runs = Sequence[tuple[int, SortedRun]]
"""Runs, each with the number of its seat, whose file it lies in."""


class Range(NamedTuple):
    """Paths from `begin` on, and below `end`."""

    begin: bytes
    end: bytes | None


def ranges(runs: Runs) -> Iterator[Range]:
    """All paths in ranges that take about as long as one another; members of the manifest do well to begin there."""
    blocks = sorted((block.first, block.size) for _, run in runs for block in run.blocks)
    begin, size = b"", 0
    for first, length in blocks:
        if first > begin and (size >= _RANGE_AT_MOST or (size >= _RANGE and begins(first))):
            yield Range(begin, first)
            begin, size = first, 0
        size += length
    yield Range(begin, None)


def within(runs: Runs, of: Range) -> list[tuple[int, SortedRun]]:
    """The same runs, of the blocks that may hold paths of a range."""
    found = []
    for seat, run in runs:
        blocks = _overlapping(run.blocks, of)
        if blocks:
            found.append((seat, SortedRun(blocks, run.level)))
    return found


def _overlapping(blocks: list[Block], of: Range) -> list[Block]:
    # of several blocks that begin with one path all but the first may hold nothing else, the one before them some of it
    begin = max(0, bisect_left(blocks, of.begin, key=itemgetter(0)) - 1)
    return blocks[begin : None if of.end is None else bisect_left(blocks, of.end, key=itemgetter(0))]


class Merger:
    """
    Makes the lines of a range: of each path the latest, files with the places of their contents.

    With `believing`, what a line says of the place already is right. What is counted is
    complete when the last line was made. `placeless` are files, left out, whose contents are stored nowhere.
    """

    def __init__(self, find: Find, *, believing: bool) -> None:
        self._find = find
        self._believing = believing
        self._places = Places()
        self.counts: Counter[str] = Counter()
        self.size = 0
        self.unchanged = 0
        self.placeless: list[bytes] = []

    def lines(self, records: Iterable[Record]) -> Iterator[tuple[bytes, bytes]]:
        """Encoded entries with their paths."""
        freshest = latest(records)
        while some := list(islice(freshest, _BATCH)):
            yield from self._lines(some)

    def _lines(self, some: Sequence[Record]) -> Iterator[tuple[bytes, bytes]]:
        believing, tell = self._believing, self._places.told
        found = heads(value for _, value in some)
        wanted = [sha for _, _, stored, _, _, sha, told in found if stored and not (told and believing)]
        places = self._find(wanted) if wanted else {}
        kinds = []
        for (path, value), (kind, unchanged, stored, _, size, sha, told) in zip(some, found, strict=True):
            line = line_in(value)
            if stored and not (told and believing):
                place = places.get(sha)
                if place is None:
                    self.placeless.append(path)
                    continue
                line = line[: -1 - told] + tell(place) + b"}"
            kinds.append(kind)
            self.size += size
            self.unchanged += unchanged
            yield path, line
        for kind, number in Counter(kinds).items():
            self.counts[kind.decode()] += number


def placeless(records: Iterable[Record], find: Find) -> Iterator[bytes]:
    """The paths of those files whose contents `find` does not find."""
    rest = iter(records)
    while some := list(islice(rest, _BATCH)):
        wanting = [(path, head.sha) for path, head in ((path, noted(value)) for path, value in some) if head.stored]
        places = find(sha for _, sha in wanting)
        yield from (path for path, sha in wanting if sha not in places)
