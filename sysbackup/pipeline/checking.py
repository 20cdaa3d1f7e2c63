"""Comparing what another host stored with the hashes that it published."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing

from sysbackup.catalog.renewal import Due
from sysbackup.errors import FormatError
from sysbackup.formats import gzipping
from sysbackup.formats.pack import Packed
from sysbackup.store.port import ObjectStore


async def holds_what_it_says(store: ObjectStore, due: Due, contents: Sequence[Packed]) -> str | None:
    """
    Why an object does not hold these contents; None where it does.

    A pack's members are fetched one range each, a content object whole; neither
    is held in memory.
    """
    for content in contents:
        reason = await _compare(store, due, content)
        if reason is not None:
            return reason
    return None


async def _compare(store: ObjectStore, due: Due, content: Packed) -> str | None:
    packed = content.length > 0
    inflater = gzipping.Inflater() if packed or due.encoding else None
    digest = hashlib.sha256()

    def take(chunk: bytes) -> None:
        for piece in inflater.feed(chunk) if inflater else (chunk,):
            digest.update(piece)

    start, length = (content.offset, content.length) if packed else (0, None)
    try:
        async with aclosing(store.read(due.stored.key, due.stored.version, start, length)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(take, chunk)
        if inflater:
            inflater.close()
    except FormatError as exc:
        return f"the content {content.sha.hex()} in it is damaged ({exc})"
    if digest.digest() != content.sha:
        return f"what stands for the content {content.sha.hex()} in it has another hash"
    return None
