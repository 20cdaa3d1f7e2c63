"""What the S3 adapter does when the network or the server misbehaves, in front of real servers."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest
import uvloop
from structlog.testing import capture_logs

from sysbackup.api.connecting import open_store
from sysbackup.errors import LockNotKept, StoreUnavailable
from sysbackup.store import retrying
from sysbackup.store.port import Body, ObjectStore
from tests.support.asking import MIN_PART, content, lock
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.proxy import Fault, proxying
from tests.support.servers import OnServer, Server

PART, CREATE, COMPLETE = r"^PUT .*partNumber=", r"^POST .*\?uploads", r"^POST .*\?uploadId="
PUT = r"^PUT [^?]* "
GET = r"^GET .*versionId="


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_part_is_sent_again_after_a_503(served: OnServer, kind: Callable[[bytes], Body]) -> None:
    """The bytes are right, and both sendings are counted, since S3 bills both."""

    async def body() -> None:
        parts = [kind(part) for part in (os.urandom(MIN_PART), os.urandom(MIN_PART), b"end")]
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(PART, Fault.BUSY, 2, 3)
            async with served.store(endpoint_url=proxy.url) as store:
                async with store.upload("big", lock()) as upload, asyncio.TaskGroup() as group:
                    for number, part in enumerate(parts, 1):
                        group.create_task(upload.part(number, part))
                async with store.upload("big", lock()) as upload:
                    for number, part in enumerate(parts, 1):
                        await upload.part(number, part)
                    stored = await upload.finish()
                assert await content(store, "big", stored.version) == b"".join(parts)
                assert store.requests.by_kind["UploadPart"] == 8
                assert store.requests.sent == 2 * (2 * MIN_PART + 3)

    uvloop.run(body())


def test_every_body_carries_its_checksum_and_goes_out_plain(served: OnServer) -> None:
    """x-amz-checksum-sha256 on each put and part (Object Lock wants it); no trailer, no `Expect`."""

    async def body() -> None:
        with proxying(served.server.endpoint) as proxy:
            async with served.store(endpoint_url=proxy.url) as store:
                await store.put("small", b"x", lock())
                await store.put("large", bytes(1 << 20), lock())
                await store.put("view", memoryview(bytes(1 << 20)), lock())
                async with store.upload("parts", lock()) as upload:
                    await upload.part(1, memoryview(bytes(MIN_PART)))
                    await upload.part(2, b"end")
                    await upload.finish()
            bodies = [head for head in proxy.heads if re.match(f"{PUT}|{PART}", head)]
            assert len(bodies) == 5
            for head in bodies:
                assert re.search(r"(?im)^x-amz-checksum-sha256: \S{44}\r$", head)
                assert re.search(r"(?im)^x-amz-sdk-checksum-algorithm: SHA256\r$", head)
                assert re.search(r"(?im)^x-amz-content-sha256: [0-9a-f]{64}\r$", head)
                assert not re.search(r"(?im)^(expect|x-amz-trailer|content-encoding|transfer-encoding):", head)
            locked = [head for head in proxy.heads if re.match(f"{PUT}|{CREATE}", head)]
            assert len(locked) == 4
            for head in locked:
                assert "x-amz-object-lock-mode: GOVERNANCE" in head
                assert "x-amz-object-lock-retain-until-date: " in head

    uvloop.run(body())


def test_the_settings_of_the_bucket_go_with_each_object(moto_bucket: OnServer) -> None:
    """Storage class and encryption are sent with puts and with uploads."""

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as proxy:
            async with moto_bucket.store(endpoint_url=proxy.url, storage_class="STANDARD_IA", sse="AES256") as store:
                await store.put("put", b"x", lock())
                async with store.upload("parts", lock()) as upload:
                    await upload.part(1, b"x")
                    await upload.finish()
            for pattern in (PUT, CREATE):
                (head,) = [head for head in proxy.heads if re.match(pattern, head)]
                assert "x-amz-storage-class: STANDARD_IA" in head
                assert "x-amz-server-side-encryption: AES256" in head

    uvloop.run(body())


def test_a_put_whose_answer_got_lost_is_not_stored_twice(moto_bucket: OnServer) -> None:
    """The second try meets the first one's version and takes it, locked as asked."""

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as proxy:
            proxy.fail(PUT, Fault.LOST)
            async with moto_bucket.store(endpoint_url=proxy.url) as store:
                stored = await store.put("content/k", b"the content", lock(), once=True)
                assert [v.version async for v in store.versions("")] == [stored.version]
                assert await content(store, "content/k", stored.version) == b"the content"

    uvloop.run(body())


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.ERROR_200, Fault.BUSY])
def test_joining_parts_is_tried_again(moto_bucket: OnServer, fault: Fault) -> None:
    """Whether its answer got lost, or it was an error behind status 200: one version, locked."""

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as proxy:
            proxy.fail(COMPLETE, fault)
            async with moto_bucket.store(endpoint_url=proxy.url) as store:
                async with store.upload("k", lock(), once=True) as upload:
                    await upload.part(1, b"the content")
                    stored = await upload.finish()
                assert [v.version async for v in store.versions("")] == [stored.version]
                assert (await store.lock_of("k", stored.version)) is not None
                assert await moto_bucket.unfinished() == 0

    uvloop.run(body())


