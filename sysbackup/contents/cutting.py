"""
Cutting: large contents taken apart where their own bytes say so.

Whatever is inserted or taken away moves the cuts next to it, and no others: so most
chunks of tonight's dump are last night's. No reader knows of this; another cutter,
or other sizes, cost no more than what is stored anew.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

# A chunk has a quarter of the average at the least, and four times as much at the most.
_SPREAD = 4
# Bytes that are cut at a time, in averages: what is left over is looked at once more with what follows.
_AT_ONCE = 16


class _Cut(Protocol):
    offset: int
    length: int


class _Cuts(Protocol):
    """What finds the cuts in a buffer; those of its last chunk are the buffer's end."""

    def cut_buf(self, buf: memoryview) -> Iterator[_Cut]: ...


try:
    from pyfastcdc.cy import FastCDC as _FastCDC

    _by_content: Callable[..., _Cuts] | None = _FastCDC
except ImportError:  # no wheel for this processor
    _by_content = None

BY_CONTENT = _by_content is not None
"""Whether cuts follow the content here; else they come at regular distances."""


class Cutter:
    """
    Cuts one stream of bytes: `feed` it, then `end`. `average` bytes are in a chunk; the last may be small.

    Without pyfastcdc into blocks: then one byte inserted changes all that follow.

    The same bytes give the same chunks, whatever the pieces in which they come. Not
    for use by two threads at once; holds some sixteen averages.
    """

    def __init__(self, average: int) -> None:
        self._average = average
        self._cuts = (
            _by_content(avg_size=average, min_size=average // _SPREAD, max_size=average * _SPREAD)
            if _by_content
            else None
        )
        self._held = bytearray()

    def feed(self, piece: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Yield the chunks that this completes."""
        self._held += piece
        if len(self._held) >= _AT_ONCE * self._average:
            yield from self._cut(last=False)

    def end(self) -> Iterator[bytes]:
        """Yield what is left."""
        yield from self._cut(last=True)

    def _cut(self, *, last: bool) -> Iterator[bytes]:
        held = bytes(self._held)
        ends = list(self._ends(memoryview(held)))
        if ends and not last:
            ends.pop()  # where the buffer ends, which the content need not
        begin = 0
        for end in ends:
            yield held[begin:end]
            begin = end
        self._held = bytearray(memoryview(held)[begin:])

    def _ends(self, held: memoryview) -> Iterator[int]:
        if self._cuts is not None:
            return (cut.offset + cut.length for cut in self._cuts.cut_buf(held))
        return iter([*range(self._average, len(held), self._average), *[len(held)] * bool(held)])
