"""
The store port in memory: versions, locks, conditions and multipart uploads as S3 has them.

It passes the same contract suite as the S3 adapter, and counts the requests
that the adapter would send to AWS.
"""

import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sysbackup.errors import AccessDenied, LockNotKept, ObjectGone, StoreError
from sysbackup.model import Clock, Lock, LockMode, StoredObject, SystemClock
from sysbackup.store.accounting import Requests
from sysbackup.store.port import MIN_PART, NO_METADATA, PAGE, Body, ObjectInfo, Upload, Version

_CHUNK = 64 << 10


@dataclass(slots=True)
class Kept:
    """One version, or one delete marker, as the bucket keeps it."""

    key: str
    version: str
    body: bytes
    etag: str
    modified: datetime
    lock: Lock | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    marker: bool = False


class MemoryBucket:
    """
    A bucket with versions and Object Lock, and what others than sysbackup may do to it.

    With `multipart_locks` False it stores multipart uploads unlocked whatever
    their headers say, as moto 5 and Ceph RGW 16 do. With `locks` False it
    forgets every lock.
    """

    def __init__(self, clock: Clock | None = None, *, multipart_locks: bool = True, locks: bool = True) -> None:
        self.clock = clock or SystemClock()
        self.multipart_locks = multipart_locks
        self.locks = locks
        self.objects: dict[str, list[Kept]] = {}  # oldest first
        self.uploads: dict[str, str] = {}  # id of each unfinished upload: its key

    def add(
        self,
        key: str,
        body: bytes,
        etag: str | None = None,
        lock: Lock | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> Kept:
        """Store a new version."""
        etag = etag or hashlib.md5(body).hexdigest()
        lock = lock if self.locks and lock and lock.mode is not LockMode.NONE else None
        kept = Kept(key, uuid.uuid4().hex, body, etag, self.clock.now(), lock, dict(metadata))
        self.objects.setdefault(key, []).append(kept)
        return kept

    def find(self, key: str, version: str | None) -> Kept:
        """A version that can be read; None names the current one. `ObjectGone` if there is none."""
        found = self.objects.get(key, [])
        if version is None:
            found = found[-1:]
        for kept in found:
            if not kept.marker and version in (None, kept.version):
                return kept
        raise ObjectGone(f"{key!r} (version {version or 'current'}) does not exist in the memory bucket.")

    def hide(self, key: str) -> None:
        """Delete without naming a version: a marker hides what is there."""
        marker = Kept(key, uuid.uuid4().hex, b"", "", self.clock.now(), marker=True)
        self.objects.setdefault(key, []).append(marker)

    def delete(self, key: str, version: str) -> None:
        """Delete one version for good; `AccessDenied` while it is locked."""
        kept = next(k for k in self.objects[key] if k.version == version)
        if self._is_locked(kept):
            raise AccessDenied(f"{key!r} (version {version}) is locked.")
        self.objects[key].remove(kept)

    def expire(self, prefix: str = "") -> int:
        """What a lifecycle rule does in the end: delete each version that no lock holds; how many that were."""
        lapsed = [
            k for kept in self.objects.values() for k in kept if k.key.startswith(prefix) and not self._is_locked(k)
        ]
        for kept in lapsed:
            self.objects[kept.key].remove(kept)
        return len(lapsed)

    def listed(self, prefix: str) -> Iterator[tuple[Kept, bool]]:
        """Each version under `prefix` by key, newest first, and whether it is its key's latest."""
        for key in sorted(self.objects):
            if key.startswith(prefix):
                for age, kept in enumerate(reversed(self.objects[key])):
                    yield kept, age == 0

    def _is_locked(self, kept: Kept) -> bool:
        return kept.lock is not None and kept.lock.until > self.clock.now()


class MemoryStore:
    """`port.ObjectStore` over a `MemoryBucket`; several may share one, as machines do."""

    def __init__(self, bucket: MemoryBucket | None = None) -> None:
        self.bucket = bucket or MemoryBucket()
        self._requests = Requests()
        self._set_confirmed = False

    @property
    def requests(self) -> Requests:
        return self._requests

    async def check(self) -> None:
        self.requests.add("ListObjectsV2")

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
        body = bytes(body)
        _verify(body, sha256)
        self.requests.add("PutObject")
        if once and self._taken(key):
            if equal := await self._equal(key, len(body), hashlib.md5(body).hexdigest(), lock):
                return equal
            self.requests.add("PutObject")
        kept = self.bucket.add(key, body, lock=lock, metadata=metadata)
        self.requests.sent += len(body)
        if lock.mode is not LockMode.NONE:
            lock = await self._keep(key, kept.version, lock, doubt=True)
        return StoredObject(key, kept.version, len(body), lock)

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AsyncIterator[Upload]:
        self.requests.add("CreateMultipartUpload")
        upload = _MemoryUpload(self, key, lock, metadata, once=once)
        try:
            yield upload
        finally:
            upload.abandon()

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        if length == 0:
            return
        self.requests.add("GetObject")
        body = self.bucket.find(key, version).body
        end = len(body) if length is None else min(start + length, len(body))
        if start > 0 and start >= len(body):
            raise StoreError(f"{key!r} has only {len(body)} bytes, none from {start} on.")
        for at in range(start, end, _CHUNK):
            chunk = body[at : min(at + _CHUNK, end)]
            self.requests.received += len(chunk)
            yield chunk

    async def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        self.requests.add("ListObjectsV2")
        for kept, latest in [*self.bucket.listed(prefix)]:
            if latest and not kept.marker and kept.key > after:
                yield Version(kept.key, None, len(kept.body), kept.etag, kept.modified)

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        self.requests.add("ListObjectVersions")
        for number, (kept, latest) in enumerate(
            [(kept, latest) for kept, latest in self.bucket.listed(prefix) if kept.key > after], 1
        ):
            size = len(kept.body)
            yield Version(kept.key, kept.version, size, kept.etag, kept.modified, latest, kept.marker)
            if number % PAGE == 0:
                self.requests.add("ListObjectVersions")

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        self.requests.add("HeadObject")
        kept = self.bucket.find(key, version)
        return ObjectInfo(key, kept.version, len(kept.body), kept.etag, kept.lock, kept.metadata)

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        self.requests.add("GetObjectRetention")
        return self.bucket.find(key, version).lock

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        if lock.mode is LockMode.NONE:
            self.requests.add("ListObjectVersions")
            self.bucket.find(key, version)
            return lock
        return await self._keep(key, version, lock)

    def _taken(self, key: str) -> bool:
        return any(not kept.marker for kept in self.bucket.objects.get(key, [])[-1:])

    async def _equal(self, key: str, size: int, etag: str, lock: Lock) -> StoredObject | None:
        self.requests.add("ListObjectVersions")
        for kept in reversed(self.bucket.objects[key]):
            if not kept.marker and (len(kept.body), kept.etag) == (size, etag):
                try:
                    lock = lock if lock.mode is LockMode.NONE else await self._keep(key, kept.version, lock)
                except LockNotKept:
                    continue
                return StoredObject(key, kept.version, size, lock, fresh=False)
        return None

    async def _keep(self, key: str, version: str | None, asked: Lock, *, doubt: bool = False) -> Lock:
        found = await self.lock_of(key, version)
        if version is None:
            raise LockNotKept(f"{key!r} has no version id.")
        if found and found.covers(asked):
            return found
        if found and asked.mode is not found.mode and asked.mode is LockMode.COMPLIANCE:
            raise LockNotKept(f"The lock of {key!r} stays {found.mode}.")
        if not self.bucket.locks:
            raise LockNotKept(f"The memory bucket does not keep the lock of {key!r}.")
        self.requests.add("PutObjectRetention")
        until = max(found.until, asked.until) if found else asked.until
        lock = Lock(found.mode if found else asked.mode, until)
        self.bucket.find(key, version).lock = lock
        if doubt or not self._set_confirmed:
            await self.lock_of(key, version)
            self._set_confirmed = True
        return lock


class _MemoryUpload:
    def __init__(self, store: MemoryStore, key: str, lock: Lock, metadata: Mapping[str, str], *, once: bool) -> None:
        self._store = store
        self._key = key
        self._lock = lock
        self._metadata = metadata
        self._once = once
        self._id = uuid.uuid4().hex
        self._parts: dict[int, bytes] = {}
        store.bucket.uploads[self._id] = key

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        body = bytes(body)
        _verify(body, sha256)
        if self._id not in self._store.bucket.uploads:
            raise StoreError(f"The upload of {self._key!r} has ended: it takes no more parts.")
        self._store.requests.add("UploadPart")
        self._store.requests.sent += len(body)
        self._parts[number] = body

    async def finish(self) -> StoredObject:
        store, bucket = self._store, self._store.bucket
        if not self._parts:
            await self.part(1, b"")
        numbers = sorted(self._parts)
        if numbers != [*range(1, len(numbers) + 1)] or any(len(self._parts[n]) < MIN_PART for n in numbers[:-1]):
            raise StoreError(f"The parts of {self._key!r} have gaps, or are too small to be joined.")
        store.requests.add("CompleteMultipartUpload")
        body = b"".join(self._parts[n] for n in numbers)
        digests = b"".join(hashlib.md5(self._parts[n]).digest() for n in numbers)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(numbers)}"
        if self._once and store._taken(self._key):
            if equal := await store._equal(self._key, len(body), etag, self._lock):
                return equal
            store.requests.add("CompleteMultipartUpload")
        kept = bucket.add(self._key, body, etag, self._lock if bucket.multipart_locks else None, self._metadata)
        del bucket.uploads[self._id]
        lock = self._lock
        if lock.mode is not LockMode.NONE:
            lock = await store._keep(self._key, kept.version, lock, doubt=True)
        return StoredObject(self._key, kept.version, len(body), lock)

    def abandon(self) -> None:
        if self._store.bucket.uploads.pop(self._id, None):
            self._store.requests.add("AbortMultipartUpload")


def _verify(body: bytes, sha256: bytes | None) -> None:
    if sha256 is not None and hashlib.sha256(body).digest() != sha256:
        raise StoreError("The body is not what its checksum says (BadDigest).")