def test_a_read_goes_on_where_its_connection_broke(served: OnServer) -> None:
    """Twice broken, the bytes are whole and none came twice."""

    async def body() -> None:
        whole = os.urandom(3 << 20)
        async with served.store() as store:
            stored = await store.put("k", whole, lock())
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(GET, Fault.CUT, 1, 2, 4)
            async with served.store(endpoint_url=proxy.url) as store:
                assert await content(store, "k", stored.version) == whole
                assert store.requests.by_kind["GetObject"] == 3
                assert store.requests.received == len(whole)
                assert await content(store, "k", stored.version, 1000, 2_000_000) == whole[1000:2_001_000]

    uvloop.run(body())


def test_a_read_that_breaks_for_ever_ends(moto_bucket: OnServer) -> None:
    """A server that never gets one byte across is unavailable."""

    async def body() -> None:
        async with moto_bucket.store() as store:
            stored = await store.put("k", b"ab", lock())
        with proxying(moto_bucket.server.endpoint) as proxy:
            # half of one byte is none
            proxy.fail(GET, Fault.CUT, *range(1, 100))
            async with moto_bucket.store(endpoint_url=proxy.url) as store:
                with pytest.raises(StoreUnavailable, match=moto_bucket.name):
                    await content(store, "k", stored.version)

    uvloop.run(body())


def test_an_upload_cancelled_in_the_middle_of_a_part_leaves_nothing_behind(served: OnServer) -> None:
    """The abort is sent although the task that owns the upload has been cancelled."""

    async def upload(store: ObjectStore) -> None:
        async with store.upload("big", lock()) as upload:
            await upload.part(1, bytes(MIN_PART))
            await upload.part(2, bytes(4 * MIN_PART))

    async def body() -> None:
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(PART, Fault.STALLED, 2)
            async with served.store(endpoint_url=proxy.url) as store:
                task = asyncio.create_task(upload(store))
                assert await asyncio.to_thread(proxy.stalled.wait, 20)
                assert await served.unfinished() == 1
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await served.unfinished() == 0

    uvloop.run(body())


def test_an_upload_cancelled_while_it_begins_leaves_nothing_behind(served: OnServer) -> None:
    """Its id is waited for, so that there is something to abort."""

    async def upload(store: ObjectStore) -> None:
        async with store.upload("big", lock()):
            raise AssertionError("never begun: the task is cancelled before")

    async def body() -> None:
        async with served.store() as store:
            await store.check()
            task = asyncio.create_task(upload(store))
            while not store.requests.by_kind["CreateMultipartUpload"]:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert store.requests.by_kind["AbortMultipartUpload"] == 1
        assert await served.unfinished() == 0

    uvloop.run(body())


