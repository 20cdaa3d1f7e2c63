"""
The census: what the catalog knows is looked for in the bucket, a portion in each run.

A lock in force is proof that an object exists, as long as the bucket is the one
that it was and nobody with the right to bypass locks was at work. So each run
lists the versions of a stretch of keys, a thousand for a request, and turns
through all of them in time. Where one is gone, all are looked for at once,
before anything is promised.

The look goes on beside the run's own work. What it misses is forgotten when that
has ended, so that whatever is known stays as it is while examiners ask for it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from sysbackup.catalog.interface import KnownObject, Named, Session
from sysbackup.contents.account import Account
from sysbackup.model import Clock, Lock, LockMode, Problem
from sysbackup.store.port import PAGE, ObjectStore, Version

log = structlog.get_logger()

# Requests, about, that one run spends on it, while nothing is missing.
PAGES = 7
# Hosts of which a catalog that has published nothing yet asks for one object each, by a request each.
_HOSTS = 4

# So many missing objects are named in the log one by one; of an emptied bucket there could be millions.
_NAMED = 20

# In the order of their keys.
_PREFIXES = ("content/", "packs/")
_END = "\U0010ffff"


@dataclass(slots=True)
class _Missing:
    """Objects that are not there: those whose locks were in force by what we know for ourselves, and others."""

    locked: int = 0
    others: int = 0
    example: str = ""

    @property
    def number(self) -> int:
        return self.locked + self.others


class Census:
    """
    Looks for what `known` says is in the bucket, for a run that promises until `promise`.

    What it finds to be gone is a problem of the run's `account`.
    """

    def __init__(self, store: ObjectStore, known: Session, promise: Lock, account: Account, clock: Clock) -> None:
        self._store = store
        self._promise = promise
        self._known = known
        self._presence = known.presence
        self._account = account
        self._clock = clock
        self._prefixes: list[str] = []
        self._samples: list[str] = []
        # what was looked through: of the keys between two, all versions were listed
        self._stretches: list[tuple[str, str]] = []
        self._whole = False
        self._next: str | None = None
        self._missing = _Missing()

    async def begin(self) -> None:
        """Set down what is known now: that alone is looked for."""
        await asyncio.to_thread(self._begin)
        self._samples = await asyncio.to_thread(self._sampled)

    async def look(self) -> None:
        """
        Look for a portion of what was known at the beginning, and for all of it where samples are gone.

        Nothing is forgotten yet (`settle`, `forget_ended`): the run may go on meanwhile.
        """
        suspicious = await self._lacks_samples()
        begin = "" if suspicious else await asyncio.to_thread(self._presence.turned_to)
        self._next = await self._look(begin, None if suspicious else PAGES - len(self._samples))
        self._whole = begin == self._next == ""

    async def settle(self) -> bool:
        """
        Forget what was missed of what the run could rely on without another look; returns whether that was anything.

        Then the run is to store again what it referred to. A problem of the run where it
        was locked, and a reason to look for all that is known. What is not locked
        any more can wait for `forget_ended`: where the run refers to it, it has to be renewed.
        """
        await asyncio.to_thread(self._forget_missing, ended=False)
        if self._next is not None:
            # not before: of a run that fails, the next one looks there again
            await asyncio.to_thread(self._presence.turn_to, self._next)
        if not self._missing.number:
            return False
        if self._missing.locked and not self._whole:
            await self._look_for_all()
        self._report()
        return True

    async def look_for_all(self, gone: str, number: int) -> None:
        """Look for all that is known: `number` objects, one with the key `gone`, are not there although locked."""
        self._missing = _Missing(locked=number, example=gone)
        await self._look_for_all()
        self._report()

    async def forget_ended(self) -> None:
        """Forget what was missed and is not locked any more: for when all that the run refers to is."""
        await asyncio.to_thread(self._forget_missing, ended=True)
        self._report()

    def _begin(self) -> None:
        self._stretches.clear()
        self._presence.begin()
        self._prefixes = [prefix for prefix in _PREFIXES if self._presence.any_known(prefix)]

    def _sampled(self) -> list[str]:
        """Some keys; only where nothing was published yet: else our own last index has been looked for (`learning`)."""
        now = self._clock.now()
        return [] if self._known.indexes.still_locked(now) else self._presence.one_of_each_host(now, _HOSTS)

    async def _look_for_all(self) -> None:
        await asyncio.to_thread(self._begin)
        await self._look("", None)
        await asyncio.to_thread(self._forget_missing)

    def _report(self) -> None:
        missing, self._missing = self._missing, _Missing()
        if missing.others:
            log.info("objects.forgotten", objects=missing.others, reason="they are not in the bucket (any more)")
        if missing.locked:
            what = "it is not in the bucket although its lock has not ended"
            if missing.locked > 1:
                what = f"it and {missing.locked - 1} more are not in the bucket although their locks have not ended"
            self._account.problem(
                Problem(
                    "objects.gone",
                    missing.example.encode(),
                    f"{what}: the bucket was emptied or made anew, or somebody may lift locks. Earlier backups of this"
                    " host may not restore any more; this one stores again what it needs",
                )
            )

    async def _lacks_samples(self) -> bool:
        """Whether one of the samples is gone."""
        for key in self._samples:
            async with aclosing(self._store.versions(key)) as versions:
                if not [v async for v in _some(versions, PAGE) if v.key == key and not v.marker]:
                    return True
        return False

    async def _look(self, after: str, pages: int | None) -> str:
        """Look behind the key `after`, for no more than `pages` requests; returns where the next look begins."""
        left = pages
        if left is not None and left <= 0:
            return after
        for prefix in self._prefixes:
            if after >= prefix + _END:
                continue
            begin = after if after.startswith(prefix) else prefix
            most = None if left is None else left * PAGE
            seen, last = await self._meet(prefix, begin, most)
            if most is not None and seen >= most:
                # the last key's versions may go on behind what was listed: they come first the next time
                self._stretches.append((begin, last))
                return last[:-1] if last[:-1] > begin else last
            self._stretches.append((begin, prefix + _END))
            left = None if left is None else left - max(1, -(-seen // PAGE))
            if left == 0:
                return prefix + _END
        return ""

    async def _meet(self, prefix: str, begin: str, most: int | None) -> tuple[int, str]:
        """Note which known objects are in the bucket; returns how many versions were listed, and the last one's key."""
        seen, last = 0, begin
        page: list[Named] = []
        async with aclosing(self._store.versions(prefix, begin if begin != prefix else "")) as versions:
            async for version in _some(versions, most):
                seen, last = seen + 1, version.key
                if not version.marker:
                    page.append((version.key, version.version or ""))
                if len(page) >= PAGE:
                    await asyncio.to_thread(self._presence.meet, page)
                    page = []
        await asyncio.to_thread(self._presence.meet, page)
        return seen, last

    def _forget_missing(self, *, ended: bool | None = None) -> None:
        """Forget what was missed: what is `ended` and was not to be relied on without a renewal, the rest, or all."""
        now = self._clock.now()
        # a run may go on for longer than it promises
        last = min(now, self._promise.until - timedelta(seconds=1))
        for after, before in self._stretches:
            for absent in self._presence.unmet(after, before):
                missed = [gone for gone in absent if ended in (None, gone.stored.lock.until <= last)]
                for gone in missed:
                    self._miss(gone, now)
                self._known.renewals.forget(gone.number for gone in missed)

    def _miss(self, gone: KnownObject, now: datetime) -> None:
        lock, missing = gone.stored.lock, self._missing
        in_force = lock.mode is not LockMode.NONE and lock.until > now
        if gone.checked and in_force:
            missing.locked += 1
            missing.example = missing.example or gone.stored.key
            if missing.locked <= _NAMED:
                reason = "it was locked, and is not in the bucket"
                log.warning("object.gone", key=gone.stored.key, version=gone.stored.version or "", reason=reason)
            return
        missing.others += 1
        if in_force:
            # one false word of a host is enough to believe none that nobody has checked
            self._known.renewals.forget_host(gone.host)


async def _some(versions: AsyncIterator[Version], most: int | None) -> AsyncIterator[Version]:
    """The first `most` of them, without asking for one more, which would cost a request."""
    number = 0
    async for version in versions:
        yield version
        number += 1
        if number == most:
            return
