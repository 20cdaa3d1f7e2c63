"""Comparing what another host stored with the hashes that it published."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise

from sysbackup.errors import AccessDenied, FormatError, ObjectGone, StoreError, StoreUnavailable
from sysbackup.formats import encodings, pack
from sysbackup.formats.encodings import Encoding
from sysbackup.model import Member, StoredObject
from sysbackup.store.port import ObjectStore


async def holds_what_it_says(
    store: ObjectStore, stored: StoredObject, encoding: Encoding, contents: Sequence[Member]
) -> str | None:
    """
    Why an object does not hold these contents, in their order; None where it does.

    It holds a content where a restore brings it back from there: its bytes in that
    encoding, of that hash, no longer than such things are. One request fetches them
    all; none is held in memory. `ObjectGone` where there is no such object.
    """
    first, last = contents[0].span, contents[-1].span
    begin, length = (0, None) if first is None or last is None else (first.offset, last.end - first.offset)
    try:
        # in a pack there is one encoding, whatever is said of it
        comparing = _Comparing(contents, encoding if first is None else pack.ENCODING)
        async with aclosing(store.read(stored.key, stored.version, begin, length)) as chunks:
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


def unsized(contents: Sequence[Member]) -> list[Member]:
    """The same contents, of sizes that nobody knows."""
    return [content._replace(size=-1) for content in contents]


class _Comparing:
    """
    Takes an object's bytes, from where its first content begins, and compares each content with its hash.

    `FormatError` says what is false.
    """

    def __init__(self, contents: Sequence[Member], encoding: Encoding) -> None:
        spans = [member.span for member in contents if member.span is not None]
        if any(a.end > b.offset for a, b in pairwise(spans)):
            raise FormatError("two contents are said to lie in the same place")
        self._waiting = deque(contents)
        self._encoding = encoding
        self._at = spans[0].offset if spans else 0
        self._begin()

    def _begin(self) -> None:
        self._decoder = self._encoding.decoder(alone=True)
        self._digest = hashlib.sha256()
        self._size = 0
        self._stored = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        begin = 0
        while begin < len(chunk) and self._waiting:
            member = self._waiting[0]
            span = member.span
            if span is not None and self._at < span.offset:
                step = min(span.offset - self._at, len(chunk) - begin)
            else:
                left = len(chunk) if span is None else span.end - self._at
                piece = chunk[begin : begin + left]
                step = len(piece)
                self._take(member, piece)
            begin += step
            self._at += step
            if span is not None and self._at == span.end:
                self._end()

    def finish(self) -> None:
        """There are no more bytes."""
        if self._waiting and self._waiting[0].span is None:
            self._end()
        if self._waiting:
            raise FormatError(f"it ends before the content {self._waiting[0].sha.hex()}, which it is said to hold")

    def _take(self, member: Member, piece: bytes) -> None:
        self._stored += len(piece)
        try:
            for part in self._decoder.feed(piece):
                self._digest.update(part)
                self._size += len(part)
                if 0 <= member.size < self._size:
                    raise FormatError("it is larger than it should be")
        except FormatError as exc:
            raise FormatError(f"the content {member.sha.hex()} in it is damaged: {exc}") from exc

    def _end(self) -> None:
        member = self._waiting.popleft()
        try:
            self._decoder.close()
        except FormatError as exc:
            raise FormatError(f"the content {member.sha.hex()} in it is damaged: {exc}") from exc
        if self._digest.digest() != member.sha:
            raise FormatError(f"what stands for the content {member.sha.hex()} in it has another hash")
        if self._stored > encodings.largest(self._size):
            raise FormatError(f"the content {member.sha.hex()} in it takes more room than any gzip makes of it")
        self._begin()
