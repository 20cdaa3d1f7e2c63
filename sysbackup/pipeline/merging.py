"""
Merging: what all examiners have set down becomes members of the manifest, range of paths by range of paths.

Where a content lies is looked up only now, in the catalog, which knows nothing
but what the store has confirmed: so a manifest cannot name what is not stored.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import msgspec

from sysbackup.disk.sorted_runs import Block, SortedRun
from sysbackup.disk.sorting import Record
from sysbackup.formats.manifest_members import begins
from sysbackup.model import Location
from sysbackup.pipeline.entries import Noted, latest, line_in, noted

_BATCH = 500
# Objects whose names are kept encoded.
_KEPT = 1000

# Bytes of records in a range, as far as blocks show it: some 20,000 entries, a second's work for nobody.
_RANGE = 5 << 20

Find = Callable[[Iterable[bytes]], dict[bytes, Location]]
"""Finds the places of contents, by hash."""

Runs = Sequence[tuple[int, SortedRun]]
"""Runs, each with the number of its seat, whose file it lies in."""


class Range(NamedTuple):
    """Paths from `begin` on, and below `end`."""

    begin: bytes
    end: bytes | None


def ranges(runs: Runs) -> Iterator[Range]:
    """All paths in ranges that take about as long as one another; members of the manifest may begin where they do."""
    blocks = sorted((block.first, block.size) for _, run in runs for block in run.blocks)
    begin, size = b"", 0
    for first, length in blocks:
        if size >= _RANGE and begins(first) and first > begin:
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

    What it counts is complete when the last line was made. `placeless` are files, left
    out, whose contents are stored nowhere.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._ends: dict[tuple[str, str | None, str | None], tuple[bytes, bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.size = 0
        self.unchanged = 0
        self.placeless: list[bytes] = []

    def lines(self, records: Iterable[Record]) -> Iterator[tuple[bytes, bytes]]:
        """Encoded entries with their paths."""
        freshest = latest(records)
        while some := list(islice(freshest, _BATCH)):
            heads = [noted(value) for _, value in some]
            places = self._find([head.sha for head in heads if head.placeless])
            for (path, value), head in zip(some, heads, strict=True):
                line = line_in(value)
                if head.placeless:
                    place = places.get(head.sha)
                    if place is None:
                        self.placeless.append(path)
                        continue
                    line = self._placed(line, place)
                self._count(head)
                yield path, line

    def _count(self, head: Noted) -> None:
        self.counts[head.kind.decode()] += 1
        self.size += head.size
        self.unchanged += head.unchanged

    def _placed(self, line: bytes, at: Location) -> bytes:
        """The line of a file with the place of its content, as `manifest.File` has it."""
        named = at.key, at.version, at.encoding
        ends = self._ends.get(named)
        if ends is None:
            if len(self._ends) >= _KEPT:
                self._ends.clear()
            key, version, encoding = (None if word is None else msgspec.json.encode(word) for word in named)
            assert key is not None
            ends = self._ends[named] = (
                b',"dat":' + key + (b"" if version is None else b',"ver":' + version),
                b"}" if encoding is None else b',"enc":' + encoding + b"}",
            )
        span = b"" if at.span is None else b',"off":%d,"len":%d' % at.span
        return line[:-1] + ends[0] + span + ends[1]


def placeless(records: Iterable[Record], find: Find) -> Iterator[bytes]:
    """The paths of those files whose contents `find` does not find."""
    rest = iter(records)
    while some := list(islice(rest, _BATCH)):
        wanting = [(path, head.sha) for path, head in ((path, noted(value)) for path, value in some) if head.placeless]
        places = find(sha for _, sha in wanting)
        yield from (path for path, sha in wanting if sha not in places)
