"""What every store does, whatever is behind the port: memory, moto, Ceph RGW."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from sysbackup.errors import AccessDenied, LockNotKept, ObjectGone, StoreError
from sysbackup.model import Lock, LockMode, StoredObject
from sysbackup.store.port import MIN_PART, ObjectStore, Upload, Version
from tests.servers import Bucket

ODD_KEYS = ["a b", "a+b", "a%2Bb", "a&b=c?d", "ä/ö/ü", "tab\there", "<x>&amp;", "~.-_*'()"]


def lock(days: float = 1, mode: LockMode = LockMode.GOVERNANCE) -> Lock:
    return Lock(mode, datetime.now(UTC) + timedelta(days=days))


async def content(store: ObjectStore, key: str, version: str | None, *part: int) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, version, *part)])


async def all_of(found: AsyncGenerator[Version, None]) -> list[Version]:
    return [version async for version in found]


def etag(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


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


def test_an_empty_body_can_be_put(bucket: Bucket) -> None:
    """Nothing is something to store, too."""

    async def body() -> None:
        async with bucket.store() as store:
            stored = await store.put("empty", b"", lock())
            assert await content(store, "empty", stored.version) == b""
            assert [v.size async for v in store.list("")] == [0]

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


def test_ranges_are_read_by_version_behind_a_delete_marker(bucket: Bucket) -> None:
    """Hiding a key hides nothing from who names the version; who does not is told that it is gone."""

    async def body() -> None:
        whole = os.urandom(300_000)
        async with bucket.store() as store:
            stored = await store.put("k", whole, lock())
            assert await content(store, "k", None) == whole
            await bucket.hide("k")
            assert await content(store, "k", stored.version) == whole
            assert await content(store, "k", stored.version, 1000) == whole[1000:]
            assert await content(store, "k", stored.version, 1000, 200_000) == whole[1000:201_000]
            assert await content(store, "k", stored.version, 0, 1) == whole[:1]
            assert await content(store, "k", stored.version, 5, 0) == b""
            assert await content(store, "k", stored.version, 299_999, 100) == whole[-1:]
            with pytest.raises(ObjectGone, match="'k'"):
                await content(store, "k", None)

    uvloop.run(body())


def test_a_reader_may_stop_early(bucket: Bucket) -> None:
    """Closing the reader gives the connection back; the store goes on working."""

    async def body() -> None:
        async with bucket.store() as store:
            stored = await store.put("k", bytes(4 << 20), lock())
            for _ in range(3):
                reader = store.read("k", stored.version)
                assert await anext(reader)
                await reader.aclose()
            assert len(await content(store, "k", stored.version, 10, 10)) == 10

    uvloop.run(body())


def test_what_does_not_exist_is_gone(bucket: Bucket) -> None:
    """Every question about a version that is not there is answered alike."""

    async def body() -> None:
        async with bucket.store() as store:
            first = await store.put("k", b"x", lock(0.001))
            gone = await bucket.plant("k", b"y")
            await bucket.delete("k", gone)
            for key, version in (("nothing", None), ("nothing", first.version), ("k", gone)):
                with pytest.raises(ObjectGone):
                    await content(store, key, version)
                with pytest.raises(ObjectGone):
                    await store.head(key, version)
                with pytest.raises(ObjectGone):
                    await store.lock_of(key, version)
                with pytest.raises(ObjectGone):
                    await store.renew(key, version, lock())
                with pytest.raises(ObjectGone):
                    await store.renew(key, version, lock(mode=LockMode.NONE))

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


def test_metadata_comes_back(bucket: Bucket) -> None:
    """With puts and with parts; HEAD also tells size, ETag and lock."""

    async def body() -> None:
        metadata = {"storage-encoding": "gzip", "backup-output": "a long: description; with = signs"}
        async with bucket.store() as store:
            put = await store.put("put", b"body", lock(), metadata=metadata)
            async with store.upload("parts", lock(), metadata=metadata) as upload:
                await upload.part(1, b"body")
                parts = await upload.finish()
            for stored in (put, parts):
                info = await store.head(stored.key, stored.version)
                assert info.metadata == metadata
                assert (info.size, info.version) == (4, stored.version)
                assert info.lock is not None
            assert (await store.head("put", None)).etag == etag(b"body")

    uvloop.run(body())


def test_keys_of_all_kinds_are_stored_listed_and_read(bucket: Bucket) -> None:
    """Listings show keys as they are, in order, with nothing lost or decoded twice."""

    async def body() -> None:
        async with bucket.store() as store:
            for key in ODD_KEYS:
                await store.put(f"odd/{key}", key.encode(), lock())
            expected = sorted(f"odd/{key}" for key in ODD_KEYS)
            assert [v.key async for v in store.list("odd/")] == expected
            assert [v.key async for v in store.versions("odd/")] == expected
            for key in ODD_KEYS:
                assert [v.key async for v in store.list(f"odd/{key}")] == [f"odd/{key}"]
                assert await content(store, f"odd/{key}", None) == key.encode()

    uvloop.run(body())


def test_listings_show_what_is_there(bucket: Bucket) -> None:
    """`list`: current objects only, after a key; `versions`: everything, newest first, with its markers."""

    async def body() -> None:
        async with bucket.store() as store:
            old = await store.put("p/a", b"old", lock())
            await asyncio.sleep(1.1)  # stores tell the order of versions by the second
            new = await store.put("p/a", b"newer", lock())
            await store.put("p/b", b"b", lock())
            await store.put("p/c", b"c", lock())
            await store.put("q/d", b"d", lock())
            await asyncio.sleep(1.1)
            await bucket.hide("p/b")
            assert [(v.key, v.size, v.etag) async for v in store.list("p/")] == [
                ("p/a", 5, etag(b"newer")),
                ("p/c", 1, etag(b"c")),
            ]
            assert [v.key async for v in store.list("p/", "p/a")] == ["p/c"]
            assert [v.key async for v in store.list("", "p/c")] == ["q/d"]
            found = await all_of(store.versions("p/"))
            assert [(v.key, v.marker, v.latest) for v in found] == [
                ("p/a", False, True),
                ("p/a", False, False),
                ("p/b", True, True),
                ("p/b", False, False),
                ("p/c", False, True),
            ]
            assert [v.version for v in found[:2]] == [new.version, old.version]
            assert all(abs((v.modified - datetime.now(UTC)).total_seconds()) < 60 for v in found)

    uvloop.run(body())


def test_requests_are_counted_by_kind(bucket: Bucket) -> None:
    """Each kind exactly, and the bytes of bodies in both directions."""

    async def body() -> None:
        reads = bucket.traits.lock_reads
        async with bucket.store() as store:
            first = await store.put("a", b"12345", lock())
            counted = dict(store.requests.by_kind)
            # moto has to be asked once the right way before it is asked the other way
            assert counted.pop("GetObjectRetention") == 1
            assert counted.pop("HeadObject", 0) == (1 if reads == "HeadObject" else 0)
            assert counted == {"PutObject": 1}
            assert store.requests.sent == 5

            store.requests.by_kind.clear()
            await store.put("b", b"67890", lock())
            assert store.requests.by_kind == {"PutObject": 1}

            store.requests.by_kind.clear()
            async with store.upload("c", lock()) as upload:
                await upload.part(1, bytes(MIN_PART))
                await upload.part(2, b"x")
                await upload.finish()
            expected = {"CreateMultipartUpload": 1, "UploadPart": 2, "CompleteMultipartUpload": 1, reads: 1}
            if not bucket.traits.multipart_locks:
                expected |= {"PutObjectRetention": 1, reads: 2}
            assert store.requests.by_kind == expected
            assert store.requests.sent == 10 + MIN_PART + 1

            store.requests.by_kind.clear()
            assert await content(store, "a", first.version, 1, 3) == b"234"
            assert store.requests.by_kind == {"GetObject": 1}
            assert store.requests.received == 3

            store.requests.by_kind.clear()
            await store.check()
            await all_of(store.list(""))
            await all_of(store.versions(""))
            async with store.upload("d", lock()):
                pass
            assert store.requests.by_kind == {
                "ListObjectsV2": 2,
                "ListObjectVersions": 1,
                "CreateMultipartUpload": 1,
                "AbortMultipartUpload": 1,
            }

    uvloop.run(body())


def test_many_puts_at_once_read_one_lock_back(bucket: Bucket) -> None:
    """The first put tells for all; the others that are under way then wait for what it says."""

    async def body() -> None:
        async with bucket.store() as store:
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(store.put(f"k{number}", b"x", lock()))
            assert store.requests.by_kind["PutObject"] == 20
            assert store.requests.by_kind[bucket.traits.lock_reads] == 1

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
