"""
Lists of chunks: written when all that they name is stored, and never before.

A chunk may still be on its way, put there by whoever met it first; so a content that
was cut waits here for its list. A list that is long itself is cut like any large
content, and its list stands for it.
"""

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from io import BufferedRandom
from pathlib import Path
from typing import NamedTuple

from sysbackup.catalog.interface import Named
from sysbackup.concurrency.waits import outlast
from sysbackup.contents.chunking import AT_ONCE, Chunked
from sysbackup.contents.shipping import Pieces, Sender
from sysbackup.disk.sorting import spooling
from sysbackup.formats import keys, pack
from sysbackup.formats.chunk_list import LEVELS_AT_MOST, NAME, OBJECTS_AT_MOST, Chunk, ChunkListWriter
from sysbackup.model import Location, Lock, StoredObject

Places = Callable[[], AbstractContextManager[Callable[[Iterable[bytes]], Mapping[bytes, Location]]]]
"""Opens, in a worker thread, what tells where contents lie."""


class Listed(NamedTuple):
    """A list that is stored, and the objects that it needs with the bytes of these."""

    stored: StoredObject
    needs: Mapping[Named, int]


class Unlistable(Exception):
    """No list can name these chunks; the message is the reason, for people."""


class _Written(NamedTuple):
    """A list, not stored yet."""

    file: BufferedRandom
    length: int


class ChunkLists:
    """
    Writes lists, each by way of a file in `directory`; those above `longest` bytes are cut.

    `cut` cuts what it reads, and returns when that is stored.
    """

    def __init__(
        self,
        sender: Sender,
        cut: Callable[..., Awaitable[Chunked]],
        directory: Path,
        longest: int,
    ) -> None:
        self._sender = sender
        self._cut = cut
        self._directory = directory
        self._longest = longest

    async def store(
        self,
        content: Chunked,
        key: str,
        lock: Lock,
        metadata: Mapping[str, str],
        places: Places,
        *,
        once: bool,
        anew: bool = False,
    ) -> Listed | None:
        """
        Store the list of a content under `key`; None where a chunk lies in none of the `places`.

        With `anew` a list that is cut relies on nothing that is stored already. `Unlistable` where
        no list can name the chunks.
        """
        needs: Counter[Named] = Counter()
        levels, size, rows = 1, content.size, content.rows
        inner: Chunked | None = None
        try:
            while True:
                stop = threading.Event()
                writing = asyncio.to_thread(self._write, rows.some(), size, levels, needs, places, stop)
                written = await outlast(writing, told=stop.set)
                if written is None:
                    return None
                with closing(written.file) as file:
                    if written.length <= self._longest or levels == LEVELS_AT_MOST:
                        body = Pieces(iter(lambda: file.read(AT_ONCE), b""))
                        said = {**metadata, keys.ENCODING: NAME}
                        stored = await self._sender.send(
                            key, lock, body, length=written.length, metadata=said, once=once
                        )
                        return Listed(stored, needs)
                    if inner is not None:
                        inner.rows.close()
                    inner = await self._cut(file.readinto, anew=anew)
                levels, size, rows = levels + 1, inner.size, inner.rows
        finally:
            if inner is not None:
                inner.rows.close()

    def _write(
        self,
        rows: Iterator[list[tuple[bytes, int]]],
        size: int,
        levels: int,
        needs: "Counter[Named]",
        places: Places,
        stop: threading.Event,
    ) -> _Written | None:
        with places() as locate:
            return self._written(rows, ChunkListWriter(size, levels), needs, locate, stop)

    def _written(
        self,
        rows: Iterator[list[tuple[bytes, int]]],
        writer: ChunkListWriter,
        needs: "Counter[Named]",
        locate: Callable[[Iterable[bytes]], Mapping[bytes, Location]],
        stop: threading.Event,
    ) -> _Written | None:
        with spooling(self._directory):
            file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # the caller's, or closed below
        try:
            for some in rows:
                found = locate({sha for sha, _ in some})
                for sha, length in some:
                    if (at := found.get(sha)) is None or stop.is_set():
                        file.close()
                        return None
                    if at.encoding == NAME:
                        raise Unlistable(f"one of its chunks, {sha.hex()}, was stored as a content in chunks itself")
                    # what is in a pack is gzip, whatever somebody says of it
                    encoding = at.encoding if at.span is None else pack.ENCODING.name
                    needs[at.key, at.version or ""] += length if at.span is None else at.span.length
                    with spooling(self._directory):
                        file.write(writer.add(Chunk(sha, length, at._replace(encoding=encoding))))
                if len(needs) > OBJECTS_AT_MOST:
                    raise Unlistable(f"its chunks lie in more than {OBJECTS_AT_MOST:,} objects")
            with spooling(self._directory):
                file.write(writer.end())
                length = file.tell()
                file.seek(0)
        except BaseException:
            file.close()
            raise
        return _Written(file, length)
