"""What every store does with what is put into it, whatever is behind the port: memory, moto, Ceph RGW."""

import hashlib
import os
from datetime import timedelta

import pytest
import uvloop

from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.errors import AccessDenied, StoreError
from sysbackup.model import LockMode
from sysbackup.store.port import ObjectStore, Upload
from tests.support.asking import MIN_PART, all_of, content, lock
from tests.support.servers import Bucket


def test_a_put_is_locked_until_the_date_asked_for(bucket: Bucket) -> None:
    """What `put` returns is stored, readable by its version, and locked as asked."""

    async def body() -> None:
        async with bucket.store() as store:
            asked = lock()
            stored = await store.put("k", b"some bytes", asked)
            assert await content(store, "k", stored.version) == b"some bytes"
            assert (stored.size, stored.fresh) == (10, True)
            kept = await store.lock_of("k", stored.version)
            assert kept is not None
            assert kept.covers(asked)
            assert stored.lock.covers(asked)
            assert kept.until - asked.until < timedelta(seconds=2)

    uvloop.run(body())


@pytest.mark.parametrize("mode", [LockMode.GOVERNANCE, LockMode.COMPLIANCE])
def test_a_locked_version_cannot_be_deleted(bucket: Bucket, mode: LockMode) -> None:
    """Not even by the store's administrator, whether it came as one put or in parts."""

    async def body() -> None:
        async with bucket.store() as store:
            put = await store.put("put", b"precious", lock(0.001, mode))
            async with store.upload("parts", lock(0.001, mode)) as upload:
                await upload.part(1, b"precious too")
                parts = await upload.finish()
            for stored in (put, parts):
                assert stored.version is not None
                with pytest.raises(AccessDenied):
                    await bucket.delete(stored.key, stored.version)
            assert await content(store, "parts", parts.version) == b"precious too"

    uvloop.run(body())


def test_what_is_not_locked_can_be_deleted(bucket: Bucket) -> None:
    """So that the tests of what cannot be deleted mean something."""

    async def body() -> None:
        version = await bucket.plant("k", b"x")
        await bucket.delete("k", version)
        async with bucket.store() as store:
            assert await all_of(store.versions("")) == []

    uvloop.run(body())


def test_a_multipart_upload_ends_locked_even_where_the_store_ignored_its_headers(bucket: Bucket) -> None:
    """The lock is read back after the parts are joined, and set where it is missing."""

    async def body() -> None:
        async with bucket.store() as store:
            asked = lock(3)
            async with store.upload("big", asked) as upload:
                await upload.part(1, b"x" * MIN_PART)
                await upload.part(2, b"end")
                stored = await upload.finish()
            kept = await store.lock_of("big", stored.version)
            assert kept is not None
            assert kept.covers(asked)
            assert stored.lock.covers(asked)
            mended = store.requests.by_kind["PutObjectRetention"]
            assert mended == (0 if bucket.traits.multipart_locks else 1)

    uvloop.run(body())


def test_an_upload_left_without_finish_leaves_nothing_behind(bucket: Bucket) -> None:
    """Neither parts nor an object; the reason why it was left comes out unchanged."""

    async def leave(store: ObjectStore, uploads: list[Upload]) -> None:
        async with store.upload("big", lock()) as upload:
            uploads.append(upload)
            await upload.part(1, b"x" * 1000)
            assert await bucket.unfinished() == 1
            raise RuntimeError("the snapshotter failed")

    async def body() -> None:
        uploads: list[Upload] = []
        async with bucket.store() as store:
            with pytest.raises(RuntimeError, match="the snapshotter failed"):
                await leave(store, uploads)
            assert await bucket.unfinished() == 0
            assert await all_of(store.versions("")) == []
            with pytest.raises(StoreError, match="big"):
                await uploads[0].part(2, b"late")

    uvloop.run(body())


def test_an_upload_without_parts_makes_an_empty_object(bucket: Bucket) -> None:
    """A stream may turn out to hold nothing."""

    async def body() -> None:
        async with bucket.store() as store:
            async with store.upload("empty", lock()) as upload:
                stored = await upload.finish()
            assert stored.size == 0
            assert await content(store, "empty", stored.version) == b""

    uvloop.run(body())


