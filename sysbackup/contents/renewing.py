"""
Renewing: nothing is promised on the strength of a lock that ends too early.

Every object that the run reuses although its lock ends before the promise is
renewed, once, before the manifest is written. What turns out to be gone, false,
or hardly used any more is forgotten, and its living contents are stored again
from the files themselves.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog

from sysbackup.catalog.interface import Due, Renewals
from sysbackup.concurrency.channel import Channel
from sysbackup.contents.account import Account
from sysbackup.contents.proving import holds_what_it_says, unsized
from sysbackup.contents.terms import Terms
from sysbackup.errors import LockNotKept, ObjectGone, StoreError, StoreUnavailable
from sysbackup.formats import chunk_list, encodings, keys
from sysbackup.model import Clock, Lock, LockMode, Problem
from sysbackup.store.port import ObjectStore

log = structlog.get_logger()

# Of a pack that needs a renewal, one byte in so many must still be in use for it to get one.
_LIVING = 4
# With `verify_shared = sample`, one object of so many is compared, and the first of every host.
_SAMPLE = 20


@dataclass(frozen=True, slots=True)
class Doubt:
    """Whether contents that were learnt are compared before they are relied on: `off`, `first-use` or `sample`."""

    setting: str

    @property
    def any(self) -> bool:
        """Whether anything is compared at all."""
        return self.setting != "off"

    @property
    def sampling(self) -> bool:
        """Whether some are compared, and the others believed for it."""
        return self.setting == "sample"


class Renewing:
    """Sees to the objects that one run reuses; `at_once` requests go out at the same time."""

    def __init__(
        self,
        store: ObjectStore,
        renewals: Renewals,
        terms: Terms,
        account: Account,
        clock: Clock,
        doubt: Doubt,
        at_once: int,
    ) -> None:
        self._store = store
        self._renewals = renewals
        self._terms = terms
        self._account = account
        self._clock = clock
        self._doubt = doubt
        self._at_once = at_once
        self._sampled: set[str] = set()
        self._lost = 0
        # how many objects are gone although their locks have not ended, and the key of one
        self.missed = 0
        self.missed_key = ""

    async def see_to_all(self) -> bool:
        """
        Renew what is due; True where contents were forgotten that the run refers to, and must be stored again.

        Returning False proves that every object that the run refers to is locked
        until its promise.
        """
        self._lost = 0
        if not await asyncio.to_thread(self._renewals.collect):
            return False
        waiting: Channel[Due] = Channel(self._at_once)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._worker(waiting))
            pages = self._renewals.due()
            while page := await asyncio.to_thread(_next, pages):
                for due in page:
                    await waiting.send(due)
            await waiting.close()
        return self._lost > 0

    async def _worker(self, waiting: Channel[Due]) -> None:
        async for due in waiting:
            await self._see_to(due)

    async def _see_to(self, due: Due) -> None:
        """
        Prove and renew one object.

        Whatever befalls one that was only learnt costs nothing but a look: with a
        name or key of its choice another host could make a request fail for ever.
        """
        try:
            await self._prove_and_renew(due)
        except StoreError as exc:
            if _ours(due) or isinstance(exc, StoreUnavailable):
                raise
            log.warning("object.doubtful", key=due.stored.key, host=due.host, reason=str(exc))
            await asyncio.to_thread(self._renewals.forget_host, due.host)
            await self._forget(due)

    async def _prove_and_renew(self, due: Due) -> None:
        stored = due.stored
        doubted = not _ours(due) and self._doubts(due)
        if doubted and not await self._check(due):
            return
        short = self._falls_short(due)
        hardly_used = keys.pack_sha(stored.key) is not None and due.used * _LIVING < due.holds
        if short and hardly_used and not due.leaving:
            await asyncio.to_thread(self._renewals.leave, due.number)
            self._lost += 1
            log.info("pack.left", key=stored.key, bytes=stored.size, used=due.used)
        elif short or doubted:
            # of what is doubted, the lock is no more than another host's word either: it is read, and mended
            await self._renew(due, self._terms.contents if short else self._terms.promise, checked=doubted)

    async def _renew(self, due: Due, asked: Lock, *, checked: bool) -> None:
        stored = due.stored
        try:
            lock = await self._store.renew(stored.key, stored.version, asked)
        except LockNotKept as exc:
            # A store need not let a GOVERNANCE lock become a COMPLIANCE one: what is stored anew gets the right one.
            log.warning("lock.refused", key=stored.key, version=stored.version, reason=str(exc))
            await self._forget(due)
        except ObjectGone:
            await self._mourn(due)
        else:
            await asyncio.to_thread(self._renewals.renewed, due.number, lock, checked=checked)
            self._account.renewed += lock != stored.lock and lock.mode is not LockMode.NONE

    def _falls_short(self, due: Due) -> bool:
        """Whether an object's lock ends too early, or, where nothing is promised, nothing says that it is there."""
        promise, lock = self._terms.promise, due.stored.lock
        if promise.mode is LockMode.NONE:
            return lock.until < promise.until and not self._must_be_there(due)
        return not lock.covers(promise)

    def _doubts(self, due: Due) -> bool:
        if self._doubt.setting == "first-use":
            return True
        if not self._doubt.any:
            return False
        first = due.host not in self._sampled
        self._sampled.add(due.host)
        return first or random.randrange(_SAMPLE) == 0  # noqa: S311  # which ones, nobody must be able to foretell for long

    async def _check(self, due: Due) -> bool:
        """Compare an object's contents with their hashes; a false one is reported and forgotten."""
        contents = await asyncio.to_thread(self._renewals.members, due.number)
        if not contents:
            return True  # forgotten meanwhile, with its host; or of use to a list alone, whose maker has proven it
        try:
            encoding, *others = encodings.candidates(due.encoding)
            reason = await holds_what_it_says(self._store, due.stored, encoding, contents)
            if reason is not None and keys.content_sha(due.stored.key) is not None:
                for other in others:
                    if await holds_what_it_says(self._store, due.stored, other, unsized(contents)) is None:
                        await asyncio.to_thread(self._renewals.reencoded, due.number, other.name)
                        reason = None
                        break
        except ObjectGone:
            if not self._must_be_there(due):
                await self._mourn(due)  # no lie: its lock has ended
                return False
            reason = "it does not exist"
        if reason is None:
            return True
        self._account.problem(
            Problem(
                "content.false",
                due.stored.key.encode(),
                f"host {due.host} published it, but {reason}. Its contents are stored again; find out what happened on"
                f" {due.host}, and leave it out of [content] share until then",
            )
        )
        await self._forget(due)
        if self._doubt.setting == "sample":
            await asyncio.to_thread(self._renewals.forget_host, due.host)
        return False

    def _must_be_there(self, due: Due) -> bool:
        """Whether an object is locked at this time, by what is known of it."""
        lock = due.stored.lock
        return lock.mode is not LockMode.NONE and lock.until > self._clock.now()

    async def _mourn(self, due: Due) -> None:
        """Forget an object that is not in the bucket."""
        reason = "its lock had ended and it was deleted; its contents are stored again"
        if due.checked and self._must_be_there(due):
            reason = "it was locked, and is not in the bucket"
            self.missed += 1
            self.missed_key = due.stored.key
        log.warning("object.gone", key=due.stored.key, version=due.stored.version, reason=reason)
        await self._forget(due)

    async def _forget(self, due: Due) -> None:
        await asyncio.to_thread(self._renewals.forget, [due.number])
        self._lost += 1


def _ours(due: Due) -> bool:
    """Whether an object is no other host's word; lists of chunks are our own, and proven with what they need."""
    return due.checked or due.encoding == chunk_list.NAME


def _next(pages: Iterator[list[Due]]) -> Sequence[Due]:
    return next(pages, [])
