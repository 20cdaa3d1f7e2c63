"""An answer that proves nothing is not believed: each operation that is sent, each kind of spoiled answer."""

import os

import pytest
import uvloop

from sysbackup.errors import ObjectGone, StoreError
from sysbackup.store.accounting import BILLED
from sysbackup.store.port import ObjectStore
from tests.contract.asking import all_of, content, lock
from tests.proxy import Fault, proxying
from tests.servers import OnServer

_SPOILED = (Fault.EMPTY, Fault.HTML, Fault.XHTML, Fault.JSON, Fault.DENIED_HTML, Fault.GONE_HTML, Fault.LOST)

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


@pytest.mark.parametrize("fault", _SPOILED)
@pytest.mark.parametrize("operation", BILLED)
@pytest.mark.parametrize("lasting", [False, True])
def test_a_spoiled_answer_is_not_believed(served: OnServer, operation: str, fault: Fault, lasting: bool) -> None:
    """What the store then said is so in the real bucket, or it raised an error for people; never anything else."""

    async def body() -> None:
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(_LINES[operation], fault, *(range(1, 1000) if lasting else (1,)))
            async with served.store(endpoint_url=proxy.url, give_up_after=1.0) as store:
                said: StoreError | None = None
                try:
                    await everything(store, served)
                except StoreError as exc:
                    said = exc
            assert not isinstance(said, ObjectGone)
            # a lock that an empty 200 confirmed is read back: what is said then is that it is not kept
            unlocked = (operation, fault) == ("PutObjectRetention", Fault.EMPTY)
            if lasting and fault in _PAGES and operation != "HeadObject" and said is not None and not unlocked:
                # not an outage, for which one waits: a hint on what to look at
                assert "something that is not S3's" in str(said)
                assert "endpoint_url" in str(said)
            assert "()" not in str(said)
            assert "refused :" not in str(said)

    uvloop.run(body())


async def everything(store: ObjectStore, served: OnServer) -> None:
    """Use each operation, and look at what it said past the proxy."""
    small, large = os.urandom(100), os.urandom(1000)
    put = await store.put("put", small, lock(2))
    async with store.upload("parts", lock(2)) as upload:
        await upload.part(1, large)
        parts = await upload.finish()
    async with served.store() as honest:
        for stored, whole in ((put, small), (parts, large)):
            assert await content(honest, stored.key, stored.version) == whole
            kept = await honest.lock_of(stored.key, stored.version)
            assert kept is not None
            assert kept.covers(lock(1.99))
        renewed = await store.renew("put", put.version, lock(3))
        assert renewed.covers(lock(2.99))
        kept = await honest.lock_of("put", put.version)
        assert kept is not None
        assert kept.covers(lock(2.99))
    assert await content(store, "put", put.version) == small
    assert await content(store, "parts", parts.version, 10, 20) == large[10:30]
    assert (await store.head("put", put.version)).size == 100
    assert {v.key for v in await all_of(store.list(""))} == {"put", "parts"}
    assert {v.key for v in await all_of(store.versions(""))} == {"put", "parts"}
    async with store.upload("left", lock()):
        pass
