"""One file of a run: its entry, found by its path, and its content as a stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import UNSET

from sysbackup.contents.assembling import assembled
from sysbackup.contents.reading_back import DIFFERS, ReadingBack, read_back
from sysbackup.errors import FormatError, RestoreError
from sysbackup.formats import encodings, gzipping, manifest
from sysbackup.formats.encodings import Encoding
from sysbackup.formats.manifest import Directory, File, FileNode, Link, Node
from sysbackup.formats.manifest_search import exactly
from sysbackup.model import Location, shown
from sysbackup.recovery.fetches import HELD, Fetch
from sysbackup.recovery.judging import StoredRun
from sysbackup.recovery.planning import fetch_of
from sysbackup.recovery.stored_runs import batches
from sysbackup.store.port import ObjectStore

_BEGINNING = 18  # bytes of the shortest gzip member there is


async def find_file(store: ObjectStore, run: StoredRun, path: bytes) -> File:
    """The regular file of that path. `RestoreError`, saying what is there, where the run has none."""
    text, exact = manifest.lossy(path)
    sought = text, UNSET if exact is None else exact
    found: FileNode | None = None
    async with aclosing(batches(store, run, only=[exactly(path)])) as some:
        async for batch in some:
            for entry in batch:
                if isinstance(entry, Node) and (entry.path, entry.pathb) == sought:
                    found = entry
    if isinstance(found, File):
        return found
    what = f"run {run.run} of {run.host} holds no file {shown(path)}"
    match found:
        case None:
            raise RestoreError(what)
        case Link():
            raise RestoreError(f"{what}: it is a symbolic link to {shown(found.target_bytes)}")
        case Directory():
            raise RestoreError(f"{what}: it is a directory (see: sysbackup ls)")
        case _:
            raise RestoreError(f"{what}: it is a FIFO, or a device")


async def content(store: ObjectStore, file: File) -> AsyncGenerator[bytes, None]:
    """
    The bytes of a file.

    Of a large one the last come only when the digest of all is known to be right:
    what reads them never gets a whole that is wrong. `FormatError` instead.
    """
    try:
        fetch = fetch_of(file)
        if fetch.chunked or fetch.contents[0].size > HELD:
            async with aclosing(_streamed(store, fetch)) as pieces:
                async for piece in pieces:
                    yield piece
        elif fetch.key:
            yield await _held(store, fetch)
    except FormatError as exc:
        raise FormatError(
            f"the content of {shown(file.path_bytes)} cannot be used: {exc} (object {file.key}, version {file.version})"
        ) from exc


async def _held(store: ObjectStore, fetch: Fetch) -> bytes:
    """The content, read once more where it does not fit: it may have been the way."""
    try:
        return await _read(store, fetch)
    except FormatError:
        return await _read(store, fetch)


async def _read(store: ObjectStore, fetch: Fetch) -> bytes:
    wanted = fetch.contents[0]
    data = bytearray()
    async with aclosing(store.read(fetch.key, fetch.version, fetch.start, fetch.length)) as chunks:
        async for chunk in chunks:
            data += chunk
            if len(data) > wanted.stored_most:
                raise FormatError("the object is larger than what was stored there")
    encoding, alone = encodings.named(wanted.encoding), wanted.span is None
    return await asyncio.to_thread(read_back, bytes(data), wanted.sha, wanted.size, encoding, alone=alone)


async def _streamed(store: ObjectStore, fetch: Fetch) -> AsyncGenerator[bytes, None]:
    """The pieces of a large content, each handed out when the next is there."""
    held, begun = b"", False
    try:
        async with aclosing(_assembled(store, fetch) if fetch.chunked else _decoded(store, fetch)) as pieces:
            async for piece in pieces:
                if held:
                    begun = True
                    yield held
                held = piece
    except FormatError as exc:
        also = "; its end was held back, do not use what came before it" if begun else ""
        raise FormatError(f"{exc}{also}") from exc
    yield held


async def _assembled(store: ObjectStore, fetch: Fetch) -> AsyncGenerator[bytes, None]:
    """All pieces of a content that comes in chunks; the same."""
    wanted = fetch.contents[0]
    reading = ReadingBack(wanted.sha, wanted.size, encodings.PLAIN)
    async with aclosing(assembled(store, Location(fetch.key, fetch.version), wanted.size)) as chunks:
        async for chunk in chunks:
            for piece in await asyncio.to_thread(list, reading.feed(chunk)):
                yield piece
    reading.finish()


async def _decoded(store: ObjectStore, fetch: Fetch) -> AsyncGenerator[bytes, None]:
    """All pieces; the digest of all is compared behind the last."""
    wanted = fetch.contents[0]
    reading: ReadingBack | None = None
    data = b""
    async with aclosing(store.read(fetch.key, fetch.version, fetch.start, fetch.length)) as chunks:
        async for chunk in chunks:
            data += chunk
            if len(data) < _BEGINNING:
                continue
            if reading is None:
                reading = ReadingBack(wanted.sha, wanted.size, await _encoding(store, fetch, data))
            pieces, data = reading.feed(data), b""
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
    if reading is None:
        raise FormatError(DIFFERS)
    for piece in reading.feed(data):
        yield piece
    await asyncio.to_thread(reading.finish)


async def _encoding(store: ObjectStore, fetch: Fetch, begin: bytes) -> Encoding:
    """
    What the bytes are in, judged before the first of them is handed out.

    What is said of an object of its own may be false (s3-sysbackup 0.2.0). Its beginning
    tells that it is no gzip; whether what looks like one is the content itself, its size does.
    """
    wanted = fetch.contents[0]
    said = encodings.named(wanted.encoding)
    if wanted.span is not None:
        return said
    if not begin.startswith(gzipping.MAGIC):
        return encodings.PLAIN
    if said is encodings.PLAIN and (await store.head(fetch.key, fetch.version)).size != wanted.size:
        return encodings.GZIP
    return said
