"""A store in front of which the whole run dies, or something else happens, at a request of the test's choice."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Self

from sysbackup.model import Lock, StoredObject
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body, ObjectInfo, ObjectStore, Upload, Version


class Killed(BaseException):
    """The process is gone: what comes after, in whatever `finally`, must not count."""


class MortalStore(Delegating):
    """
    `port.ObjectStore` that calls `fate` at the `number`-th request (from 0), before or `after` it took effect.

    A fate that raises raises at every later request too: the dead send nothing.
    """

    def __init__(self, store: ObjectStore, number: int, fate: Callable[[], None], *, after: bool = False) -> None:
        super().__init__(store)
        self._left = number
        self._fate = fate
        self._after = after
        self._dead: BaseException | None = None

    def _strike(self) -> None:
        try:
            self._fate()
        except BaseException as death:
            self._dead = death
            raise

    async def _before(self) -> bool:
        """True where fate is to strike after the request that is about to be sent."""
        # others may go first, as they would while a request is on its way
        await asyncio.sleep(0)
        if self._dead is not None:
            raise self._dead
        self._left -= 1
        struck = self._left == -1
        if struck and not self._after:
            self._strike()
        return struck and self._after

    async def _when_done(self, struck: bool) -> None:
        if struck:
            self._strike()
        await asyncio.sleep(0)
        if self._dead is not None:
            raise self._dead

    async def check(self) -> None:
        struck = await self._before()
        await super().check()
        await self._when_done(struck)

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
        struck = await self._before()
        stored = await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)
        await self._when_done(struck)
        return stored

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AsyncIterator[Upload]:
        struck = await self._before()
        async with super().upload(key, lock, metadata=metadata, once=once) as upload:
            await self._when_done(struck)
            yield upload

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        struck = await self._before()
        async for chunk in super().read(key, version, start, length):
            yield chunk
        await self._when_done(struck)

    async def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        struck = await self._before()
        async for found in super().list(prefix, after):
            yield found
        await self._when_done(struck)

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        struck = await self._before()
        async for found in super().versions(prefix, after):
            yield found
        await self._when_done(struck)

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        struck = await self._before()
        info = await super().head(key, version)
        await self._when_done(struck)
        return info

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        struck = await self._before()
        lock = await super().lock_of(key, version)
        await self._when_done(struck)
        return lock

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        struck = await self._before()
        renewed = await super().renew(key, version, lock)
        await self._when_done(struck)
        return renewed


class Leftover:
    """What a catalog's file holds at one moment, as the kernel would leave it behind if the process died then."""

    def __init__(self, catalog: Path, aside: Path) -> None:
        self._catalog = catalog
        self._aside = aside
        try:
            with closing(sqlite3.connect(catalog)) as source, closing(sqlite3.connect(aside)) as target:
                source.backup(target)
        except sqlite3.DatabaseError:  # damaged, which nobody has noticed yet
            shutil.copyfile(catalog, aside)

    def put_back(self) -> Self:
        """Make it the catalog again, whatever has been written to that since."""
        remove(self._catalog)
        shutil.copyfile(self._aside, self._catalog)
        return self


def remove(catalog: Path) -> None:
    """Delete a catalog, and what SQLite keeps beside it."""
    for path in (catalog, *(catalog.with_name(catalog.name + ending) for ending in ("-wal", "-shm"))):
        path.unlink(missing_ok=True)