def test_an_abort_waits_for_parts_that_other_tasks_are_sending(served: OnServer) -> None:
    """S3 keeps parts that arrive after an abort; so none may be on its way."""

    async def fail(store: ObjectStore, group: asyncio.TaskGroup) -> None:
        async with store.upload("big", lock()) as upload:
            for number in range(1, 5):
                group.create_task(upload.part(number, bytes(MIN_PART)))
            while store.requests.by_kind["UploadPart"] < 4:
                await asyncio.sleep(0)
            raise RuntimeError("the snapshotter failed")

    async def body() -> None:
        async with served.store() as store, asyncio.TaskGroup() as group:
            with pytest.raises(RuntimeError, match="snapshotter"):
                await fail(store, group)
            assert store.requests.sent == 4 * MIN_PART
            assert await served.unfinished() == 0

    uvloop.run(body())


def test_a_failing_abort_does_not_hide_why_the_upload_was_left(served: OnServer) -> None:
    """What went wrong comes out; that the abort failed as well is a note on it."""

    async def fail(store: ObjectStore) -> None:
        async with store.upload("big", lock()) as upload:
            await upload.part(1, b"x")
            raise RuntimeError("the snapshotter failed")

    async def body() -> None:
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(r"^DELETE ", Fault.BUSY, *range(1, 1000))
            async with served.store(endpoint_url=proxy.url, give_up_after=0.5) as store:
                with pytest.raises(RuntimeError, match="the snapshotter failed") as caught:
                    await fail(store)
                assert any(served.name in note for note in caught.value.__notes__)

    uvloop.run(body())


def test_a_dead_endpoint_is_given_up_in_time(moto_bucket: OnServer) -> None:
    """After `give_up_after` and not much later, naming bucket and endpoint."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"

    async def body() -> None:
        async with moto_bucket.store(endpoint_url=dead, give_up_after=1.5) as store:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=f"{moto_bucket.name}.*{dead}"):
                await store.put("k", b"x", lock())
            assert 1.4 < time.monotonic() - began < 4
            assert 2 < store.requests.by_kind["PutObject"] < 20

    uvloop.run(body())


def test_a_busy_store_is_given_up_in_time(moto_bucket: OnServer) -> None:
    """503 for ever is as good as dead, and the error says what the store said."""

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as proxy:
            proxy.fail(PUT, Fault.BUSY, *range(1, 1000))
            async with moto_bucket.store(endpoint_url=proxy.url, give_up_after=1) as store:
                with pytest.raises(StoreUnavailable, match="SlowDown"):
                    await store.put("k", b"x", lock())

    uvloop.run(body())


def test_a_store_that_keeps_no_locks_is_found_out() -> None:
    """The first put, and each upload, says so instead of promising what will not hold."""

    async def upload(store: ObjectStore) -> None:
        async with store.upload("k", lock()) as upload:
            await upload.part(1, b"x")
            await upload.finish()

    async def body() -> None:
        store = MemoryStore(MemoryBucket(locks=False))
        with pytest.raises(LockNotKept):
            await store.put("k", b"x", lock())
        with pytest.raises(LockNotKept):
            await upload(store)

    uvloop.run(body())


def test_waiting_for_a_store_is_told_once_for_all_requests(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that says nothing for a quarter of an hour looks as if it hung."""
    monkeypatch.setattr(retrying, "_TELL_AFTER", 0.3)
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and not listened to
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"

        async def body() -> None:
            async with open_store(moto.config("bucket", give_up_after=1.5, endpoint_url=address)) as store:
                asked = await asyncio.gather(*(store.check() for _ in range(5)), return_exceptions=True)
            assert {type(answer) for answer in asked} == {StoreUnavailable}

        with capture_logs() as log:
            uvloop.run(body())
    (told,) = log
    assert told["event"] == "store.unreachable"
    assert address in told["store"]
    assert told["reason"]
