"""
Rebuilding the catalog from the bucket alone.

From the index, as any new catalog is; or without it, from the packs' own lists
and the versions of content objects, which takes in what other programs stored
under the same keys (s3-sysbackup 0.2.0 did). The latter reads metadata and
lists: it needs s3:GetObject, and two requests or three for each object.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from sysbackup.catalog.catalog_file import set_aside
from sysbackup.catalog.interface import Indexes, Info
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.concurrency.channel import Channel
from sysbackup.config.sections import Config
from sysbackup.contents.cache_directory import bucket_identity, catalog_path, exclusive
from sysbackup.contents.learning import Trust, learn_all
from sysbackup.contents.proving import holds_what_it_says, unsized
from sysbackup.contents.renewing import Doubt
from sysbackup.contents.sealing import host_seal
from sysbackup.contents.terms import terms_of
from sysbackup.errors import AccessDenied, FormatError, StoreError, StoreUnavailable
from sysbackup.formats import chunk_list, encodings, keys, pack, stream_pack
from sysbackup.formats.index import Indexed
from sysbackup.model import Clock, Lock, LockMode, Member, StoredObject
from sysbackup.store.port import ObjectInfo, ObjectStore, Version

log = structlog.get_logger()

# Requests at the same time: all of them are small.
_AT_ONCE = 32

# Versions of one key that are looked into.
_VERSIONS = 32

_UNLOCKED = Lock(LockMode.NONE, datetime.fromtimestamp(0, UTC))


async def rebuild(config: Config, store: ObjectStore, clock: Clock, *, from_objects: bool = False) -> Info:
    """
    Put a new catalog in the place of the old one, which is kept beside it; returns what is in the new.

    From the indexes, or `from_objects` alone; see `learn_all` and `learn_objects`.
    Where it fails, the old one is still there.
    """
    with exclusive(config.cache):
        path = catalog_path(config.cache)
        terms = terms_of(config.content, clock.now())
        doubt = Doubt(config.content.verify_shared)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        identity = bucket_identity(config, store.bucket)
        with SqliteCatalog(fresh) as catalog:
            session = catalog.begin(identity, terms.host, terms.promise, terms.started, doubting=doubt.any)
            if from_objects:
                await learn_objects(store, session.indexes, terms.host, clock)
            else:
                seal = host_seal(config.state, terms.host, identity)
                trust = Trust(terms.host, config.content.share, doubt.any, seal)
                await learn_all(store, session.indexes, trust, clock)
            info = catalog.info()
        if path.exists():
            set_aside(path, "a new one was made")
        fresh.rename(path)
        return info


async def learn_objects(store: ObjectStore, indexes: Indexes, host: str, clock: Clock) -> int:
    """
    Take in every version of every pack and content object; returns how many contents were new.

    They count as `host`'s own, but as not compared with their hashes yet, except
    where a key has several versions: then the right one is found now. What
    is damaged or none of ours is passed over with a warning.
    """
    found: Channel[Sequence[Version]] = Channel(_AT_ONCE)
    learning = _Learning(store, indexes, host, clock)
    new = 0

    async def reader() -> None:
        nonlocal new
        async for versions in found:
            taken = await learning.take(versions)
            new += taken  # in one step with the await, others' counts would be lost

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(reader())
        for prefix in ("packs/", "content/"):
            async for versions in _by_key(store, prefix):
                await found.send(versions)
        await found.close()
    return new


async def _by_key(store: ObjectStore, prefix: str) -> AsyncIterator[Sequence[Version]]:
    """The versions of each key, some of the oldest where there are very many, the oldest first."""
    held: deque[Version] = deque(maxlen=_VERSIONS)
    async with aclosing(store.versions(prefix)) as versions:
        async for version in versions:
            if held and held[-1].key != version.key:
                yield [*reversed(held)]
                held.clear()
            if not version.marker:
                held.append(version)
    if held:
        yield [*reversed(held)]


class _Seen(NamedTuple):
    """What one version is said to hold; of a pack, whose contents are not known yet, where its list begins."""

    indexed: Indexed
    begin: int | None


class _Learning:
    """Looks into objects, many at the same time, and takes in what they hold, one after the other."""

    def __init__(self, store: ObjectStore, indexes: Indexes, host: str, clock: Clock) -> None:
        self._store = store
        self._indexes = indexes
        self._host = host
        self._clock = clock
        # A list that is taken apart has twenty times its bytes.
        self._turn = asyncio.Lock()

    async def take(self, versions: Sequence[Version]) -> int:
        """
        Take in what the one version of a key holds, or of several the first that is what its key says.

        Whoever may write can put rubbish under any key. A single version is proven
        when it is used first; which of several is right must be known now. Returns
        how many contents were new.
        """
        for version in versions:
            try:
                seen = await self._seen(version)
                if seen is not None and len(versions) > 1:
                    seen = await self._proven(seen)
                if seen is not None:
                    return await self._learn(seen)
            except (FormatError, StoreError) as exc:
                # somebody can put what we may not or cannot read beside the right one, or in its place (encrypted,
                # archived); but it may be that we may not read anything
                if isinstance(exc, StoreUnavailable) or (isinstance(exc, AccessDenied) and len(versions) == 1):
                    raise
                log.warning("object.passed_over", key=version.key, version=version.version, reason=str(exc))
        return 0

    async def _seen(self, version: Version) -> _Seen | None:
        alone = keys.content_sha(version.key)
        if alone is None and not keys.is_pack(version.key):
            return None
        info = await self._store.head(version.key, version.version)
        lock = info.lock or await self._store.lock_of(version.key, version.version) or _UNLOCKED
        stored = StoredObject(version.key, version.version, info.size, lock, fresh=False)
        if alone is None:
            begin = await self._end(stored) if keys.is_stream_pack(version.key) else _list_begins(info)
            return _Seen(Indexed(stored, pack.ENCODING.name, ()), begin)
        if info.metadata.get(keys.ENCODING) == chunk_list.NAME:
            return None  # to be made again: the next run reads the file, and finds the chunks
        encoding = encodings.named(info.metadata.get(keys.ENCODING))
        # the size of an encoded content is not known without decoding it
        size = info.size if encoding is encodings.PLAIN else -1
        return _Seen(Indexed(stored, encoding.name, (Member(alone, size),)), None)

    async def _proven(self, seen: _Seen) -> _Seen | None:
        """The same with the encoding that its bytes have, where they are what the key says; else None."""
        indexed = seen.indexed
        stored = indexed.stored
        if (sha := keys.pack_sha(stored.key)) is not None:
            # These are the bytes that were named so. What their list says of them is not proven by that, nor that
            # the offset in the metadata is the true one: so the pack is not sealed, and is proven when it is used.
            whole = [Member(sha, stored.size)]
            return seen if await holds_what_it_says(self._store, stored, encodings.PLAIN, whole) is None else None
        if seen.begin is not None:
            # Its key says nothing of its bytes: each of its contents is compared.
            contents = pack.read_index(await self._list(stored, seen.begin), seen.begin)
            false = not contents or await holds_what_it_says(self._store, stored, pack.ENCODING, contents)
            return None if false else seen
        for encoding in encodings.candidates(indexed.encoding):
            if await holds_what_it_says(self._store, stored, encoding, unsized(indexed.contents)) is None:
                return _Seen(Indexed(stored, encoding.name, indexed.contents, sealed=True), None)
        return None

    async def _learn(self, seen: _Seen) -> int:
        indexed, begin = seen
        packed = b"" if begin is None else await self._list(indexed.stored, begin)
        async with self._turn:
            if begin is not None:
                contents = await asyncio.to_thread(pack.read_index, packed, begin)
                indexed = Indexed(indexed.stored, indexed.encoding, tuple(contents))
            return await asyncio.to_thread(self._indexes.learn, self._host, [indexed], self._clock.now())

    async def _list(self, stored: StoredObject, begin: int) -> bytes:
        end = stored.size - (stream_pack.END_LENGTH if keys.is_stream_pack(stored.key) else 0)
        return await self._range(stored, begin, end)

    async def _end(self, stored: StoredObject) -> int:
        """Where a stream pack's list begins."""
        tail = await self._range(stored, max(0, stored.size - stream_pack.END_LENGTH), stored.size)
        return stream_pack.list_begins(tail, stored.size)

    async def _range(self, stored: StoredObject, begin: int, end: int) -> bytes:
        packed = bytearray()
        async with aclosing(self._store.read(stored.key, stored.version, begin, end - begin)) as pieces:
            async for piece in pieces:
                packed += piece
        return bytes(packed)


def _list_begins(info: ObjectInfo) -> int:
    """Where a pack's list begins, by its metadata."""
    text = info.metadata.get(keys.PACK_INDEX, "")
    index = int(text) if text.isascii() and text.isdigit() and len(text) < 15 else -1
    if not 0 <= index < info.size or info.size - index > pack.LIST_AT_MOST:
        raise FormatError("its metadata do not say where its list is")
    return index
