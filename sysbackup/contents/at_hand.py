"""
At hand: chunks of a content that a file here has already, so that they need not be fetched.

Most of a damaged image is where it was. What has moved is found by cutting the file as
contents are cut, a stretch of it at a time: insertions and deletions up to that length.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

from sysbackup.contents.cutting import Cutter
from sysbackup.formats.chunk_list import Chunk

# As files are cut by default; what was cut otherwise is found where it was, or moved as a whole.
_AVERAGE = 512 << 10
_STRETCH = 256 << 20
_PIECE = 1 << 20


class AtHand:
    """
    One open file, `descriptor`, which may have changed since it was backed up, and may change now.

    Asked for the chunks of a content in their order. Holds some thousand digests. For one thread at a time.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._content = 0  # how far that was asked
        self._shift = 0  # what was found last lies so much further here
        self._cut: dict[bytes, int] = {}
        self._cutting: Iterator[tuple[bytes, int]] = iter(())
        self._begun = 0
        self._reached = 0

    def find(self, chunks: Sequence[Chunk]) -> list[int | None]:
        """Where in the file these lie, the next ones of the content; None where that is not known."""
        return [self._find(chunk) for chunk in chunks]

    def read(self, chunk: Chunk, at: int) -> bytes | None:
        """A chunk that lies there; None where it does not, or not any more."""
        try:
            content = os.pread(self._fd, chunk.size, at)
        except OSError:
            return None
        return content if hashlib.sha256(content).digest() == chunk.sha else None

    def _find(self, chunk: Chunk) -> int | None:
        at, self._content = self._content + self._shift, self._content + chunk.size
        if at >= 0 and self.read(chunk, at) is not None:
            return at
        self._look_ahead(max(0, at))
        found = self._cut.get(chunk.sha)
        if found is not None:
            self._shift = found - (self._content - chunk.size)
        return found

    def _look_ahead(self, at: int) -> None:
        """Know the chunks from there on, and a stretch behind."""
        if at < self._begun or at > self._reached:
            self._cut, self._begun, self._reached = {}, at, at
            self._cutting = self._chunks(at)
        while self._reached < at + _STRETCH:
            try:
                sha, begin = next(self._cutting)
            except (StopIteration, OSError):
                return
            self._cut[sha] = self._reached = begin
        if len(self._cut) > 4 * _STRETCH // _AVERAGE:  # what lies far behind is not looked for any more
            self._cut = {sha: begin for sha, begin in self._cut.items() if begin >= at}
            self._begun = at

    def _chunks(self, at: int) -> Iterator[tuple[bytes, int]]:
        cutter = Cutter(_AVERAGE)
        begin, ended = at, False
        while not ended:
            piece = os.pread(self._fd, _PIECE, at)
            at, ended = at + len(piece), not piece
            for chunk in cutter.end() if ended else cutter.feed(piece):
                yield hashlib.sha256(chunk).digest(), begin
                begin += len(chunk)
