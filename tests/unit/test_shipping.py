"""Sending streams: one object or parts, all through the pool of uploaders, within the budget; whole or not at all."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from sysbackup.concurrency.budget import Budget
from sysbackup.concurrency.channel import Channel
from sysbackup.contents import shipping
from sysbackup.contents.shipping import Freight, Pieces, Sender, part_bytes, upload_freight
from sysbackup.errors import StoreError, StoreUnavailable, expected
from sysbackup.model import Lock, LockMode
from sysbackup.store.port import Body, ObjectStore
from sysbackup.store.s3 import LIMITS
from tests.support import backups
from tests.support.clock import START
from tests.support.failing import FailingStore, at
from tests.support.memory_store import MemoryStore

LOCK = Lock(LockMode.GOVERNANCE, START + timedelta(days=14))
MIB = 1 << 20


@asynccontextmanager
async def sending(store: ObjectStore, memory: int = 64 * MIB, uploads: int = 3) -> AsyncIterator[tuple[Sender, Budget]]:
    """A pool of uploaders, and what is sent through it."""
    budget = Budget(memory)
    async with asyncio.TaskGroup() as group:
        freight: Channel[Freight] = Channel(uploads)
        for _ in range(uploads):
            group.create_task(upload_freight(freight, store))
        yield Sender(store, freight, budget), budget
        await freight.close()


class Given:
    """A source of these bytes; `fails` after so many of them."""

    def __init__(self, content: bytes, *, fails: int | None = None) -> None:
        self._content, self._fails = content, fails
        self._at = 0

    async def ready(self, size: int) -> None:
        """They are all here."""

    async def take(self, size: int) -> Body:
        if self._fails is not None and self._at >= self._fails:
            raise OSError("the disk is gone")
        piece = self._content[self._at : self._at + size]
        self._at += len(piece)
        return piece


@pytest.mark.parametrize("known", [True, False], ids=["length known", "length unknown"])
@pytest.mark.parametrize("size", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 50 * MIB])
def test_what_is_sent_arrives(size: int, *, known: bool) -> None:
    """Of whatever length, whether that is known or not; the budget is as it was, no upload is left."""
    content = os.urandom(size)
    store = MemoryStore()

    async def work() -> None:
        async with sending(store) as (sender, budget):
            stored = await sender.send("key", LOCK, Given(content), length=size if known else None)
            assert (stored.size, stored.lock) == (size, LOCK)
            assert store.memory.find("key", stored.version).body == content
            assert budget.used == 0
        assert not store.memory.uploads

    backups.run(work())
    assert ("CreateMultipartUpload" in store.requests.by_kind) is (size >= 16 * MIB)


def test_parts_are_sent_side_by_side_within_the_budget() -> None:
    """As many as there are uploaders, and never more bytes than the budget has."""
    most = 0
    at_once = 0

    class Watched(MemoryStore):
        @asynccontextmanager
        async def upload(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            async with super().upload(*args, **kwargs) as upload:  # type: ignore[arg-type]
                part = upload.part

                async def watched(number: int, body: Body, *, sha256: bytes | None = None) -> None:
                    nonlocal most, at_once
                    at_once += 1
                    most = max(most, at_once)
                    await asyncio.sleep(0.01)
                    await part(number, body, sha256=sha256)
                    at_once -= 1

                upload.part = watched  # type: ignore[method-assign]
                yield upload

    async def work() -> None:
        async with sending(Watched(), memory=40 * MIB) as (sender, budget):
            await sender.send("key", LOCK, Given(bytes(100 * MIB)), length=100 * MIB)
            assert budget.used == 0

    backups.run(work())
    assert most == 2


@pytest.mark.parametrize("fails", [0, 20 * MIB])
def test_a_source_that_fails_ends_its_upload(fails: int) -> None:
    """Its error comes out as it is; nothing is stored, nothing held."""
    store = MemoryStore()

    async def work() -> None:
        async with sending(store) as (sender, budget):
            with pytest.raises(OSError, match="the disk is gone"):
                await sender.send("key", LOCK, Given(bytes(60 * MIB), fails=fails), length=60 * MIB)
            for _ in range(50):
                await asyncio.sleep(0)
            assert budget.used == 0

    backups.run(work())
    assert not store.memory.objects
    assert not store.memory.uploads


@pytest.mark.parametrize("call", ["upload", "part", "finish", "put"])
def test_a_store_that_fails_ends_the_sending(call: str) -> None:
    """Whichever request it is; no object is there that was not confirmed, and no upload is left."""
    kept = MemoryStore()
    store = FailingStore(kept, at(call, 2 if call == "part" else 1))
    size = 1000 if call == "put" else 60 * MIB

    async def work() -> None:
        async with sending(store) as (sender, _):
            await sender.send("key", LOCK, Given(bytes(size)), length=size)

    with pytest.raises((ExceptionGroup, StoreError)) as failed:
        backups.run(work())
    causes = expected(failed.value)
    assert causes
    assert {type(cause) for cause in causes} == {StoreUnavailable}
    assert not kept.memory.objects
    assert not kept.memory.uploads


def test_pieces_of_any_size_become_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made no sooner than they are asked for, in a thread, and put together in their order."""
    monkeypatch.setattr(shipping, "PART", 5 * MIB)
    made = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made
        for n in range(3000):
            made += 1
            yield n.to_bytes(4) * (n % 5000)

    store = MemoryStore()

    async def work() -> None:
        source = Pieces(pieces())
        first = await source.take(10)
        assert made < 10
        async with sending(store) as (sender, _):
            stored = await sender.send("key", LOCK, source, length=None)
            whole = b"".join(n.to_bytes(4) * (n % 5000) for n in range(3000))
            assert bytes(first) + store.memory.find("key", stored.version).body == whole

    backups.run(work())


def test_the_first_parts_of_unknown_length_are_small() -> None:
    """A manifest of some megabytes need not wait for memory that a large file holds."""
    assert part_bytes(1, None, LIMITS) == 16 * MIB
    assert part_bytes(1, 1, LIMITS) == 16 * MIB
