"""
What a kind of store has to be able to do.

An adapter says less than `port.ObjectStore`, which the rest of sysbackup talks
to: it tells what its store answered. `guarding.Guarded` makes the one of the other.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sysbackup.errors import SysbackupError
from sysbackup.model import Lock
from sysbackup.store.port import NO_METADATA, Body, Bucket


@dataclass(frozen=True, slots=True)
class Told:
    """
    What an answer told of as stored.

    `version` is None where it named none. `etag` is what a listing shows of a
    version with the same bytes.
    """

    key: str
    version: str | None
    size: int
    etag: str


class Taken(Exception):
    """
    Not stored: something lies under the key already, or may lie there since a try whose answer was lost.

    `size` and `etag` are those of a version that holds the same bytes. `otherwise` is
    the error where there is none and it cannot be stored any more; None: it can, without `once`.
    """

    def __init__(self, size: int, etag: str, otherwise: SysbackupError | None = None) -> None:
        super().__init__(etag)
        self.size = size
        self.etag = etag
        self.otherwise = otherwise


class Joining(Protocol):
    """An adapter's multipart upload under way; see `Upload`."""

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        """See `Upload.part`."""
        ...

    async def join(self, *, once: bool) -> Told:
        """Join the parts; `Taken` where with `once` something lies under the key, or the upload is gone."""
        ...


class Adapter(Bucket, Protocol):
    """
    A kind of store: each method makes the request, and tells what was answered.

    An answer that is contrary to what was sent is an error here already. Locks
    are asked for with each write, but whether the store kept them nobody has looked.
    """

    @property
    def place(self) -> str:
        """The bucket and where it is, as messages name it."""
        ...

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
        """Store `body` as a new version of `key`; with `once` only where there is none: `Taken` where there is."""
        ...

    def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA
    ) -> AbstractAsyncContextManager[Joining]:
        """Begin a multipart upload; leaving the context without `join` aborts it and leaves nothing behind."""
        ...

    async def set_lock(self, key: str, version: str, lock: Lock) -> bool:
        """
        Set the lock of a version, which must not be longer now; whether the answer shows that the store gave it.

        `AccessDenied` where it refuses, `ObjectGone` where there is no such version.
        """
        ...
