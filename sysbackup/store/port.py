"""
What sysbackup can say to a bucket.

There is no unlocked write (but for `lock_mode = none`), no overwrite and no
delete: what sysbackup may not do, it cannot say. Methods raise only
`StoreError` and its kin; foreign errors are translated by the adapters (`adapter`).
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sysbackup.model import Lock, StoredObject
from sysbackup.store.accounting import Requests

Body = bytes | bytearray | memoryview

NO_METADATA: Mapping[str, str] = {}

# Versions and keys that one listing request brings at the most (S3 API Reference, ListObjectVersions: max-keys)
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store takes of a multipart upload: bytes of each part but the last at the least, and parts at the most."""

    least_part: int
    most_parts: int


@dataclass(frozen=True, slots=True)
class Version:
    """
    One version as a listing shows it.

    `etag` is without its quotes. `marker` is True for a delete marker, which has
    no size and hides older versions from readers that do not name them. `archived`:
    of a storage class whose objects cannot be read at once.
    """

    key: str
    version: str | None
    size: int
    etag: str
    modified: datetime
    latest: bool = True
    marker: bool = False
    archived: bool = False

    def equals(self, other: "Version") -> bool:
        """Whether both hold the same bytes, as far as a listing tells: a version, or one put again."""
        if self.version is not None and self.version == other.version:
            return True
        return bool(self.etag) and (self.size, self.etag) == (other.size, other.etag)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """
    What HEAD tells of one version.

    `lock` is None where the answer held none: never read it as 'unlocked'.
    """

    key: str
    version: str | None
    size: int
    etag: str
    lock: Lock | None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Upload(Protocol):
    """
    A multipart upload under way.

    Parts are numbered from 1 without gaps and may be sent in any order and at
    the same time; each but the last has at least `Limits.least_part` bytes.
    """

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        """
        Send one part with its checksum; returns when the store has confirmed it.

        `sha256` is the body's digest, where the caller has it already. The body
        must not change meanwhile.
        """
        ...

    async def finish(self) -> StoredObject:
        """
        Join the parts into a version whose lock has been read back.

        All `part` calls must have returned. `LockNotKept` where the store keeps no lock.
        """
        ...


class Bucket(Protocol):
    """One bucket, as far as it can be looked at."""

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        ...

    @property
    def limits(self) -> Limits:
        """What the store takes."""
        ...

    @property
    def requests(self) -> Requests:
        """How many requests of each kind were sent since this store was opened."""
        ...

    async def check(self) -> None:
        """
        Find out with one request whether the bucket is there and lets us list it.

        `BucketUnusable`, `AccessDenied` or `StoreUnavailable` where not.
        """
        ...

    def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """
        Yield the bytes [start, start + length) of a version (None: the current one; length None: to its end).

        A broken connection is resumed at the byte reached. `ObjectGone` where
        there is no such version. Chunks are of any size. Whoever stops early closes
        it (`contextlib.aclosing`), which gives the connection back.
        """
        ...

    def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        """Current objects under `prefix` whose keys sort after `after`, in key order. Delete markers hide."""
        ...

    def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        """
        All versions and delete markers under `prefix` of keys that sort after `after`, by key, newest first within it.

        Each `PAGE` of them costs a request, sent when it is asked for. On a store that
        has no versions: the current objects, with `version` None.
        """
        ...

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        """Size, ETag, metadata and (with the right to see it) lock of one version. `ObjectGone` if none."""
        ...

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        """The lock of one version; None where it has none. `ObjectGone` where there is no such version."""
        ...


class ObjectStore(Bucket, Protocol):
    """Where locked objects go. See the module's first lines for what it cannot do."""

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
        """
        Store `body` under `key` as a version locked at least until `lock.until`.

        `sha256` is the body's digest, where the caller has it already. Metadata
        is ASCII, 2 KB in all (S3's limit).

        With `once` (keys that name their content) an equal version that is there
        already is taken instead, its lock extended where it is shorter; what
        lies there but is not equal is passed over and an own version stored.
        """
        ...

    def upload(
        self,
        key: str,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
    ) -> AbstractAsyncContextManager[Upload]:
        """
        Begin a multipart upload; leaving the context without `finish` aborts it and leaves nothing behind.

        `once` means what it means for `put`.
        """
        ...

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        """
        Move a version's lock to `lock.until` where it ends earlier, and return the lock in force.

        Never shortens. `ObjectGone` where the version does not exist any more;
        `LockNotKept` where the store refuses, as AWS does to turn GOVERNANCE into
        COMPLIANCE: then the object has to be stored once more. With
        `LockMode.NONE` it only makes sure that the version exists.
        """
        ...
