"""A store that hands everything on to another: the base of those that do one thing differently."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from sysbackup.model import Lock, StoredObject
from sysbackup.store.accounting import Requests
from sysbackup.store.port import NO_METADATA, Body, Bucket, Limits, ObjectInfo, ObjectStore, Upload, Version

B = TypeVar("B", bound=Bucket)


class Looking(Generic[B]):
    """What can be looked at in a bucket, as the one this stands before shows it."""

    def __init__(self, store: B) -> None:
        self._store = store

    @property
    def bucket(self) -> str:
        return self._store.bucket

    @property
    def limits(self) -> Limits:
        return self._store.limits

    @property
    def requests(self) -> Requests:
        return self._store.requests

    async def check(self) -> None:
        await self._store.check()

    def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        return self._store.read(key, version, start, length)

    def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        return self._store.list(prefix, after)

    def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        return self._store.versions(prefix, after)

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        return await self._store.head(key, version)

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        return await self._store.lock_of(key, version)


class Delegating(Looking[ObjectStore]):
    """`ObjectStore` that is as the one it stands before."""

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
        return await self._store.put(key, body, lock, metadata=metadata, once=once, sha256=sha256)

    def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AbstractAsyncContextManager[Upload]:
        return self._store.upload(key, lock, metadata=metadata, once=once)

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        return await self._store.renew(key, version, lock)
