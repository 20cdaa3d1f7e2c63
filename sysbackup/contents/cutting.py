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


class Cuts:
    """
    Where to cut; `average` bytes are in a chunk, `longest` at the most. Not for use by two threads at once.

    Without pyfastcdc into blocks: then one byte inserted changes all that follow.
    """

    def __init__(self, average: int) -> None:
        self._average = average
        self.longest = average * _SPREAD
        self._cuts = (
            _by_content(avg_size=average, min_size=average // _SPREAD, max_size=self.longest) if _by_content else None
        )

    def ends(self, held: memoryview, *, last: bool) -> list[int]:
        """
        The ends of the chunks with which `held` begins, but for one that may go on behind it; of the `last`, of all.

        What is left behind the last of these is no more than `longest`. The same bytes give the
        same chunks, whatever comes at a time, as long as each time begins where a chunk does.
        """
        if self._cuts is not None:
            ends = [cut.offset + cut.length for cut in self._cuts.cut_buf(held)]
        else:
            ends = [*range(self._average, len(held), self._average), *[len(held)] * bool(held)]
        return ends if last else ends[:-1]


class Cutter:
    """Cuts one stream of bytes: `feed` it, then `end`. For what is short, and for who can afford copies."""

    def __init__(self, average: int) -> None:
        self._cuts = Cuts(average)
        self._enough = _AT_ONCE * average
        self._held = bytearray()

    def feed(self, piece: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Yield the chunks that this completes."""
        self._held += piece
        if len(self._held) >= self._enough:
            yield from self._cut(last=False)

    def end(self) -> Iterator[bytes]:
        """Yield what is left."""
        yield from self._cut(last=True)

    def _cut(self, *, last: bool) -> Iterator[bytes]:
        held = bytes(self._held)
        begin = 0
        for end in self._cuts.ends(memoryview(held), last=last):
            yield held[begin:end]
            begin = end
        self._held = bytearray(memoryview(held)[begin:])
