"""What every store tells of what it holds: bytes, listings, metadata, and what was counted."""

import asyncio
import os
from datetime import UTC, datetime

import pytest
import uvloop

from sysbackup.errors import ObjectGone
from sysbackup.model import LockMode
from tests.support.asking import MIN_PART, all_of, content, etag, lock
from tests.support.servers import Bucket

ODD_KEYS = ["a b", "a+b", "a%2Bb", "a&b=c?d", "ä/ö/ü", "tab\there", "<x>&amp;", "~.-_*'()"]


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
            assert store.requests.by_kind == {"PutObject": 1, reads: 1}

            store.requests.by_kind.clear()
            async with store.upload("c", lock()) as upload:
                await upload.part(1, bytes(MIN_PART))
                await upload.part(2, b"x")
                await upload.finish()
            expected = {"CreateMultipartUpload": 1, "UploadPart": 2, "CompleteMultipartUpload": 1, reads: 1}
            if not bucket.traits.multipart_locks:
                expected |= {"PutObjectRetention": 1, reads: 2}
            if not bucket.traits.tells_etag:
                expected |= {"ListObjectVersions": 1}
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
