"""An answer that proves nothing is not believed: each operation that is sent, each kind of spoiled answer."""

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import uvloop

from sysbackup.errors import ObjectGone, StoreError
from sysbackup.model import StoredObject
from sysbackup.store.accounting import BILLED
from sysbackup.store.port import ObjectStore
from tests.support.asking import all_of, content, lock
from tests.support.proxy import Fault, Proxy, proxying
from tests.support.servers import OnServer, Server
from tests.support.spoiling import INSTEAD

pytestmark = pytest.mark.lengthy

_SPOILED = [fault for fault in Fault if fault not in (Fault.DENIED, Fault.STALLED)]

# none of S3's own, whatever was asked
_PAGES = (Fault.EMPTY, Fault.HTML, Fault.XHTML, Fault.JSON)

# the request line of each operation
_LINES = {
    "PutObject": r"^PUT [^?]* ",
    "CreateMultipartUpload": r"^POST .*\?uploads",
    "UploadPart": r"^PUT .*partNumber=",
    "CompleteMultipartUpload": r"^POST .*\?uploadId=",
    "AbortMultipartUpload": r"^DELETE .*uploadId=",
    "PutObjectRetention": r"^PUT .*\?.*retention",
    "ListObjectsV2": r"^GET .*list-type=2",
    "ListObjectVersions": r"^GET .*\?versions",
    "GetObject": r"^GET [^?]*(\?versionId=[^&]*)?(&x-id=GetObject)? ",
    "HeadObject": r"^HEAD ",
    "GetObjectRetention": r"^GET .*\?.*retention",
}


_CASES = [
    (server, which, operation, fault)
    # what is done about a fault that lasts is the same before every server
    for server, which in (("moto", "first"), ("rgw", "first"), ("moto", "second"), ("moto", "every"))
    for operation in BILLED
    for fault in _SPOILED
    # what the server never sees is the same before every one, and so is the request that is made again
    if server == "moto" or (fault not in INSTEAD and fault is not Fault.SHUT)
    # what the first answer proved is not proven again
    if which != "second" or operation in ("PutObject", "PutObjectRetention", "GetObjectRetention")
    # whether bytes are right only their reader can tell, who has a digest of them: tests/integration/test_spoiled_runs
    if operation != "GetObject" or fault not in (Fault.TRUNCATED, Fault.GARBLED)
]


@dataclass(frozen=True, slots=True)
class Spot:
    """A bucket with a proxy before it, and a store that goes past the proxy; one for all tests of a server."""

    bucket: OnServer
    proxy: Proxy
    honest: ObjectStore
    runner: asyncio.Runner
    numbers: Iterator[int]

    def run(self, work: Awaitable[None]) -> None:
        """Run it to its end, on the loop on which the honest store lives."""

        async def whole() -> None:
            await work

        self.runner.run(whole())

    @asynccontextmanager
    async def spoiled(self) -> AsyncIterator[ObjectStore]:
        """A store that goes through the proxy, and knows nothing yet."""
        async with self.bucket.store(endpoint_url=self.proxy.url, give_up_after=0.4) as store:
            yield store


@pytest.fixture(scope="module")
def spot(request: pytest.FixtureRequest) -> Iterator[Spot]:
    """On the server that the test names."""
    server: Server = request.getfixturevalue(request.param)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, proxying(server.endpoint) as proxy:
        bucket, stack = runner.run(server.bucket()), AsyncExitStack()
        honest = runner.run(stack.enter_async_context(bucket.store()))
        yield Spot(bucket, proxy, honest, runner, itertools.count())
        runner.run(stack.aclose())


@pytest.mark.parametrize(("spot", "which", "operation", "fault"), _CASES, indirect=["spot"])
def test_a_spoiled_answer_is_not_believed(spot: Spot, which: str, operation: str, fault: Fault) -> None:
    """What the store then said is so in the real bucket, or it raised an error for people; never anything else."""
    said: list[StoreError] = []

    async def body() -> None:
        async with spot.spoiled() as store:
            await store.check()  # so that there is an earlier answer
            spot.proxy.fail(_LINES[operation], fault, *{"first": (1,), "second": (2,), "every": range(1, 1000)}[which])
            try:
                for _ in range(2 if which == "second" else 1):
                    await _USED[operation](store, spot.honest, f"{next(spot.numbers):06}/")
            except StoreError as exc:
                said.append(exc)

    try:
        spot.run(body())
    finally:
        spot.proxy.forgive()
    for error in said:
        fit_for_people(error)
        # a lock that an empty 200 confirmed is read back: what is said then is that it is not kept
        unlocked = (operation, fault) == ("PutObjectRetention", Fault.EMPTY)
        if which == "every" and fault in _PAGES and operation != "HeadObject" and not unlocked:
            # not an outage, for which one waits: a hint on what to look at
            assert "something that is not S3's" in str(error)
            assert "endpoint_url" in str(error)