def test_what_lies_in_shared_memory_is_stored_from_there(bucket: Bucket) -> None:
    """Put or in parts, its digest known or not: the bytes of the view and no others; it may be used again then."""

    async def body() -> None:
        with SharedSlots(2, 2 * MIN_PART) as slots:
            view = slots.view(1, MIN_PART + 5)
            view[:] = said = os.urandom(len(view))
            known = hashlib.sha256(said).digest()
            async with bucket.store() as store:
                for number, (length, sha256) in enumerate(
                    [(len(said), known), (len(said), None), (1, None), (0, None)]
                ):
                    stored = await store.put(f"put-{number}", slots.view(1, length), lock(), once=True, sha256=sha256)
                    assert stored.size == length
                    assert await content(store, stored.key, stored.version) == said[:length]
                async with store.upload("parts", lock(), once=True) as upload:
                    await upload.part(1, view, sha256=known)
                    await upload.part(2, slots.view(1, 5))
                    view[:] = bytes(len(view))
                    stored = await upload.finish()
                assert await content(store, "parts", stored.version) == said + said[:5]
                assert store.requests.sent == 3 * len(said) + 6

    uvloop.run(body())


def test_an_empty_body_can_be_put(bucket: Bucket) -> None:
    """Nothing is something to store, too."""

    async def body() -> None:
        async with bucket.store() as store:
            stored = await store.put("empty", b"", lock())
            assert await content(store, "empty", stored.version) == b""
            assert [v.size async for v in store.list("")] == [0]

    uvloop.run(body())


def test_renew_lengthens_and_never_shortens(bucket: Bucket) -> None:
    """It returns the lock in force, which may be longer than what was asked."""

    async def body() -> None:
        async with bucket.store() as store:
            long, longer, short = lock(5), lock(9), lock(1)
            stored = await store.put("k", b"x", long)
            assert (await store.renew("k", stored.version, short)).covers(long)
            kept = await store.lock_of("k", stored.version)
            assert kept is not None
            assert kept.covers(long)
            assert not kept.covers(longer)
            assert (await store.renew("k", stored.version, longer)).covers(longer)
            kept = await store.lock_of("k", stored.version)
            assert kept is not None
            assert kept.covers(longer)

    uvloop.run(body())


def test_renew_locks_what_was_unlocked(bucket: Bucket) -> None:
    """A version that somebody stored without a lock can come under a promise."""

    async def body() -> None:
        version = await bucket.plant("k", b"x")
        async with bucket.store() as store:
            assert await store.lock_of("k", version) is None
            await store.renew("k", version, lock(0.001))
            with pytest.raises(AccessDenied):
                await bucket.delete("k", version)

    uvloop.run(body())


def test_renew_keeps_compliance(bucket: Bucket) -> None:
    """A COMPLIANCE lock that is lengthened for a GOVERNANCE promise stays a COMPLIANCE lock."""

    async def body() -> None:
        async with bucket.store() as store:
            stored = await store.put("k", b"x", lock(1, LockMode.COMPLIANCE))
            await store.renew("k", stored.version, lock(2))
            kept = await store.lock_of("k", stored.version)
            assert kept is not None
            assert kept.mode is LockMode.COMPLIANCE
            assert kept.covers(lock(1.99))

    uvloop.run(body())


def test_without_locks_nothing_is_locked(bucket: Bucket) -> None:
    """`lock_mode = none` sends no lock and asks for none."""

    async def body() -> None:
        async with bucket.store() as store:
            none = lock(mode=LockMode.NONE)
            put = await store.put("put", b"x", none)
            async with store.upload("parts", none) as upload:
                await upload.part(1, b"x")
                parts = await upload.finish()
            assert await store.renew("put", put.version, none) == none
            kinds = store.requests.by_kind
            assert not kinds["GetObjectRetention"] + kinds["HeadObject"] + kinds["PutObjectRetention"]
            for stored in (put, parts):
                assert await store.lock_of(stored.key, stored.version) is None

    uvloop.run(body())


def test_a_digest_that_is_known_is_used(bucket: Bucket) -> None:
    """Whoever has hashed a body already need not have it hashed again."""

    async def body() -> None:
        whole = os.urandom(1 << 20)
        digest = hashlib.sha256(whole).digest()
        async with bucket.store() as store:
            stored = await store.put("k", whole, lock(), sha256=digest)
            assert await content(store, "k", stored.version) == whole
            async with store.upload("parts", lock()) as upload:
                await upload.part(1, whole, sha256=digest)
                stored = await upload.finish()
            assert await content(store, "parts", stored.version) == whole

    uvloop.run(body())
