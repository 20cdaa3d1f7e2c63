"""A content store without a run around it: a real catalog, the store in memory, and who keeps count."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sysbackup.concurrency.waits import outlast
from sysbackup.contents.berths import Berth
from sysbackup.contents.cache import content_store
from sysbackup.contents.content_store import ContentStore
from sysbackup.contents.keeping import Keeper
from sysbackup.contents.lookups import open_lookup
from sysbackup.contents.stowing import Full, Single, Stower
from sysbackup.contents.terms import Terms, terms_of
from sysbackup.model import Clock, Problem, StoredObject
from sysbackup.store.port import ObjectStore
from tests.support import backups
from tests.support.clock import ManualClock

T = TypeVar("T")


@dataclass(slots=True)
class Counted:
    """`contents.account.Account` that remembers what it was told."""

    sending: int = 0
    renewed: int = 0
    objects: list[StoredObject] = field(default_factory=list)
    contents: int = 0
    plain: int = 0
    problems: list[Problem] = field(default_factory=list)

    def stored(self, stored: StoredObject, contents: int = 1, *, plain: int) -> None:
        self.objects.append(stored)
        self.contents += contents
        self.plain += plain

    def problem(self, problem: Problem) -> None:
        self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Storing:
    """One run's content store, and what belongs to it."""

    contents: ContentStore
    account: Counted
    terms: Terms


@asynccontextmanager
async def storing(
    base: Path,
    store: ObjectStore,
    content: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Storing]:
    """A run begins, in a cache directory below `base`; nothing is learnt yet."""
    config = backups.configured(base, content, run)
    config.cache.mkdir(exist_ok=True)
    clock = clock or ManualClock()
    names, account = terms_of(config.content, clock.now()), Counted()
    async with content_store(config, store, names, account, clock) as contents:
        yield Storing(contents, account, names)


class Stowing:
    """
    What an examiner does with contents, in a thread of its own; the run's own process is the event loop.

    Made by `stowing`.
    """

    def __init__(self, contents: ContentStore, keeper: Keeper, thread: ThreadPoolExecutor) -> None:
        self._contents = contents
        self._thread = thread
        self._lookup = thread.submit(open_lookup, contents.lookup_order).result()
        self._office = _Office(contents, keeper)
        self._stower = Stower(self._lookup, self._office, contents.berths.slots, contents.bounds.sizes, None)

    async def stow(self, *contents: bytes, anew: bool = False) -> set[bytes]:
        """
        Those of the contents that are stored nowhere yet are on their way; returns what was ours to store.

        `anew`: the look-up is not asked, but the run itself.
        """
        return await self.stow_all({hashlib.sha256(content).digest(): content for content in contents}, anew=anew)

    async def stow_all(self, by_hash: dict[bytes, bytes], *, anew: bool = False) -> set[bytes]:
        """The same, of contents by their hashes, which are let go of."""
        with self._contents.claims.looking() as self._office.begun:
            self._office.granted, self._office.looked = set(), not anew
            await self._in_thread(lambda: self._stower.stow(by_hash, anew=anew))
        return self._office.granted

    async def flush(self) -> None:
        """No more contents come."""
        await self._in_thread(self._stower.flush)

    def close(self) -> None:
        """Let go of the catalog."""
        self._thread.submit(self._lookup.close).result()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await outlast(asyncio.get_running_loop().run_in_executor(self._thread, work), told=self._office.close)


@asynccontextmanager
async def stowing(contents: ContentStore, keeper: Keeper) -> AsyncIterator[Stowing]:
    """Contents may be stowed; what has not come together to a full pack is sent at the end."""
    with ThreadPoolExecutor(1) as thread, closing(Stowing(contents, keeper, thread)) as made:
        yield made
        await made.flush()


class _Office:
    """See `stowing.Office`: asked by a thread, answered on the event loop, as `pipeline.seats` does it."""

    def __init__(self, contents: ContentStore, keeper: Keeper) -> None:
        self._loop = asyncio.get_running_loop()
        self._contents = contents
        self._keeper = keeper
        self._berths: dict[int, Berth] = {}
        self._asked: Future[Any] | None = None
        self.begun = 0
        self.looked = True
        self.granted: set[bytes] = set()

    def close(self) -> None:
        """Whoever waits for an answer gets none."""
        if self._asked is not None:
            self._asked.cancel()

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        self._asked = asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        return asked.result()

    def claim(self, shas: Sequence[bytes], used: Sequence[bytes]) -> set[bytes]:
        self._contents.use(used)
        granted = self._ask(self._keeper.claim(shas, self.begun, looked=self.looked))
        self.granted |= granted
        return granted

    def room(self, size: int) -> int:
        berth = self._ask(self._contents.berths.give(size))
        self._berths[berth.slot] = berth
        return berth.slot

    def give_back(self, slot: int) -> None:
        async def release() -> None:
            self._berths.pop(slot).release()

        self._ask(release())

    def full(self, full: Full, added: bytes) -> None:
        self._ask(self._keeper.ship_pack(full, self._berths.pop(full.slot), added))

    def single(self, single: Single) -> None:
        self._ask(self._keeper.ship_single(single, self._berths.pop(single.slot)))
