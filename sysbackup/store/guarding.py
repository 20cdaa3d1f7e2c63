"""
Locks guarded, for every kind of store: what is promised has been read back, and mended where it was not so.

Two S3 servers accept the lock of a multipart upload and store it unlocked; a
proxy's empty 200 confirms anything. So an `Adapter` is asked once more.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, timedelta

from sysbackup.errors import (
    AccessDenied,
    BucketUnusable,
    LockNotKept,
    ObjectGone,
    StoreError,
    StoreUnavailable,
)
from sysbackup.model import Lock, LockMode, StoredObject
from sysbackup.store.adapter import Adapter, Joining, Taken, Told
from sysbackup.store.delegating import Looking
from sysbackup.store.matching import equals, newest, of_key, unlisted
from sysbackup.store.port import NO_METADATA, Body, Upload

_SETTINGS = 3  # so often is a lock set that something other than the store seems to have confirmed


class Guarded(Looking[Adapter]):
    """`port.ObjectStore` over any adapter."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._guard = _Guard(adapter)

    async def put(
        self,
        key: str,
        body: Body,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        sha256: bytes | None = None,
    ) -> StoredObject:
        asked = _rounded(lock)
        try:
            told = await self._store.put(key, body, asked, metadata=metadata, once=once, sha256=sha256)
        except Taken as taken:
            if found := await self._guard.equal(key, taken, lock):
                return found
            told = await self._store.put(key, body, asked, metadata=metadata, sha256=sha256)
        return await self._guard.locked(told, lock)

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AsyncIterator[Upload]:
        async with self._store.upload(key, _rounded(lock), metadata=metadata) as joining:
            yield _GuardedUpload(self._guard, joining, key, lock, once=once)

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        if lock.mode is not LockMode.NONE:
            return await self._guard.keep(key, version, lock)
        # nothing to renew; what is asked is whether the object is still there, which a listing
        # tells without the right to read
        async with aclosing(of_key(self._store, key)) as versions:
            async for found in versions:
                if not found.marker and (found.version == version or (version is None and found.latest)):
                    return lock
        raise ObjectGone(f"{key!r} (version {version or 'current'}) does not exist in {self._store.place}.")


class _GuardedUpload:
    """See `port.Upload`."""

    def __init__(self, guard: "_Guard", joining: Joining, key: str, lock: Lock, *, once: bool) -> None:
        self._guard = guard
        self._joining = joining
        self._key = key
        self._lock = lock
        self._once = once

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        await self._joining.part(number, body, sha256=sha256)

    async def finish(self) -> StoredObject:
        once = self._once
        while True:
            try:
                told = await self._joining.join(once=once)
            except Taken as taken:
                # the answer to an earlier try may have been lost: then this finds our own version
                if found := await self._guard.equal(self._key, taken, self._lock):
                    return found
                if taken.otherwise is not None:
                    raise taken.otherwise from taken
                once = False
            else:
                return await self._guard.locked(told, self._lock)


