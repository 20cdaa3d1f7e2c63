"""
Learning: what other runs stored, and this host's earlier ones, is learnt from their indexes.

Before anything is examined. What a run stored is published by `publishing`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase

import structlog
from msgspec.structs import replace

from sysbackup.catalog.interface import Indexes
from sysbackup.concurrency.channel import Channel
from sysbackup.errors import AccessDenied, CatalogUnusable, FormatError, ObjectGone, StoreError, StoreUnavailable
from sysbackup.formats import index, keys
from sysbackup.model import RUN_FORM, Clock
from sysbackup.store.port import ObjectStore

log = structlog.get_logger()

OWN = "own"  # the value of `share` that turns sharing off

# Indexes read at the same time: mostly small, so that round trips count.
_READERS = 8
# Contents learnt in one transaction.
_BATCH = 20_000
# Known keys after which a listing gives up and a new one starts behind them: a page of S3 has as many, and the next
# one would cost a request as well.
_SKIPPED_AT_MOST = 1000


# A name that no object has, but by a collision of SHA-256: whoever may read is told that there is none.
_NOWHERE = keys.pack_key(bytes(32))
# What an index may be named after its host: a run, and perhaps a number. A name from the future would stand in the way
# of all that come later, since indexes are read in the order of their names.
_AHEAD = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Trust:
    """
    Whose contents may be reused: `patterns` as for fnmatch(3), `own` for none but `host`'s.

    `doubting`: what is learnt is proven before it is relied on, so that it cannot
    stand in the way of what is known for certain. `seal` tells one's own word
    from what others write in one's name.
    """

    host: str
    patterns: tuple[str, ...]
    doubting: bool = False
    seal: index.Seal | None = None

    def allows(self, host: str) -> bool:
        """Whether what came from that host may be reused."""
        return host == self.host or any(fnmatchcase(host, pattern) for pattern in self.patterns if pattern != OWN)

    @property
    def alone(self) -> bool:
        """Whether no other host is trusted."""
        return set(self.patterns) <= {OWN}


async def learn_all(store: ObjectStore, indexes: Indexes, trust: Trust, clock: Clock) -> int:
    """
    Read the indexes that are new since the last run, those of all trusted hosts; returns how many there were.

    A new catalog reads them all. A damaged one is passed over with a warning:
    what it says is stored again. Where what is learnt must be proven and these
    rights do not let us read contents, only our own sealed word is taken.
    """
    for host in indexes.restrict(trust.allows):
        log.info("host.forgotten", host=host, reason="share does not allow it any more")
    proving = _Proving(store, trust)
    if indexes.unproven() and not await proving.possible():
        indexes.forget_unproven()
    found: Channel[tuple[str, str]] = Channel(_READERS)
    newest: dict[str, str] = {}
    read = 0
    # lines are taken apart one reader at a time: SQLite has room for one, and the longest lines take memory
    taking = asyncio.Lock()

    async def reader() -> None:
        nonlocal read
        async for host, key in found:
            sealed_alone = not await proving.possible()
            await _learn(store, indexes, trust, host, key, clock, taking, sealed_alone=sealed_alone)
            read += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_READERS):
            group.create_task(reader())
        async for host, key in _new(store, indexes, trust, clock, proving):
            newest[host] = max(key, newest.get(host, ""))
            await found.send((host, key))
        await found.close()
    indexes.read_up_to(newest)
    if read:
        log.info("index.read", indexes=read, hosts=len(newest))
    return read


class _Proving:
    """Whether what is learnt can be proven, as it must be with a `doubting` trust; asked of the store once at most."""

    def __init__(self, store: ObjectStore, trust: Trust) -> None:
        self._store = store
        self._possible = None if trust.doubting else True
        self._asking = asyncio.Lock()

    async def possible(self) -> bool:
        """Whether contents may be read with these rights, or need not be."""
        async with self._asking:
            if self._possible is None:
                self._possible = await self._may_read()
        return self._possible

    async def _may_read(self) -> bool:
        try:
            async with aclosing(self._store.read(_NOWHERE, None)) as chunks:
                async for _ in chunks:
                    return True
        except AccessDenied:
            log.info(
                "sharing.unproven",
                reason="without s3:GetObject and s3:GetObjectVersion on packs/* and content/* what others stored"
                " cannot be proven: nothing of it is reused",
            )
            return False
        except StoreUnavailable:
            raise
        except StoreError:
            return True  # there is none; or somebody has put something there that cannot be read, which ends no run
        return True


async def _new(
    store: ObjectStore, indexes: Indexes, trust: Trust, clock: Clock, proving: _Proving
) -> AsyncIterator[tuple[str, str]]:
    """
    (host, key) of the indexes behind those seen, with as few listing requests as may be.

    None of other hosts, and their names are not even listed to the end, where
    what they say could not be proven.
    `CatalogUnusable` where our own last one, locked by what we know, is not
    there: then nothing else that the catalog knows need be there either.
    """
    seen = indexes.last_read()
    anchor = indexes.still_locked(clock.now())
    alone = trust.alone
    own = seen.get(trust.host, "")
    after = ""
    while True:
        skipped = 0
        prefix = keys.index_prefix(trust.host if alone else None)
        if alone:
            after = own[:-1]  # just before our own last one, so that it is listed
        async with aclosing(store.list(prefix, after)) as listing:
            async for found in listing:
                if (host := _publisher(found.key, clock)) is None:
                    continue
                if found.key == anchor:
                    anchor = None
                behind = own if host == trust.host else seen.get(host, "")
                if trust.allows(host) and found.key > behind:
                    if host == trust.host:
                        own = found.key
                    elif not await proving.possible():
                        alone = True
                        break
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


def _publisher(key: str, clock: Clock) -> str | None:
    """The host whose index has this name; None where no host can have published it by now."""
    host = keys.index_host(key)
    if host is None or not index.possible_host(host):
        return None
    prefix = keys.index_prefix(host)
    return host if key.startswith(prefix) and key <= prefix + (clock.now() + _AHEAD).strftime(RUN_FORM) else None


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
    store: ObjectStore,
    indexes: Indexes,
    trust: Trust,
    host: str,
    key: str,
    clock: Clock,
    taking: asyncio.Lock,
    *,
    sealed_alone: bool,
) -> None:
    """Take one index in, as far as it can be read: what it would have told is only stored once more."""
    reader = index.IndexReader(trust.seal if host == trust.host else None)
    batch: list[index.Indexed] = []
    contents = 0

    def take(chunk: bytes) -> None:
        nonlocal contents
        for found in reader.feed(chunk):
            if sealed_alone and not found.sealed:
                continue
            batch.append(found if trust.allows(found.teller or host) else replace(found, contents=()))
            contents += 1 + len(found.contents)
            if contents >= _BATCH:
                keep()

    def keep() -> None:
        nonlocal contents
        indexes.learn(host, batch, clock.now(), doubting=trust.doubting)
        batch.clear()
        contents = 0

    try:
        async with aclosing(store.read(key, None)) as chunks:
            async for chunk in chunks:
                async with taking:
                    await asyncio.to_thread(take, chunk)
        reader.finish()
    except (FormatError, ObjectGone) as exc:
        log.warning("index.refused", key=key, host=host, reason=str(exc))
    except StoreError as exc:
        # another host can make an index that we may not or cannot read (encrypted, archived): our run goes on
        if isinstance(exc, StoreUnavailable) or (host == trust.host and isinstance(exc, AccessDenied)):
            raise
        log.warning("index.refused", key=key, host=host, reason=str(exc))
    await asyncio.to_thread(keep)
