"""
The content store of one run: store a content once, find it, learn what others stored.

What is asked of it is asked in the words of the domain. The catalog is its
memory, packs and objects are its ways to store, and nobody above it knows of either.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sysbackup.catalog.interface import Catalog
from sysbackup.concurrency.budget import Budget
from sysbackup.concurrency.channel import Channel
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.config.sections import Config
from sysbackup.contents.account import Account
from sysbackup.contents.berths import Berths
from sysbackup.contents.cache_directory import catalog_path
from sysbackup.contents.census import Census
from sysbackup.contents.chunk_keeping import ChunkKeeper
from sysbackup.contents.claims import Claims
from sysbackup.contents.confirming import Confirming
from sysbackup.contents.crossing import digests_from, states_from
from sysbackup.contents.keeping import Keeper
from sysbackup.contents.learning import Trust, learn_all
from sysbackup.contents.lookups import lookup_order, open_lookup
from sysbackup.contents.publishing import publish
from sysbackup.contents.renewing import Doubt, Renewing
from sysbackup.contents.shipping import Freight, Sender, upload_freight
from sysbackup.contents.stowing import Sizes
from sysbackup.contents.terms import Terms
from sysbackup.formats import encodings
from sysbackup.formats.index import Seal
from sysbackup.model import Clock, Location
from sysbackup.store.port import ObjectStore

_ALLOWANCE = 8 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    Bounds of what is kept at a time, in bytes but for `uploads` at once.

    Each examiner reads about `allowance` before it goes on; what is between that and the
    store's confirmation takes `memory` at the most, of which open packs take half.
    """

    sizes: Sizes
    allowance: int
    memory: int
    open_packs: int
    uploads: int

    @classmethod
    def of(cls, config: Config) -> "Bounds":
        """Those that the settings ask for."""
        # The other half is for the interpreters, and for what is between one stage and the next.
        memory = config.run.memory // 2
        workers = config.run.workers
        allowance = min(_ALLOWANCE, memory // (4 * workers))
        memory -= workers * allowance
        # An open pack waits for contents, so nothing may wait for the bytes that it holds.
        pack_size = min(config.content.pack_size, memory // (2 * workers))
        sizes = Sizes(config.content.pack_below, pack_size, config.content.chunk_from)
        return cls(sizes, allowance, memory, workers * pack_size, config.run.uploads)


class Seen(NamedTuple):
    """
    What examiners have found out, to be remembered.

    `states` of files that were read, `met` files that were as they were (by device and
    inode), contents `used` that need a look before the run's end; the first and the last
    are rows of bytes (`crossing`).
    """

    states: list[bytes]
    met: list[tuple[int, int]]
    used: list[bytes]


class ContentStore:
    """
    Contents, each stored once, as one run sees them.

    `find`, `use` and `remember` block and are for worker threads, any number of them;
    all else is for the event loop. `budget` is of the bytes between reading and the
    store's confirmation, also of those in `berths`, where examiners put what is to be
    stored. `bucket` is what the catalog is bound to (`bucket_identity`).
    """

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        catalog: Catalog,
        bucket: str,
        terms: Terms,
        account: Account,
        clock: Clock,
        seal: Seal | None,
    ) -> None:
        doubt = Doubt(config.content.verify_shared)
        session = catalog.begin(bucket, terms.host, terms.promise, terms.started, doubting=doubt.any)
        self._config = config
        self._doubt = doubt
        self._store = store
        self._catalog = catalog
        self._session = session
        self._terms = terms
        self._account = account
        self._clock = clock
        self._trust = Trust(terms.host, config.content.share, doubt.any, seal)
        self.bounds = bounds = Bounds.of(config)
        self._census = Census(store, session, terms.promise, account, clock)
        self._renewing = Renewing(store, session.renewals, terms, account, clock, doubt, bounds.uploads)
        self.budget = Budget(bounds.memory, reserve=bounds.open_packs)
        # each examiner's open pack, what waits for an uploader, and what one is sending
        number = config.run.workers + 2 * bounds.uploads
        slots = SharedSlots(number, max(bounds.sizes.room, encodings.largest(bounds.sizes.whole)))
        self.berths = Berths(slots, self.budget, bounds.memory)
        self.claims = Claims()
        catalog_file, files = catalog_path(config.cache), session.files.any()
        self.lookup_order = lookup_order(
            catalog_file, terms.promise, terms.started, files=files, doubting=doubt.any, sampling=doubt.sampling
        )
        self._losses = False

    # ---- for threads

    def use(self, shas: Sequence[bytes]) -> None:
        """Note these contents as used, by the word of a look-up."""
        self._session.contents.use(shas)

    def remember(self, seen: Seen) -> None:
        """What examiners have found out about files."""
        if used := b"".join(seen.used):
            self.use(digests_from(used))
        if seen.met:
            self._session.files.met(seen.met)
        if states := b"".join(seen.states):
            self._session.files.remember(states_from(states))

    def find(self, shas: Iterable[bytes], *, promised: bool = False, staying: bool = False) -> dict[bytes, Location]:
        """
        Where contents lie; those that are stored nowhere (any more) are missing from the answer.

        With `promised` (for a manifest) all of it holds for as long as the run
        promises: `CatalogUnusable` where it does not. With `staying`, those that are to be
        stored anew are missing too.
        """
        return self._session.contents.locate(shas, promised=promised, leaving=not staying)

    def tidy(self, now: datetime) -> datetime | None:
        """What is of no use any more is forgotten; returns when the next of all locks ends."""
        self._session.tidy(now)
        return self._session.next_lock_end(now)

    def close(self) -> None:
        """Let go of the berths."""
        self.berths.slots.close()

    # ---- for the event loop

    async def learn(self) -> None:
        """
        Bring what is known up to date with what others have published.

        The first request of a run: finds out, too, whether the bucket is there and lets us in.
        """
        await learn_all(self._store, self._session.indexes, self._trust, self._clock)
        await self._census.begin()

    async def look(self) -> None:
        """Look whether what is known lies in the bucket: beside examiners and uploads; `promise` draws conclusions."""
        await self._census.look()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[Keeper]:
        """A pool of uploaders and what feeds it; ends when all that was sent has arrived."""
        async with asyncio.TaskGroup() as group:
            # What waits here is read and paid for from the budget already: one for each uploader is enough.
            freight: Channel[Freight] = Channel(self.bounds.uploads)
            for _ in range(self.bounds.uploads):
                group.create_task(upload_freight(freight, self._store))
            sender = Sender(self._store, freight, self.budget)
            confirming = Confirming(self._session.contents, self.claims, self._account)
            settings, cache = self._config.content, self._config.cache
            chunks = ChunkKeeper(confirming, sender, self._terms, settings, cache, group, self._promised)
            with closing(chunks):
                yield Keeper(confirming, sender, self._terms, chunks)
                await chunks.finish()
            await freight.close()

    @contextmanager
    def _promised(self) -> Iterator[Callable[[Iterable[bytes]], dict[bytes, Location]]]:
        """For one thread: where contents lie. `CatalogUnusable` where one does not hold until the promise there."""
        with closing(open_lookup(self.lookup_order)) as lookup:
            yield lookup.locate

    async def publish(self, keeper: Keeper, number: int | None = None) -> None:
        """Tell others what is stored and in no index yet; `number` counts what one run publishes before its end."""
        await publish(keeper.sender, self._session.indexes, self._terms, self._account, self._trust.seal, number)

    async def promise(self, store_lost: Callable[[], Awaitable[None]]) -> None:
        """
        See to it that all that the run refers to is locked until its promise.

        What that, or `look`, finds to be gone or false `store_lost` is to store again. One
        object that must be there and is not raises doubts about all others.
        """
        known, looked = self._session.contents, False
        gone = await self._census.settle()
        while gone or await self._renewing.see_to_all() or known.refuted or self.claims.abandoned:
            self._losses = True
            gone = known.refuted = self.claims.abandoned = False
            if self._renewing.missed and not looked:
                looked = True
                await self._census.look_for_all(self._renewing.missed_key, self._renewing.missed)
            await store_lost()
        await asyncio.to_thread(self._session.renewals.vouch, believing=self._doubt.sampling)
        await self._census.forget_ended()

    @property
    def gaps(self) -> bool:
        """Whether the run may refer to contents that are stored nowhere: some were lost, or never came."""
        return self._losses or self.claims.unfulfilled