class _Guard:
    """Proves what an adapter tells, and mends what it finds."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._set_holds = False

    async def keep(self, key: str, version: str | None, asked: Lock, *, doubt: bool = False) -> Lock:
        """
        See to it that a version is locked as `asked`: the lock in force.

        What was set is read back the first time, where nothing shows that it was the
        store that answered (a proxy's empty 200), and always with `doubt`.
        `LockNotKept` where the store does not keep it, or refuses to turn
        GOVERNANCE into COMPLIANCE (AWS does without s3:BypassGovernanceRetention),
        or where no version is named: what stands under a key anybody may change who
        may write. That is so of S3's version "null" as well, which the next one
        without an id replaces.
        """
        found = await self._adapter.lock_of(key, version)
        if version is None:
            raise LockNotKept(
                f"{key!r} in {self._adapter.place} has no version id: nothing can be promised of it. Is versioning"
                " enabled on the bucket?"
            )
        if found is not None and found.covers(asked):
            return found
        wanted = _longer(found, asked)
        for _ in range(_SETTINGS):
            answered = await self._set(key, version, wanted, found)
            if self._set_holds and answered and not doubt:
                return wanted
            found = await self._adapter.lock_of(key, version)
            if answered or (found is not None and found.covers(asked)):
                break
        if found is None or not found.covers(asked):
            now = f"locked until {found.until:%Y-%m-%d %H:%M:%S} UTC ({found.mode})" if found else "not locked"
            raise LockNotKept(
                f"{self._adapter.place} took {key!r} (version {version}) but does not keep its lock: asked for "
                f"{asked.mode} until {asked.until:%Y-%m-%d %H:%M:%S} UTC, it is {now}. Is Object Lock enabled "
                "on the bucket, and is this store known to enforce it?"
            )
        self._set_holds = True
        return found

    async def _set(self, key: str, version: str, lock: Lock, found: Lock | None) -> bool:
        try:
            return await self._adapter.set_lock(key, version, lock)
        except AccessDenied as exc:
            if found is None or found.mode is lock.mode:
                raise
            raise LockNotKept(
                f"{self._adapter.place} does not let the lock of {key!r} (version {version}) become {lock.mode}; it "
                f"stays {found.mode} until {found.until:%Y-%m-%d %H:%M:%S} UTC."
            ) from exc

    async def equal(self, key: str, taken: Taken, lock: Lock) -> StoredObject | None:
        """
        A version that is there already and holds the same bytes, its lock lengthened to `lock`.

        None if there is none. Whoever may write may have put it there: one whose lock
        cannot be lengthened, for whatever reason, or that nobody can read at once, is as
        good as none.
        """
        async with aclosing(equals(self._adapter, key, taken.size, taken.etag)) as versions:
            async for found in versions:
                if found.archived:
                    continue
                try:
                    kept = lock if lock.mode is LockMode.NONE else await self.keep(key, found.version, lock)
                except StoreUnavailable:
                    raise
                except StoreError:
                    continue
                return StoredObject(key, found.version, taken.size, kept, fresh=False)
        return None

    async def locked(self, told: Told, lock: Lock) -> StoredObject:
        """
        What an answer told of as stored, proven: that version's lock has been read back, and so there is such a one.

        Where the answer names none, or one that there is not, the version that holds what was
        sent is looked for. `BucketUnusable` where the store keeps no versions, `LockNotKept` where it keeps no lock.
        """
        if lock.mode is LockMode.NONE:
            return StoredObject(told.key, told.version, told.size, lock)
        if told.version is not None:
            try:
                kept = await self.keep(told.key, told.version, lock, doubt=True)
            except ObjectGone:
                pass
            else:
                return StoredObject(told.key, told.version, told.size, kept)
        version = await newest(self._adapter, told.key, told.size, told.etag)
        if version is None:
            raise BucketUnusable(
                f"The {self._adapter.place} took {told.key!r}, but keeps no versions, and so no locks: it has no "
                "Object Lock. Enable that on the bucket, choose a store that has it, or set [content] lock_mode = none "
                "and do without."
            )
        try:
            kept = await self.keep(told.key, version, lock, doubt=True)
        except ObjectGone as exc:
            raise unlisted(self._adapter.place, told.key, version, told.size, told.etag) from exc
        return StoredObject(told.key, version, told.size, kept)


def _rounded(lock: Lock) -> Lock:
    """The lock until a whole second in UTC, which every store keeps exactly."""
    return Lock(lock.mode, (lock.until.astimezone(UTC) + timedelta(microseconds=999_999)).replace(microsecond=0))


def _longer(found: Lock | None, asked: Lock) -> Lock:
    """A lock that keeps what both say."""
    if found is None:
        return _rounded(asked)
    mode = LockMode.COMPLIANCE if LockMode.COMPLIANCE in (found.mode, asked.mode) else LockMode.GOVERNANCE
    return _rounded(Lock(mode, max(found.until, asked.until)))
