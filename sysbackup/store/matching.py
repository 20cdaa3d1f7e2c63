"""What a listing tells of what was stored: which version holds given bytes, by size and ETag."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from sysbackup.errors import StoreError
from sysbackup.store.port import Version


class Versioned(Protocol):
    """One bucket's versions."""

    def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        """See `port.Bucket.versions`."""
        ...


class Listed(Versioned, Protocol):
    """The same, and where they are."""

    @property
    def place(self) -> str:
        """The bucket and where it is, as messages name it."""
        ...


async def of_key(store: Versioned, key: str) -> AsyncGenerator[Version, None]:
    """The versions of exactly `key`, newest first."""
    async with aclosing(store.versions(key)) as versions:
        async for found in versions:
            if found.key != key:
                # keys come in order, and what only begins with `key` sorts after it
                return
            yield found


async def equals(store: Listed, key: str, size: int, etag: str) -> AsyncGenerator[Version, None]:
    """The versions of exactly `key` that have this size and ETag, newest first."""
    async with aclosing(of_key(store, key)) as versions:
        async for found in versions:
            if not found.marker and found.size == size and found.etag == etag:
                yield found


async def make_sure(store: Listed, key: str, version: str | None, size: int, etag: str) -> None:
    """Look whether a version that the store named is there with this size and ETag; `StoreError` where not."""
    async with aclosing(equals(store, key, size, etag)) as versions:
        async for found in versions:
            if found.version == version:
                return
    raise unlisted(store.place, key, version, size, etag)


async def newest(store: Listed, key: str, size: int, etag: str) -> str | None:
    """
    The newest version with this size and ETag, which the store confirmed without naming it; `StoreError` if none.

    None on a store that has no versions (which may tell the ETag of what it joined in its own way).
    """
    unnamed = False
    async with aclosing(of_key(store, key)) as versions:
        async for found in versions:
            if not found.marker and found.size == size and found.etag == etag:
                return found.version
            unnamed = unnamed or found.version is None
    if unnamed:
        return None
    raise unlisted(store.place, key, None, size, etag)


def unlisted(place: str, key: str, version: str | None, size: int, etag: str) -> StoreError:
    """The error for what the store confirmed, but does not seem to have."""
    return StoreError(
        f"{place} confirmed {key!r} (version {version or 'not named'}), but does not have it with {size} bytes "
        f"and ETag {etag!r}: it is not relied on. Check the store, and whether a proxy stands between."
    )
