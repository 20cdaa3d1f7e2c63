"""
A store in memory: versions, locks, conditions and multipart uploads as S3 has them.

It is guarded as every store is, passes the same contract suite as S3, and
counts the requests that S3's adapter would send to AWS.
"""

import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.errors import AccessDenied, ObjectGone, StoreError
from sysbackup.model import Clock, Lock, LockMode
from sysbackup.store.accounting import Requests
from sysbackup.store.adapter import Joining, Taken, Told
from sysbackup.store.guarding import Guarded
from sysbackup.store.port import NO_METADATA, PAGE, Body, Limits, ObjectInfo, Version
from sysbackup.store.s3 import LIMITS

MIN_PART = LIMITS.least_part

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
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            for age, kept in enumerate(reversed(self.objects[key])):
                yield kept, age == 0

    def _is_locked(self, kept: Kept) -> bool:
        return kept.lock is not None and kept.lock.until > self.clock.now()


class MemoryStore(Guarded):
    """`port.ObjectStore` over a `MemoryBucket`, `memory`; several may share one, as machines do."""

    def __init__(
        self, memory: MemoryBucket | None = None, name: str = "bucket", requests: Requests | None = None
    ) -> None:
        self.memory = memory or MemoryBucket()
        super().__init__(MemoryAdapter(self.memory, name, requests))


class MemoryAdapter:
    """`adapter.Adapter` over a `MemoryBucket`."""

    def __init__(self, memory: MemoryBucket, name: str = "bucket", requests: Requests | None = None) -> None:
        self._memory = memory
        self._name = name
        self._requests = requests or Requests()

    @property
    def bucket(self) -> str:
        return self._name

    @property
    def place(self) -> str:
        return f"bucket {self._name!r} in memory"

    @property
    def limits(self) -> Limits:
        return Limits(MIN_PART, LIMITS.most_parts)

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
    ) -> Told:
        body = bytes(body)
        _verify(body, sha256)
        self.requests.add("PutObject")
        if once and self.taken(key):
            raise Taken(len(body), hashlib.md5(body).hexdigest())
        kept = self._memory.add(key, body, lock=lock, metadata=metadata)
        self.requests.sent += len(body)
        return Told(key, kept.version, len(body), kept.etag)

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA
    ) -> AsyncIterator[Joining]:
        self.requests.add("CreateMultipartUpload")
        upload = _MemoryUpload(self, self._memory, key, lock, metadata)
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
        body = self._memory.find(key, version).body
        end = len(body) if length is None else min(start + length, len(body))
        if start > 0 and start >= len(body):
            raise StoreError(f"{key!r} has only {len(body)} bytes, none from {start} on.")
        for at in range(start, end, _CHUNK):
            chunk = body[at : min(at + _CHUNK, end)]
            self.requests.received += len(chunk)
            yield chunk

    async def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        self.requests.add("ListObjectsV2")
        for kept, latest in [*self._memory.listed(prefix)]:
            if latest and not kept.marker and kept.key > after:
                yield Version(kept.key, None, len(kept.body), kept.etag, kept.modified)

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        self.requests.add("ListObjectVersions")
        for number, (kept, latest) in enumerate(
            [(kept, latest) for kept, latest in self._memory.listed(prefix) if kept.key > after], 1
        ):
            size = len(kept.body)
            yield Version(kept.key, kept.version, size, kept.etag, kept.modified, latest, kept.marker)
            if number % PAGE == 0:
                self.requests.add("ListObjectVersions")

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        self.requests.add("HeadObject")
        kept = self._memory.find(key, version)
        return ObjectInfo(key, kept.version, len(kept.body), kept.etag, kept.lock, kept.metadata)

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        self.requests.add("GetObjectRetention")
        return self._memory.find(key, version).lock

    async def set_lock(self, key: str, version: str, lock: Lock) -> bool:
        self.requests.add("PutObjectRetention")
        kept = self._memory.find(key, version)
        if kept.lock is not None and kept.lock.mode is not lock.mode:
            raise AccessDenied(f"The lock of {key!r} stays {kept.lock.mode}.")
        if self._memory.locks:
            kept.lock = lock
        return True

    def taken(self, key: str) -> bool:
        """Whether a key has a current version."""
        return any(not kept.marker for kept in self._memory.objects.get(key, [])[-1:])


class _MemoryUpload:
    def __init__(
        self, adapter: MemoryAdapter, memory: MemoryBucket, key: str, lock: Lock, metadata: Mapping[str, str]
    ) -> None:
        self._adapter = adapter
        self._memory = memory
        self._key = key
        self._lock = lock
        self._metadata = metadata
        self._id = uuid.uuid4().hex
        self._parts: dict[int, bytes] = {}
        memory.uploads[self._id] = key

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        body = bytes(body)
        _verify(body, sha256)
        if self._id not in self._memory.uploads:
            raise StoreError(f"The upload of {self._key!r} has ended: it takes no more parts.")
        self._adapter.requests.add("UploadPart")
        self._adapter.requests.sent += len(body)
        self._parts[number] = body

    async def join(self, *, once: bool) -> Told:
        if not self._parts:
            await self.part(1, b"")
        numbers = sorted(self._parts)
        if numbers != [*range(1, len(numbers) + 1)] or any(len(self._parts[n]) < MIN_PART for n in numbers[:-1]):
            raise StoreError(f"The parts of {self._key!r} have gaps, or are too small to be joined.")
        self._adapter.requests.add("CompleteMultipartUpload")
        body = b"".join(self._parts[n] for n in numbers)
        digests = b"".join(hashlib.md5(self._parts[n]).digest() for n in numbers)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(numbers)}"
        if self._id not in self._memory.uploads:
            raise Taken(len(body), etag, StoreError(f"The upload of {self._key!r} is not known any more."))
        if once and self._adapter.taken(self._key):
            raise Taken(len(body), etag)
        lock = self._lock if self._memory.multipart_locks else None
        kept = self._memory.add(self._key, body, etag, lock, self._metadata)
        del self._memory.uploads[self._id]
        return Told(self._key, kept.version, len(body), etag)

    def abandon(self) -> None:
        """Abort it, where it is not finished."""
        if self._memory.uploads.pop(self._id, None):
            self._adapter.requests.add("AbortMultipartUpload")


def _verify(body: bytes, sha256: bytes | None) -> None:
    if sha256 is not None and hashlib.sha256(body).digest() != sha256:
        raise StoreError("The body is not what its checksum says (BadDigest).")
