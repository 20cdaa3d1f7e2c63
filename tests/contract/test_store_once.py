"""Keys that name their content are stored once, on every store; rubbish under them is passed over."""

import asyncio

import pytest
import uvloop

from sysbackup.errors import LockNotKept
from sysbackup.model import Lock, LockMode, StoredObject
from sysbackup.store.port import ObjectStore
from tests.support.asking import MIN_PART, all_of, content, lock
from tests.support.servers import Bucket


def test_parts_go_out_at_once_and_in_any_order(bucket: Bucket) -> None:
    """Eight parts sent together, the last first, make the bytes in their right order."""

    async def body() -> None:
        parts = [bytes([n]) * MIN_PART for n in range(1, 8)] + [b"the end"]
        async with bucket.store() as store:
            async with store.upload("big", lock()) as upload, asyncio.TaskGroup() as group:
                for number in range(8, 0, -1):
                    group.create_task(upload.part(number, parts[number - 1]))
            # nothing was finished: the next one is
            async with store.upload("big", lock()) as upload:
                async with asyncio.TaskGroup() as group:
                    for number in range(8, 0, -1):
                        group.create_task(upload.part(number, bytearray(parts[number - 1])))
                stored = await upload.finish()
            whole = b"".join(parts)
            assert stored.size == len(whole)
            assert await content(store, "big", stored.version) == whole
            assert store.requests.sent == 2 * len(whole)
            assert await bucket.unfinished() == 0

    uvloop.run(body())


def test_once_takes_an_equal_version_and_lengthens_its_lock(bucket: Bucket) -> None:
    """A key that names its content is stored once, by one put or in parts, and stays locked for the longer promise."""

    async def body() -> None:
        async with bucket.store() as store:
            for key in ("content/put", "content/parts"):
                first = await put_or_upload(store, key, b"the content", lock(1))
                again = await put_or_upload(store, key, b"the content", lock(5))
                if bucket.traits.conditions:
                    assert not again.fresh
                    assert again.version == first.version
                    assert len(await all_of(store.versions(key))) == 1
                kept = await store.lock_of(key, again.version)
                assert kept is not None
                assert kept.covers(lock(4.99))
                assert await bucket.unfinished() == 0

    uvloop.run(body())


def test_once_passes_over_what_is_not_equal(bucket: Bucket) -> None:
    """Rubbish planted under a content's key is never named as the content."""

    async def body() -> None:
        async with bucket.store() as store:
            for key in ("content/put", "content/parts"):
                planted = await bucket.plant(key, b"not content")
                stored = await put_or_upload(store, key, b"the content", lock())
                assert stored.fresh
                assert stored.version != planted
                assert await content(store, key, stored.version) == b"the content"
                assert (await store.lock_of(key, stored.version)) is not None
                assert await bucket.unfinished() == 0

    uvloop.run(body())


def test_once_finds_an_equal_version_behind_rubbish(bucket: Bucket) -> None:
    """Rubbish put on top of a content does not make it be stored again for ever."""

    async def body() -> None:
        if not bucket.traits.conditions:
            return
        async with bucket.store() as store:
            first = await store.put("content/k", b"the content", lock())
            await bucket.plant("content/k", b"rubbish")
            again = await store.put("content/k", b"the content", lock(), once=True)
            assert (again.version, again.fresh) == (first.version, False)

    uvloop.run(body())


def test_once_stores_again_over_a_delete_marker(bucket: Bucket) -> None:
    """A key that somebody hid can be stored under; the version returned is there and locked."""

    async def body() -> None:
        async with bucket.store() as store:
            await store.put("content/k", b"the content", lock())
            await bucket.hide("content/k")
            again = await store.put("content/k", b"the content", lock(), once=True)
            assert await content(store, "content/k", again.version) == b"the content"
            assert (await store.lock_of("content/k", again.version)) is not None

    uvloop.run(body())


async def put_or_upload(store: ObjectStore, key: str, body: bytes, asked: Lock) -> StoredObject:
    """Store `body` once: in parts where the key says so."""
    if not key.endswith("parts"):
        return await store.put(key, body, asked, once=True)
    async with store.upload(key, asked, once=True) as upload:
        await upload.part(1, body)
        return await upload.finish()


def test_governance_that_cannot_become_compliance_is_said_or_stored_anew(bucket: Bucket) -> None:
    """`renew` says that the lock stays what it is; `put` with `once` stores a version of its own."""

    async def body() -> None:
        async with bucket.store() as store:
            first = await store.put("k", b"x", lock())
            if bucket.traits.fixed_modes:
                with pytest.raises(LockNotKept, match="'k'"):
                    await store.renew("k", first.version, lock(2, LockMode.COMPLIANCE))
            again = await store.put("k", b"x", lock(0.001, LockMode.COMPLIANCE), once=True)
            kept = await store.lock_of("k", again.version)
            assert kept is not None
            assert kept.mode is LockMode.COMPLIANCE

    uvloop.run(body())


def test_many_puts_at_once_read_each_lock_back(bucket: Bucket) -> None:
    """Only that proves that there is a version of the name that the answer told, and that it is locked."""

    async def body() -> None:
        async with bucket.store() as store:
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(store.put(f"k{number}", b"x", lock()))
            assert store.requests.by_kind["PutObject"] == 20
            assert store.requests.by_kind[bucket.traits.lock_reads] == 20

    uvloop.run(body())
