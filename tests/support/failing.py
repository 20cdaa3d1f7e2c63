"""A store that fails when told to, around one that works."""

import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from sysbackup.errors import StoreError, StoreUnavailable
from sysbackup.model import Lock, StoredObject
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body, ObjectInfo, ObjectStore, Upload, Version

Judge = Callable[[str, int], bool]
"""Whether the call of this name, the so-many-th of that name (from 1), fails."""


def at(name: str, *numbers: int) -> Judge:
    """Fail these calls of `name` (a method of the port, or `part`, `finish`); no number: all of them."""
    return lambda called, number: called == name and (not numbers or number in numbers)


def now_and_then(share: float, seed: int = 0) -> Judge:
    """Fail that share of all calls, the same ones for the same seed."""
    dice = random.Random(seed)
    return lambda _, __: dice.random() < share


class FailingStore(Delegating):
    """
    `port.ObjectStore` that raises `error` instead of the calls that `judge` picks.

    A call fails before it reaches the store, or `after` it took effect: an
    answer that got lost.
    """

    def __init__(
        self,
        store: ObjectStore,
        judge: Judge,
        error: Callable[[], StoreError] = lambda: StoreUnavailable("made to fail by the test"),
        *,
        after: bool = False,
    ) -> None:
        super().__init__(store)
        self._judge = judge
        self._error = error
        self._after = after
        self.calls: Counter[str] = Counter()

    def _fails(self, name: str) -> bool:
        self.calls[name] += 1
        fails = self._judge(name, self.calls[name])
        if fails and not self._after:
            raise self._error()
        return fails

    async def check(self) -> None:
        fails = self._fails("check")
        await super().check()
        self._lose(fails)

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
        fails = self._fails("put")
        stored = await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)
        self._lose(fails)
        return stored

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AsyncIterator[Upload]:
        fails = self._fails("upload")
        async with super().upload(key, lock, metadata=metadata, once=once) as upload:
            self._lose(fails)
            yield _FailingUpload(upload, self)

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        fails = self._fails("read")
        async for chunk in super().read(key, version, start, length):
            yield chunk
            self._lose(fails)

    async def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        fails = self._fails("list")
        async for found in super().list(prefix, after):
            yield found
            self._lose(fails)

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        fails = self._fails("versions")
        async for found in super().versions(prefix, after):
            yield found
            self._lose(fails)

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        self._fails("head")
        return await super().head(key, version)

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        self._fails("lock_of")
        return await super().lock_of(key, version)

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        fails = self._fails("renew")
        renewed = await super().renew(key, version, lock)
        self._lose(fails)
        return renewed

    def _lose(self, fails: bool) -> None:
        if fails:
            raise self._error()


class _FailingUpload:
    def __init__(self, upload: Upload, store: FailingStore) -> None:
        self._upload = upload
        self._store = store

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        fails = self._store._fails("part")
        await self._upload.part(number, body, sha256=sha256)
        self._store._lose(fails)

    async def finish(self) -> StoredObject:
        fails = self._store._fails("finish")
        stored = await self._upload.finish()
        self._store._lose(fails)
        return stored
