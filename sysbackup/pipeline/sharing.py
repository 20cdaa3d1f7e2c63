"""
Sharing: what other runs stored is learnt from their indexes, and what this one stored is published.

Learnt before anything is examined, published last but for the manifest, and
every few minutes while a long run goes on: a first backup of days that is
interrupted is not lost to the others.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from fnmatch import fnmatchcase

import structlog
from msgspec.structs import replace

from sysbackup.catalog import shared
from sysbackup.catalog.known import Catalog
from sysbackup.catalog.schema import CatalogUnusable
from sysbackup.errors import AccessDenied, FormatError, ObjectGone, StoreError, StoreUnavailable
from sysbackup.formats import gzipping, index, keys
from sysbackup.model import Clock, LockMode
from sysbackup.pipeline.channel import Channel
from sysbackup.pipeline.naming import Naming
from sysbackup.pipeline.report import Tally
from sysbackup.pipeline.shipping import Sender
from sysbackup.store.port import Body, ObjectStore

log = structlog.get_logger()

OWN = "own"  # the value of `share` that turns sharing off

# Indexes read at the same time: mostly small, so that round trips count.
_READERS = 8
# Contents learnt in one transaction.
_BATCH = 20_000
# Known keys after which a listing gives up and a new one starts behind them: a page of S3 has as many, and the next
# one would cost a request as well.
_SKIPPED_AT_MOST = 1000


@dataclass(frozen=True, slots=True)
class Trust:
    """
    Whose contents may be reused: `patterns` as for fnmatch(3), `own` for none but `host`'s.

    `doubting`: what others say of an object is checked before it is relied on, so
    that it cannot stand in the way of what is known for certain.
    """

    host: str
    patterns: tuple[str, ...]
    doubting: bool = False

    def allows(self, host: str) -> bool:
        """Whether what came from that host may be reused."""
        return host == self.host or any(fnmatchcase(host, pattern) for pattern in self.patterns if pattern != OWN)

    @property
    def alone(self) -> bool:
        """Whether no other host is trusted."""
        return set(self.patterns) <= {OWN}


async def learn_all(store: ObjectStore, catalog: Catalog, trust: Trust, clock: Clock) -> int:
    """
    Read the indexes that are new since the last run, those of all trusted hosts; returns how many there were.

    A new catalog reads them all. A damaged one is passed over with a warning:
    what it says is stored again.
    """
    for host in shared.restrict(catalog, trust.allows):
        log.info("host.forgotten", host=host, reason="share does not allow it any more")
    # A catalog that has published knows all that is ours: what else appears under our name, another has written.
    new = trust.host not in shared.last_read(catalog)
    found: Channel[tuple[str, str]] = Channel(_READERS)
    newest: dict[str, str] = {}
    read = 0

    async def reader() -> None:
        nonlocal read
        async for host, key in found:
            await _learn(store, catalog, trust, host, key, clock, own=new and host == trust.host)
            read += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_READERS):
            group.create_task(reader())
        async for host, key in _new(store, catalog, trust, clock):
            newest[host] = max(key, newest.get(host, ""))
            await found.send((host, key))
        await found.close()
    shared.read_up_to(catalog, newest)
    if read:
        log.info("index.read", indexes=read, hosts=len(newest))
    return read


async def _new(store: ObjectStore, catalog: Catalog, trust: Trust, clock: Clock) -> AsyncIterator[tuple[str, str]]:
    """
    (host, key) of the indexes behind those seen, with as few listing requests as may be.

    `CatalogUnusable` where our own last one, locked by what we know, is not
    there: then nothing else that the catalog knows need be there either.
    """
    seen = shared.last_read(catalog)
    anchor = shared.still_locked(catalog, trust.host, clock.now())
    prefix = keys.index_prefix(trust.host if trust.alone else None)
    # just before our own last one, so that it is listed
    after = seen.get(trust.host, "")[:-1] if trust.alone else ""
    while True:
        skipped = 0
        async with aclosing(store.list(prefix, after)) as listing:
            async for found in listing:
                host = keys.index_host(found.key)
                if host is None or not found.key.startswith(keys.index_prefix(host)):
                    continue
                if found.key == anchor:
                    anchor = None
                behind = seen.get(host, "")
                if trust.allows(host) and found.key > behind:
                    yield host, found.key
                    continue
                skipped += 1
                goal = behind[:-1] if trust.allows(host) else keys.index_prefix(host) + "\U0010ffff"
                if skipped >= _SKIPPED_AT_MOST and goal > found.key:
                    after = goal
                    break
            else:
                break
    if anchor is not None and not await _hidden(store, anchor):
        raise CatalogUnusable(
            f"its last index {anchor} is not in the bucket although its lock has not ended: this may be another"
            " bucket of the same name"
        )


async def _hidden(store: ObjectStore, key: str) -> bool:
    """Whether an object that is not listed is there all the same, under a delete marker."""
    async with aclosing(store.versions(key)) as versions:
        async for version in versions:
            if version.key == key and not version.marker:
                log.warning(
                    "index.hidden", key=key, reason="a delete marker hides it, although it is locked; who set that?"
                )
                return True
    return False


async def _learn(
    store: ObjectStore, catalog: Catalog, trust: Trust, host: str, key: str, clock: Clock, *, own: bool
) -> None:
    """Take one index in, as far as it can be read: what it would have told is only stored once more."""
    reader = index.IndexReader()
    batch: list[index.Indexed] = []
    contents = 0

    def take(chunk: bytes) -> None:
        nonlocal contents
        for found in reader.feed(chunk):
            batch.append(found if trust.allows(found.teller or host) else replace(found, contents=()))
            contents += 1 + len(found.contents)
            if contents >= _BATCH:
                keep()

    def keep() -> None:
        nonlocal contents
        shared.learn(catalog, host, batch, clock.now(), own=own, doubting=trust.doubting)
        batch.clear()
        contents = 0

    try:
        async with aclosing(store.read(key, None)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(take, chunk)
        reader.finish()
    except (FormatError, ObjectGone) as exc:
        log.warning("index.refused", key=key, host=host, reason=str(exc))
    except StoreError as exc:
        # another host can make an index that we may not or cannot read (encrypted, archived): our run goes on
        if isinstance(exc, StoreUnavailable) or (own and isinstance(exc, AccessDenied)):
            raise
        log.warning("index.refused", key=key, host=host, reason=str(exc))
    await asyncio.to_thread(keep)


class _News:
    """The index as a stream's source."""

    def __init__(self, catalog: Catalog, naming: Naming) -> None:
        self._pieces = self._compressed(catalog, naming)
        self._carry = bytearray()

    def _compressed(self, catalog: Catalog, naming: Naming) -> Iterator[bytes]:
        gzip = gzipping.compressor()
        yield gzip.compress(index.header(naming.host, naming.run))
        for found in shared.news(catalog):
            yield gzip.compress(index.line(found.stored, found.encoding, found.contents, found.teller))
        yield gzip.flush()

    async def ready(self, size: int) -> None:
        """Nothing to wait for."""

    async def take(self, size: int) -> Body:
        return await asyncio.to_thread(self._take, size)

    def _take(self, size: int) -> bytearray:
        out = self._carry
        while len(out) < size and (piece := next(self._pieces, None)) is not None:
            out += piece
        self._carry = out[size:]
        del out[size:]
        return out

    async def approve(self) -> None:
        """Every index is kept."""


async def publish(sender: Sender, catalog: Catalog, naming: Naming, tally: Tally, number: int | None = None) -> None:
    """Publish what is in no index yet, if anything; `number` counts what one run publishes before its end."""
    if not await asyncio.to_thread(shared.begin_publishing, catalog):
        return
    key = keys.index_key(naming.host, naming.run, number)
    stored = await sender.send(key, naming.contents, _News(catalog, naming), length=None)
    # Of what is not locked nobody can say that it must still be there.
    until = None if stored.lock.mode is LockMode.NONE else stored.lock.until
    await asyncio.to_thread(shared.published, catalog, naming.host, key, until)
    tally.stored(stored, contents=0, plain=0)
    log.info("index.published", key=key, bytes=stored.size)
