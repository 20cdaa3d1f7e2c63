"""What is sent and received: requests as they go out, and the bytes that came across."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from sysbackup.model import Lock, StoredObject
from sysbackup.store.accounting import Requests
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body, Upload

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client


def count_requests(client: "S3Client", requests: Requests) -> None:
    """
    Count each request of `client` as it goes out.

    S3 bills tries that fail, and botocore makes more of one request where it is redirected.
    """

    def count(event_name: str, **_: object) -> None:
        requests.add(event_name.rpartition(".")[2])

    client.meta.events.register("before-send.s3", count)


class Metered(Delegating):
    """`ObjectStore` that adds the bytes which the store confirmed, and those that were read, to its `requests`."""

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
        stored = await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)
        if stored.fresh:
            self.requests.sent += stored.size
        return stored

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AsyncIterator[Upload]:
        async with super().upload(key, lock, metadata=metadata, once=once) as upload:
            yield _Metered(upload, self.requests)

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(super().read(key, version, start, length)) as chunks:
            async for chunk in chunks:
                self.requests.received += len(chunk)
                yield chunk


class _Metered:
    def __init__(self, upload: Upload, requests: Requests) -> None:
        self._upload = upload
        self._requests = requests

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        size = len(body)
        await self._upload.part(number, body, sha256=sha256)
        self._requests.sent += size

    async def finish(self) -> StoredObject:
        return await self._upload.finish()
