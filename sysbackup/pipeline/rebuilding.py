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

import structlog

from sysbackup.catalog import shared
from sysbackup.catalog.known import Catalog
from sysbackup.catalog.schema import set_aside
from sysbackup.config import Config
from sysbackup.errors import FormatError, ObjectGone, StoreError, StoreUnavailable
from sysbackup.formats import keys, pack
from sysbackup.formats.index import Indexed
from sysbackup.formats.pack import Packed
from sysbackup.model import Clock, Lock, LockMode, StoredObject
from sysbackup.pipeline.channel import Channel
from sysbackup.pipeline.checking import holds_what_it_says, unsized
from sysbackup.pipeline.naming import naming
from sysbackup.pipeline.renewing import Doubt
from sysbackup.pipeline.sealing import host_seal
from sysbackup.pipeline.sharing import Trust, learn_all
from sysbackup.pipeline.workplace import bucket_identity, catalog_path, exclusive
from sysbackup.store.port import ObjectInfo, ObjectStore, Version

log = structlog.get_logger()

# Requests at the same time: all of them are small.
_AT_ONCE = 32
# A pack's list is never longer; what claims to be is refused.
_LIST_AT_MOST = 64 << 20

# Versions of one key that are looked into.
_VERSIONS = 32

_UNLOCKED = Lock(LockMode.NONE, datetime.fromtimestamp(0, UTC))


async def rebuild(
    config: Config, store: ObjectStore, bucket: str, clock: Clock, *, from_objects: bool = False
) -> shared.Info:
    """
    Put a new catalog in the place of the old one, which is kept beside it; returns what is in the new.

    From the indexes, or `from_objects` alone; see `learn_all` and `learn_objects`.
    Where it fails, the old one is still there.
    """
    with exclusive(config.cache):
        path = catalog_path(config.cache)
        names = naming(config.content, clock.now())
        doubt = Doubt(config.content.verify_shared)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        identity = bucket_identity(config, bucket)
        with Catalog(fresh) as catalog:
            catalog.begin(identity, names.host, names.promise, names.started, doubting=doubt.any)
            if from_objects:
                await learn_objects(store, catalog, names.host, clock)
            else:
                seal = host_seal(config.state, names.host, identity)
                trust = Trust(names.host, config.content.share, doubt.any, seal)
                await learn_all(store, catalog, trust, clock)
            info = shared.info(catalog)
        if path.exists():
            set_aside(path, "a new one was made")
        fresh.rename(path)
        return info


async def learn_objects(store: ObjectStore, catalog: Catalog, host: str, clock: Clock) -> int:
    """
    Take in every version of every pack and content object; returns how many contents were new.

    They count as `host`'s own, but as not compared with their hashes yet, except
    where a key has several versions: then the right one is found now. What
    is damaged or none of ours is passed over with a warning.
    """
    found: Channel[Sequence[Version]] = Channel(_AT_ONCE)
    new = 0

    async def reader() -> None:
        nonlocal new
        async for versions in found:
            indexed = await _right_one(store, versions)
            if indexed is not None:
                new += await asyncio.to_thread(shared.learn, catalog, host, [indexed], clock.now())

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


async def _right_one(store: ObjectStore, versions: Sequence[Version]) -> Indexed | None:
    """
    What the one version of a key holds, or of several the first whose bytes have the hash that its key names.

    Whoever may write can put rubbish under any key. A single version is proven
    when it is used first; which of several is right must be known now.
    """
    for version in versions:
        indexed = await _indexed(store, version)
        if indexed is None or len(versions) == 1:
            if indexed is not None:
                return indexed
            continue
        try:
            if (proven := await _proven(store, indexed)) is not None:
                return proven
        except StoreError as exc:
            if isinstance(exc, StoreUnavailable):
                raise
            log.warning("object.passed_over", key=version.key, version=version.version, reason=str(exc))
    return None


async def _proven(store: ObjectStore, indexed: Indexed) -> Indexed | None:
    """The same with the encoding that its bytes have, where they are what the key says; else None."""
    stored = indexed.stored
    if (sha := keys.pack_sha(stored.key)) is not None:
        whole = [Packed(sha, 0, 0, stored.size)]
        return indexed if await holds_what_it_says(store, stored, None, whole) is None else None
    for encoding in (indexed.encoding, None if indexed.encoding else "gzip"):
        if await holds_what_it_says(store, stored, encoding, unsized(indexed.contents)) is None:
            return Indexed(stored, encoding, indexed.contents, sealed=True)
    return None


async def _indexed(store: ObjectStore, version: Version) -> Indexed | None:
    alone = keys.content_sha(version.key)
    if alone is None and keys.pack_sha(version.key) is None:
        return None
    try:
        info = await store.head(version.key, version.version)
        lock = info.lock or await store.lock_of(version.key, version.version) or _UNLOCKED
        stored = StoredObject(version.key, version.version, info.size, lock, fresh=False)
        if alone is None:
            return Indexed(stored, "gzip", tuple(await _listed(store, info)))
        encoding = info.metadata.get(keys.ENCODING)
        if encoding not in (None, "gzip"):
            raise FormatError(f"it is stored in an encoding that nobody here knows: {encoding!r}")
        # the size of a compressed content is not known without unpacking it
        return Indexed(stored, encoding, (Packed(alone, 0, 0, -1 if encoding else info.size),))
    except (FormatError, ObjectGone) as exc:
        log.warning("object.passed_over", key=version.key, version=version.version, reason=str(exc))
        return None


async def _listed(store: ObjectStore, info: ObjectInfo) -> list[Packed]:
    """The contents of a pack, from its own list."""
    text = info.metadata.get(keys.PACK_INDEX, "")
    offset = int(text) if text.isascii() and text.isdigit() and len(text) < 15 else -1
    if not 0 <= offset < info.size or info.size - offset > _LIST_AT_MOST:
        raise FormatError("its metadata do not say where its list is")
    packed = bytearray()
    async with aclosing(store.read(info.key, info.version, offset, info.size - offset)) as chunks:
        async for chunk in chunks:
            packed += chunk
    return await asyncio.to_thread(pack.read_index, bytes(packed), offset)
