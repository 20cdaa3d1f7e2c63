"""
Gzip lines on their way from the bucket: nothing of them is handed out before all is known to have arrived whole.

A flipped bit in the middle shows at the end of a gzip stream, by its CRC. What
was understood of it by then may be wrong, and already acted upon. So the bytes
wait, in memory while they are few and on disk from then on, and where they do
not fit they are fetched once more: the damage may be of the way, not of the bucket.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import IO

from sysbackup.disk.sorting import spooling
from sysbackup.errors import FormatError
from sysbackup.formats import gzipping
from sysbackup.store.port import ObjectStore

_HELD = 8 << 20
_PIECE = 1 << 20


async def arrived(
    store: ObjectStore, key: str, version: str | None, longest: int, spool: Path | None = None
) -> AsyncGenerator[bytes, None]:
    """
    The bytes of a version that is gzip lines of at most `longest` bytes, once its CRC is known to be right.

    `FormatError` where it is not, twice. `spool` is the directory for what is
    too large for memory (None: the system's), `SpoolError` where it is full.
    """
    spool = spool or Path(tempfile.gettempdir())
    for last in (False, True):
        with tempfile.SpooledTemporaryFile(_HELD, dir=str(spool)) as file:
            try:
                await _fetch(store, key, version, _Check(longest), file, spool)
            except FormatError:
                if last:
                    raise
                continue
            file.seek(0)
            while piece := await asyncio.to_thread(file.read, _PIECE):
                yield piece
            return


async def _fetch(
    store: ObjectStore, key: str, version: str | None, check: "_Check", file: IO[bytes], spool: Path
) -> None:
    def take(chunk: bytes) -> None:
        with spooling(spool):
            file.write(chunk)
        check.feed(chunk)

    async with aclosing(store.read(key, version)) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(take, chunk)
    check.close()


class _Check:
    """Whether bytes are a whole gzip stream of lines; what unpacks to gigabytes without one is given up early."""

    def __init__(self, longest: int) -> None:
        self._inflater = gzipping.Inflater()
        self._longest = longest
        self._line = 0

    def feed(self, packed: bytes) -> None:
        for piece in self._inflater.feed(packed):
            last = piece.rfind(b"\n")
            self._line = self._line + len(piece) if last < 0 else len(piece) - last - 1
            if self._line > self._longest:
                raise FormatError("it holds a line longer than any can be")

    def close(self) -> None:
        self._inflater.close()
