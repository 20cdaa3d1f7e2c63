"""
The census: what the catalog knows is looked for in the bucket, a portion in each run.

A lock in force is proof that an object exists, as long as the bucket is the one
that it was and nobody with the right to bypass locks was at work. So each run
lists the versions of a stretch of keys, a thousand for a request, and turns
through all of them in time. Where one is gone, all are looked for at once,
before anything is reused.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from sysbackup.catalog.interface import Named, Session
from sysbackup.contents.account import Account
from sysbackup.model import Clock, LockMode, Problem
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


class Census:
    """Looks for what `known` says is in the bucket; what it finds to be gone is a problem of the run's `account`."""

    def __init__(self, store: ObjectStore, known: Session, account: Account, clock: Clock) -> None:
        self._store = store
        self._known = known
        self._presence = known.presence
        self._account = account
        self._clock = clock

    async def count(self) -> None:
        """
        Look for a portion of what is known, and for all of it where some is gone.

        What is gone is forgotten, so that this run stores it again; a problem of the
        run where it was locked.
        """
        missing = _Missing()
        await asyncio.to_thread(self._presence.begin)
        asked, suspicious = await self._samples()
        if not suspicious:
            after = await asyncio.to_thread(self._presence.turned_to)
            after = await self._count(missing, after, PAGES - asked)
            await asyncio.to_thread(self._presence.turn_to, after)
        if suspicious or missing.locked:
            await self._count(missing, "", None)
        self._report(missing)

    async def count_all(self, gone: str, number: int) -> None:
        """Look for all that is known: `number` objects, one with the key `gone`, are not there although locked."""
        missing = _Missing(locked=number, example=gone)
        await asyncio.to_thread(self._presence.begin)
        await self._count(missing, "", None)
        self._report(missing)

    def _report(self, missing: _Missing) -> None:
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

    async def _samples(self) -> tuple[int, bool]:
        """
        How many objects were asked for, and whether one is gone.

        Only where nothing was published yet: else our own last index has been looked for (`learning`).
        """
        now = self._clock.now()
        if await asyncio.to_thread(self._known.indexes.still_locked, now) is not None:
            return 0, False
        samples = await asyncio.to_thread(self._presence.one_of_each_host, now, _HOSTS)
        for key in samples:
            async with aclosing(self._store.versions(key)) as versions:
                if not [v async for v in _some(versions, PAGE) if v.key == key and not v.marker]:
                    return len(samples), True
        return len(samples), False

    async def _count(self, missing: _Missing, after: str, pages: int | None) -> str:
        """Look behind the key `after`, for no more than `pages` requests; returns where the next look begins."""
        left = pages
        if left is not None and left <= 0:
            return after
        for prefix in _PREFIXES:
            if after >= prefix + _END or not await asyncio.to_thread(self._presence.any_known, prefix):
                continue
            begin = after if after.startswith(prefix) else prefix
            most = None if left is None else left * PAGE
            seen, last = await self._meet(prefix, begin, most)
            if most is not None and seen >= most:
                # the last key's versions may go on behind what was listed: they come first the next time
                await asyncio.to_thread(self._forget_missing, missing, begin, last)
                return last[:-1] if last[:-1] > begin else last
            await asyncio.to_thread(self._forget_missing, missing, begin, prefix + _END)
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

    def _forget_missing(self, missing: _Missing, after: str, before: str) -> None:
        now = self._clock.now()
        for absent in self._presence.unmet(after, before):
            for gone in absent:
                lock = gone.stored.lock
                in_force = lock.mode is not LockMode.NONE and lock.until > now
                if gone.checked and in_force:
                    missing.locked += 1
                    missing.example = missing.example or gone.stored.key
                    if missing.locked <= _NAMED:
                        reason = "it was locked, and is not in the bucket"
                        log.warning(
                            "object.gone", key=gone.stored.key, version=gone.stored.version or "", reason=reason
                        )
                    continue
                missing.others += 1
                if in_force:
                    # one false word of a host is enough to believe none that nobody has checked
                    self._known.renewals.forget_host(gone.host)
            self._known.renewals.forget(gone.number for gone in absent)


async def _some(versions: AsyncIterator[Version], most: int | None) -> AsyncIterator[Version]:
    """The first `most` of them, without asking for one more, which would cost a request."""
    number = 0
    async for version in versions:
        yield version
        number += 1
        if number == most:
            return
