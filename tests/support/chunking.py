"""Contents in chunks, put into a bucket, and taken out of it, as the formats say."""

import gzip
import hashlib
import os
from collections.abc import Iterable, Sequence

from sysbackup.contents.cutting import Cutter
from sysbackup.formats import chunk_list, keys, pack
from sysbackup.formats.chunk_list import Chunk, ChunkListReader, ChunkListWriter
from sysbackup.formats.stream_pack import StreamPackWriter
from sysbackup.model import Location
from tests.support.memory_store import Kept, MemoryBucket


def cut(content: bytes, average: int) -> list[bytes]:
    """A content in chunks."""
    cutter = Cutter(average)
    return [*cutter.feed(content), *cutter.end()]


def stream_pack(bucket: MemoryBucket, contents: Iterable[bytes]) -> list[Chunk]:
    """Chunks in one pack."""
    writer, body, added = StreamPackWriter(), bytearray(), []
    for content in contents:
        body += (member := pack.encode(content))
        added.append(writer.add(hashlib.sha256(content).digest(), len(member), len(content)))
    kept = bucket.add(keys.stream_pack_key(os.urandom(16)), bytes(body) + writer.end())
    return [Chunk(m.sha, m.size, Location(kept.key, kept.version, m.span, "gzip")) for m in added]


def packed(bucket: MemoryBucket, contents: Sequence[bytes], each: int) -> list[Chunk]:
    """
    Chunks in packs of so many each.

    One that comes again is stored once.
    """
    distinct = [*dict.fromkeys(contents)]
    places: dict[bytes, Chunk] = {}
    for at in range(0, len(distinct), each):
        some = distinct[at : at + each]
        places |= dict(zip(some, stream_pack(bucket, some), strict=True))
    return [places[content] for content in contents]


def listed(bucket: MemoryBucket, key: str, chunks: Iterable[Chunk], levels: int = 1) -> Kept:
    """
    A list of these chunks.

    With more `levels` than one, it is cut itself, and the list of its chunks too.
    """
    body = written(chunks)
    for level in range(2, levels + 1):
        body = written(packed(bucket, cut(body, 4096), 3), level)
    return bucket.add(key, body, metadata={keys.ENCODING: chunk_list.NAME})


def written(chunks: Iterable[Chunk], levels: int = 1, size: int | None = None) -> bytes:
    """The list itself, of a content of their size, or of the `size` that it is to claim."""
    some = [*chunks]
    writer = ChunkListWriter(sum(chunk.size for chunk in some) if size is None else size, levels)
    return b"".join([*map(writer.add, some), writer.end()])


def places(bucket: MemoryBucket, at: Location) -> list[Location]:
    """Where all of a content lies: there, and if that is a list, where its chunks are."""
    return [at, *(chunk.at for chunk in _chunks(bucket, at))]


def content(bucket: MemoryBucket, at: Location) -> bytes:
    """A content, put together from its chunks if a list is there."""
    if at.encoding == chunk_list.NAME:
        return b"".join(_content(bucket, chunk) for chunk in _chunks(bucket, at, inner=False))
    body = bucket.find(at.key, at.version).body
    if at.span is not None:
        body = body[at.span.offset : at.span.end]
    return gzip.decompress(body) if at.encoding else bytes(body)


def _content(bucket: MemoryBucket, chunk: Chunk) -> bytes:
    found = content(bucket, chunk.at)
    assert (hashlib.sha256(found).digest(), len(found)) == (chunk.sha, chunk.size)
    return found


def _chunks(bucket: MemoryBucket, at: Location, *, inner: bool = True) -> list[Chunk]:
    """The chunks of the content of which a list may be there; with `inner`, those of a list that was cut, too."""
    if at.encoding != chunk_list.NAME:
        return []
    found: list[Chunk] = []
    body = bytes(bucket.find(at.key, at.version).body)
    while True:
        reader = ChunkListReader()
        chunks = [*reader.feed(body)]
        reader.finish()
        if reader.levels == 1:
            return [*found, *chunks]
        found += chunks if inner else []
        body = b"".join(_content(bucket, chunk) for chunk in chunks)