@pytest.mark.parametrize("spot", ["moto", "rgw"], indirect=True)
def test_a_listing_out_of_order_is_named(spot: Spot) -> None:
    """Some servers list folder by folder: what is not listed as S3 does cannot be gone through from where one was."""

    async def body() -> None:
        base = f"{next(spot.numbers):06}/"
        for key in "ab":
            await spot.honest.put(f"{base}{key}", b"x", lock())
        async with spot.spoiled() as store:
            spot.proxy.fail(_LINES["ListObjectsV2"], Fault.DISORDERED, *range(1, 1000))
            with pytest.raises(StoreError, match=f"'{base}a' listed after '{base}b'; S3 lists keys by their bytes"):
                await all_of(store.list(base))

    try:
        spot.run(body())
    finally:
        spot.proxy.forgive()


def fit_for_people(error: StoreError) -> None:
    """It says something, names no Python, and does not take an honest object for gone."""
    assert not isinstance(error, ObjectGone), error
    said = str(error)
    assert not re.search(r"\(\)|refused :|: +:|None|Traceback|\b(Type|Key|Value|Attribute|Assertion)Error\b", said), (
        said
    )


async def holds(honest: ObjectStore, stored: StoredObject, body: bytes, days: float = 2) -> None:
    """A version that a store named holds these bytes under this lock, seen past the proxy."""
    assert await content(honest, stored.key, stored.version) == body
    kept = await honest.lock_of(stored.key, stored.version)
    assert kept is not None
    assert kept.covers(lock(days - 0.01))


async def put(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """Puts under new keys, and under one that is taken."""
    for key, once in (("a", False), ("b", True), ("b", True)):
        body = key.encode() * 100
        await holds(honest, await store.put(f"{base}{key}", body, lock(2), once=once), body)


async def joined(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """An upload in parts."""
    body = os.urandom(1000)
    async with store.upload(f"{base}parts", lock(2), once=True) as upload:
        await upload.part(1, body)
        stored = await upload.finish()
    await holds(honest, stored, body)


async def left(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """An upload that nobody finishes."""
    async with store.upload(f"{base}left", lock()):
        pass


async def renewed(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """A longer lock for what is there."""
    body = os.urandom(100)
    stored = await honest.put(f"{base}k", body, lock(1))
    assert (await store.renew(stored.key, stored.version, lock(3))).covers(lock(2.99))
    await holds(honest, stored, body, 3)


async def locked(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """The lock of what is there, and of what has none."""
    stored = await honest.put(f"{base}k", b"x", lock(3))
    found = await store.lock_of(stored.key, stored.version)
    assert found is not None
    assert found.covers(lock(2.99))
    assert not found.covers(lock(3.01))


async def listed(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """What is there, current and in all versions."""
    body = os.urandom(100)
    stored = [await honest.put(f"{base}{key}", body, lock()) for key in "abc"]
    found = await all_of(store.list(base))
    assert [(v.key, v.size) for v in found] == [(s.key, 100) for s in stored]
    found = await all_of(store.versions(base))
    assert [(v.key, v.size) for v in found] == [(s.key, 100) for s in stored]


async def read(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """All of an object, a part of it, and the current version."""
    body = os.urandom(1000)
    stored = await honest.put(f"{base}k", body, lock())
    assert await content(store, stored.key, stored.version) == body
    assert await content(store, stored.key, stored.version, 10, 20) == body[10:30]
    assert await content(store, stored.key, None) == body


async def looked_at(store: ObjectStore, honest: ObjectStore, base: str) -> None:
    """What HEAD tells."""
    stored = await honest.put(f"{base}k", bytes(100), lock())
    info = await store.head(stored.key, stored.version)
    assert (info.size, info.version) == (100, stored.version)


_USED: Mapping[str, Callable[[ObjectStore, ObjectStore, str], Awaitable[None]]] = {
    "PutObject": put,
    "CreateMultipartUpload": joined,
    "UploadPart": joined,
    "CompleteMultipartUpload": joined,
    "AbortMultipartUpload": left,
    "PutObjectRetention": renewed,
    "ListObjectsV2": listed,
    "ListObjectVersions": listed,
    "GetObject": read,
    "HeadObject": looked_at,
    "GetObjectRetention": locked,
}
