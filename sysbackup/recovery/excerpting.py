"""
Reading a manifest from its middle: a few entries of millions, by the table at its end.

What is read is proven by SHA-256 from the last member on: entries come as soon
as their member has arrived, and nothing else of the manifest is looked at.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from sysbackup.config.sections import MIB
from sysbackup.errors import FormatError
from sysbackup.formats.ends import END_LIMIT
from sysbackup.formats.manifest import Entry
from sysbackup.formats.manifest_layout import check_root
from sysbackup.formats.manifest_search import Search, Stretch, lines_of, root_in, root_rows, rows_of
from sysbackup.formats.manifest_table import Place, Root, Row
from sysbackup.model import Span
from sysbackup.recovery.judging import StoredRun
from sysbackup.store.port import ObjectStore

# A manifest of up to this size is read whole: that is one request.
_WHOLE = 256 << 10
# The table is 0.3 % of a manifest: such a part of its end holds all of it, unless it is too large for one small read.
_PART = 128
_TAIL = (64 << 10, MIB)

_GAP = MIB  # what lies between two members is read too, if it is no more than this: cheaper than a request
_HELD = 4 * MIB  # bytes of the table, packed, or of its paths that are held at a time
_ROWS = 16_384  # members that one read may bring: their rows wait in memory

Followed = tuple[Row, Place | None]
"""A row to follow, and the place at which the one behind it begins."""


async def excerpt(
    store: ObjectStore, run: StoredRun, stretches: Sequence[Stretch]
) -> "AsyncGenerator[list[Entry], None] | None":
    """
    The entries of all members that can hold what is looked for, some at a time, in their order.

    None where the manifest is small, or of format 1: it is to be read whole. `FormatError`
    where what is to be read is damaged, also when it is fetched once more.
    """
    if run.size <= _WHOLE:
        return None
    least, most = _TAIL
    size = min(run.size, max(least, min(most, run.size // _PART)))
    tail = await _bytes(store, run, Span(run.size - size, size))
    root = root_in(tail[-END_LIMIT:], run.size)
    if root is None:
        return None
    check_root(root, run.host, run.run)
    return _Excerpt(store, run, Search(stretches), tail).entries(root)


class _Excerpt:
    """One reading; `tail` is what was read already."""

    def __init__(self, store: ObjectStore, run: StoredRun, search: Search, tail: bytes) -> None:
        self._store = store
        self._run = run
        self._search = search
        self._tail = tail

    async def entries(self, root: Root) -> AsyncGenerator[list[Entry], None]:
        """All that the table leads to."""
        packed = await self._proven(Span(root.offset, root.length), root.sha)
        found = await asyncio.to_thread(root_rows, packed, root)
        followed = self._followed([*self._search.among(found, None)])
        async with aclosing(followed), aclosing(_in_reads(followed)) as reads:
            async for some in reads:
                async with aclosing(self._members(some)) as members:
                    async for (row, behind), packed in members:
                        yield await asyncio.to_thread(lines_of, packed, row, behind)

    async def _followed(self, some: Sequence[Followed]) -> AsyncGenerator[Followed, None]:
        """The rows of level 0 that these lead to, as far as they can hold something."""
        if not some or some[0][0].level == 0:
            for followed in some:
                yield followed
            return
        async with aclosing(_in_reads(_each(some), _HELD)) as reads:
            async for together in reads:
                held = [found async for found in self._members(together)]
                for (row, behind), packed in held:
                    below = await asyncio.to_thread(rows_of, packed, row)
                    async with aclosing(self._followed([*self._search.among(below, behind)])) as lower:
                        async for followed in lower:
                            yield followed

    async def _members(self, some: Sequence[Followed]) -> AsyncGenerator[tuple[Followed, bytes], None]:
        """The members of rows that lie near each other, by one read, proven."""
        first, last = some[0][0].span, some[-1][0].span
        whole = Span(first.offset, last.end - first.offset)
        begin = self._run.size - len(self._tail)
        if whole.offset >= begin:
            for followed in some:
                yield followed, await self._proven(followed[0].span, followed[0].sha)
            return
        held = bytearray()
        at, number = whole.offset, 0
        async with aclosing(self._store.read(self._run.key, self._run.version, *whole)) as chunks:
            async for chunk in chunks:
                held += chunk
                while number < len(some) and (span := some[number][0].span).end <= at + len(held):
                    packed, sha = bytes(held[span.offset - at : span.end - at]), some[number][0].sha
                    del held[: span.end - at]
                    at = span.end
                    yield some[number], packed if _is(packed, sha) else await self._proven(span, sha)
                    number += 1
        if number < len(some):
            raise FormatError("it is shorter than the store's list says")

    async def _proven(self, span: Span, sha: str) -> bytes:
        """Those bytes, of the tail or read, once more where they arrived damaged."""
        begin = self._run.size - len(self._tail)
        if span.offset >= begin:
            packed = self._tail[span.offset - begin :][: span.length]
            if _is(packed, sha):
                return packed
        for _ in range(2):
            packed = await _bytes(self._store, self._run, span)
            if _is(packed, sha):
                return packed
        raise FormatError("a member of it is not what the table says: it is damaged")


async def _in_reads(found: AsyncIterator[Followed], most: int | None = None) -> AsyncGenerator[list[Followed], None]:
    """Rows whose members are read together: they lie near each other, and within `most` bytes."""
    some: list[Followed] = []
    paths = 0
    async for followed in found:
        row = followed[0]
        if some and (
            len(some) >= _ROWS
            or paths >= _HELD
            or row.offset > some[-1][0].span.end + _GAP
            or (most is not None and row.span.end > some[0][0].offset + most)
        ):
            yield some
            some, paths = [], 0
        some.append(followed)
        paths += len(row.first)
    if some:
        yield some


async def _each(some: Sequence[Followed]) -> AsyncIterator[Followed]:
    for followed in some:
        yield followed


def _is(packed: bytes, sha: str) -> bool:
    return hashlib.sha256(packed).hexdigest() == sha


async def _bytes(store: ObjectStore, run: StoredRun, span: Span) -> bytes:
    data = bytearray()
    async with aclosing(store.read(run.key, run.version, *span)) as chunks:
        async for chunk in chunks:
            data += chunk
    return bytes(data)
