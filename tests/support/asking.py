"""Short ways for the store's tests to ask."""

import hashlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

from sysbackup.model import Lock, LockMode
from sysbackup.store.port import ObjectStore, Version
from sysbackup.store.s3 import LIMITS

MIN_PART = LIMITS.least_part


def lock(days: float = 1, mode: LockMode = LockMode.GOVERNANCE) -> Lock:
    """A lock for that many days from now."""
    return Lock(mode, datetime.now(UTC) + timedelta(days=days))


async def content(store: ObjectStore, key: str, version: str | None, *part: int) -> bytes:
    """The bytes of a version, or of that part of it (start, length)."""
    return b"".join([chunk async for chunk in store.read(key, version, *part)])


async def all_of(found: AsyncGenerator[Version, None]) -> list[Version]:
    """A listing, whole."""
    return [version async for version in found]


def etag(body: bytes) -> str:
    """The ETag of a body that was put in one piece."""
    return hashlib.md5(body).hexdigest()
