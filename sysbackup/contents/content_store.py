"""
The content store of one run: store a content once, find it, learn what others stored.

What is asked of it is asked in the words of the domain. The catalog is its
memory, packs and objects are its ways to store, and nobody above it knows of either.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from sysbackup.catalog.interface import Catalog
from sysbackup.concurrency.budget import Budget
from sysbackup.concurrency.channel import Channel
from sysbackup.config.sections import Config
from sysbackup.contents.account import Account
from sysbackup.contents.census import Census
from sysbackup.contents.keeping import Alone, Chosen, Keeper
from sysbackup.contents.learning import Trust, learn_all
from sysbackup.contents.packing import Small
from sysbackup.contents.publishing import publish
from sysbackup.contents.renewing import Doubt, Renewing
from sysbackup.contents.shipping import Freight, Sender, upload_freight
from sysbackup.contents.terms import Terms
from sysbackup.formats import encodings, pack
from sysbackup.formats.index import Seal
from sysbackup.model import Clock, FileState, Location
from sysbackup.store.port import ObjectStore


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    Bounds of what is kept at a time, in bytes but for `uploads` at once.

    Contents below `packed_below` go into packs of `pack_size`; what is read and not
    yet confirmed takes `memory` at the most.
    """

    packed_below: int
    pack_size: int
    memory: int
    uploads: int

    @classmethod
    def of(cls, config: Config) -> "Bounds":
        """Those that the settings ask for."""
        # The other half is for the interpreter, and for what is between one stage and the next.
        memory = config.run.memory // 2
        return cls(
            config.content.pack_below,
            # The open pack waits for contents, so nothing may wait for the bytes that it holds.
            min(config.content.pack_size, memory // 4),
            memory,
            config.run.uploads,
        )


class ContentStore:
    """
    Contents, each stored once, as one run sees them.

    `choose`, `find`, `unchanged` and `remember` block and are for worker threads,
    any number of them; all else is for the event loop. `budget` is of the bytes
    between reading and the store's confirmation. `bucket` is what the catalog is bound to (`bucket_identity`).
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
        self._store = store
        self._catalog = catalog
        self._session = session
        self._terms = terms
        self._account = account
        self._clock = clock
        self._trust = Trust(terms.host, config.content.share, doubt.any, seal)
        self._bounds = bounds = Bounds.of(config)
        self._census = Census(store, session, account, clock)
        self._renewing = Renewing(store, session.renewals, terms, account, clock, doubt, bounds.uploads)
        self.budget = Budget(bounds.memory, reserve=bounds.pack_size)
        self._losses = False

    # ---- for threads

    def unchanged(self, states: Sequence[FileState]) -> Mapping[tuple[int, int], bytes]:
        """By (device, inode), the hashes of those files that are as they were and whose content is stored."""
        return self._session.files.unchanged(states)

    def remember(self, states: Sequence[FileState]) -> None:
        """What files looked like when they were read."""
        if states:
            self._session.files.remember(states)

    def choose(self, contents: dict[bytes, bytes]) -> Chosen:
        """
        Those of these contents that are stored nowhere yet, claimed for the caller and encoded: to be kept.

        `contents` is emptied: each is let go of as soon as that is done.
        """
        claimed = self._session.contents.claim(contents)
        small, alone = [], []
        for sha in [*contents]:
            content = contents.pop(sha)
            if sha not in claimed:
                continue
            if len(content) < self._bounds.packed_below:
                small.append(Small(sha, pack.encode(content), len(content)))
            else:
                encoding, body = encodings.encode(content)
                alone.append(Alone(sha, body, encoding, len(content)))
        return Chosen(small, alone)

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
        """Let go of the catalog's file."""
        self._catalog.close()

    # ---- for the event loop

    async def learn(self) -> None:
        """
        Bring what is known up to date: with what others have published, and with what lies in the bucket.

        The first request of a run: finds out, too, whether the bucket is there and lets us in.
        """
        await learn_all(self._store, self._session.indexes, self._trust, self._clock)
        await self._census.count()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[Keeper]:
        """A pool of uploaders and what feeds it; ends when all that was sent has arrived."""
        async with asyncio.TaskGroup() as group:
            # What waits here is read and paid for from the budget already: one for each uploader is enough.
            freight: Channel[Freight] = Channel(self._bounds.uploads)
            for _ in range(self._bounds.uploads):
                group.create_task(upload_freight(freight, self._store))
            sender = Sender(self._store, freight, self.budget)
            yield Keeper(
                self._session.contents, sender, self._account, self._terms, self.budget, self._bounds.pack_size
            )
            await freight.close()

    async def publish(self, keeper: Keeper, number: int | None = None) -> None:
        """Tell others what is stored and in no index yet; `number` counts what one run publishes before its end."""
        await publish(keeper.sender, self._session.indexes, self._terms, self._account, self._trust.seal, number)

    async def promise(self, store_lost: Callable[[], Awaitable[None]]) -> None:
        """
        See to it that all that the run refers to is locked until its promise.

        What that finds to be gone or false `store_lost` is to store again. One object
        that must be there and is not raises doubts about all others.
        """
        known, looked = self._session.contents, False
        while await self._renewing.see_to_all() or known.refuted:
            self._losses = True
            known.refuted = False
            if self._renewing.missed and not looked:
                looked = True
                await self._census.count_all(self._renewing.missed_key, self._renewing.missed)
            await store_lost()

    @property
    def gaps(self) -> bool:
        """Whether the run may refer to contents that are stored nowhere: some were lost, or never came."""
        return self._losses or self._session.contents.unfulfilled
