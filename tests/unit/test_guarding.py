"""Locks guarded, whatever stands beneath: adapters that tell less than they should, or other than is so."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from sysbackup.errors import BucketUnusable, LockNotKept, StoreError
from sysbackup.model import Lock, StoredObject
from sysbackup.store.adapter import Joining, Taken, Told
from sysbackup.store.guarding import Guarded
from sysbackup.store.port import NO_METADATA, Body, Version
from tests.support.asking import lock
from tests.support.memory_store import MemoryAdapter, MemoryBucket

BODY = b"the content"
OWN = "its own"


class Odd(MemoryAdapter):
    """
    Something else confirms the first `confirmed` locks in the store's place.

    `named` is the version that puts name, whatever they stored, and `unversioned` the
    store of which listings tell no versions.
    """

    def __init__(
        self, memory: MemoryBucket, confirmed: int = 0, named: str | None = OWN, *, unversioned: bool = False
    ) -> None:
        super().__init__(memory)
        self._confirmed = confirmed
        self._named = named
        self._unversioned = unversioned

    async def set_lock(self, key: str, version: str, lock: Lock) -> bool:
        if self._confirmed > 0:
            self._confirmed -= 1
            self.requests.add("PutObjectRetention")
            return False
        return await super().set_lock(key, version, lock)

    async def put(
        self,
        key: str,
        body: Body,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        sha256: bytes | None = None,
    ) -> Told:
        told = await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)
        return told if self._named == OWN else replace(told, version=self._named)

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        async for found in super().versions(prefix, after):
            yield replace(found, version=None) if self._unversioned else found


def stored(adapter: MemoryAdapter) -> StoredObject:
    """What a put of `BODY` gives."""
    return uvloop.run(Guarded(adapter).put("k", BODY, lock()))


def joined(adapter: MemoryAdapter) -> StoredObject:
    """What an upload of `BODY` gives."""

    async def work() -> StoredObject:
        async with Guarded(adapter).upload("k", lock(), once=True) as upload:
            await upload.part(1, BODY)
            return await upload.finish()

    return uvloop.run(work())


def test_a_lock_that_something_else_confirmed_is_set_again() -> None:
    """Until it is there: what is told of it has been read back."""
    memory = MemoryBucket(multipart_locks=False)
    adapter = Odd(memory, confirmed=2)
    kept = memory.find("k", joined(adapter).version).lock
    assert kept is not None
    assert kept.covers(lock(0.99))
    assert adapter.requests.by_kind["PutObjectRetention"] == 3


def test_a_lock_that_is_never_there_is_not_promised() -> None:
    """However often it was confirmed."""
    adapter = Odd(MemoryBucket(multipart_locks=False), confirmed=100)
    with pytest.raises(LockNotKept, match=r"bucket 'bucket' in memory took 'k'.* not locked"):
        joined(adapter)
    assert adapter.requests.by_kind["PutObjectRetention"] == 3


@pytest.mark.parametrize("named", [None, "of another object"])
def test_a_version_that_an_answer_does_not_name_is_looked_for(named: str | None) -> None:
    """Or names falsely: the one that holds the bytes is taken, once its lock has been read."""
    memory = MemoryBucket()
    memory.add("k", b"older")
    found = stored(Odd(memory, named=named))
    assert memory.find("k", found.version).body == BODY
    assert found.lock.covers(lock(0.99))


def test_a_store_without_versions_can_promise_nothing() -> None:
    """It is named as such, with the bucket."""
    with pytest.raises(BucketUnusable, match=r"bucket 'bucket' in memory took 'k', but keeps no versions"):
        stored(Odd(MemoryBucket(), named=None, unversioned=True))


class Dropping(MemoryAdapter):
    """Tells after the first joining that it knows no such upload; `joins` it before, or not at all."""

    def __init__(self, memory: MemoryBucket, *, joins: bool) -> None:
        super().__init__(memory)
        self._joins = joins

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA
    ) -> AsyncIterator[Joining]:
        async with super().upload(key, lock, metadata=metadata) as upload:
            yield _Dropping(upload, joins=self._joins)


class _Dropping:
    def __init__(self, upload: Joining, *, joins: bool) -> None:
        self._upload = upload
        self._joins = joins

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        await self._upload.part(number, body, sha256=sha256)

    async def join(self, *, once: bool) -> Told:
        told = Told("k", None, len(BODY), "no such version")
        if self._joins:
            told = await self._upload.join(once=once)
        raise Taken(told.size, told.etag, StoreError("there is no such upload"))


def test_an_upload_whose_joining_was_answered_by_nobody_is_found() -> None:
    """The second try finds it gone: what it became is taken, under its lock."""
    memory = MemoryBucket(multipart_locks=False)
    found = joined(Dropping(memory, joins=True))
    kept = memory.find("k", found.version)
    assert kept.body == BODY
    assert kept.lock is not None


def test_an_upload_that_is_gone_says_why() -> None:
    """In the adapter's words."""
    with pytest.raises(StoreError, match="there is no such upload"):
        joined(Dropping(MemoryBucket(), joins=False))
