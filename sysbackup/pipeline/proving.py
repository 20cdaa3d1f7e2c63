"""Comparing what another host stored with the hashes that it published."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise

from sysbackup.errors import AccessDenied, FormatError, ObjectGone, StoreError, StoreUnavailable
from sysbackup.formats import gzipping
from sysbackup.formats.pack import Packed
from sysbackup.model import StoredObject
from sysbackup.store.port import ObjectStore


async def holds_what_it_says(
    store: ObjectStore, stored: StoredObject, encoding: str | None, contents: Sequence[Packed]
) -> str | None:
    """
    Why an object does not hold these contents, in their order; None where it does.

    It holds a content where a restore brings it back from there: one gzip member
    (or the bytes themselves) of that hash, no longer than such things are. One
    request fetches them all; none is held in memory. `ObjectGone` where there is
    no such object.
    """
    first, last = contents[0], contents[-1]
    length = last.offset + last.length - first.offset if last.length else None
    try:
        comparing = _Comparing(contents, gzipped=bool(last.length or encoding))
        async with aclosing(store.read(stored.key, stored.version, first.offset, length)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(comparing.feed, chunk)
        comparing.finish()
    except FormatError as exc:
        return str(exc)
    except (AccessDenied, StoreUnavailable, ObjectGone):
        raise
    except StoreError as exc:  # it is shorter than it should be, or archived
        return f"it cannot be read: {exc}"
    return None


def unsized(contents: Sequence[Packed]) -> list[Packed]:
    """The same contents, of sizes that nobody knows."""
    return [content._replace(size=-1) for content in contents]


class _Comparing:
    """
    Takes an object's bytes, from where its first content begins, and compares each content with its hash.

    `FormatError` says what is false.
    """

    def __init__(self, contents: Sequence[Packed], *, gzipped: bool) -> None:
        if any(a.offset + a.length > b.offset for a, b in pairwise(contents)):
            raise FormatError("two contents are said to lie in the same place")
        self._waiting = deque(contents)
        self._gzipped = gzipped
        self._at = contents[0].offset
        self._begin()

    def _begin(self) -> None:
        self._inflater = gzipping.Inflater(alone=True) if self._gzipped else None
        self._digest = hashlib.sha256()
        self._size = 0
        self._stored = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        begin = 0
        while begin < len(chunk) and self._waiting:
            content = self._waiting[0]
            if self._at < content.offset:
                step = min(content.offset - self._at, len(chunk) - begin)
            else:
                left = content.offset + content.length - self._at if content.length else len(chunk)
                piece = chunk[begin : begin + left]
                step = len(piece)
                self._take(content, piece)
            begin += step
            self._at += step
            if content.length and self._at == content.offset + content.length:
                self._end()

    def finish(self) -> None:
        """There are no more bytes."""
        if self._waiting and not self._waiting[0].length:
            self._end()
        if self._waiting:
            raise FormatError(f"it ends before the content {self._waiting[0].sha.hex()}, which it is said to hold")

    def _take(self, content: Packed, piece: bytes) -> None:
        self._stored += len(piece)
        try:
            for part in self._inflater.feed(piece) if self._inflater else (piece,):
                self._digest.update(part)
                self._size += len(part)
                if 0 <= content.size < self._size:
                    raise FormatError("it is larger than it should be")
        except FormatError as exc:
            raise FormatError(f"the content {content.sha.hex()} in it is damaged: {exc}") from exc

    def _end(self) -> None:
        content = self._waiting.popleft()
        try:
            if self._inflater:
                self._inflater.close()
        except FormatError as exc:
            raise FormatError(f"the content {content.sha.hex()} in it is damaged: {exc}") from exc
        if self._digest.digest() != content.sha:
            raise FormatError(f"what stands for the content {content.sha.hex()} in it has another hash")
        if self._stored > gzipping.largest(self._size):
            raise FormatError(f"the content {content.sha.hex()} in it takes more room than any gzip makes of it")
        self._begin()
