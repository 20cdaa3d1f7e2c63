"""`[run] bandwidth` before real servers: what is held back is late, and never takes that for trouble."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import uvloop

from sysbackup.aws import sessions
from sysbackup.aws.sessions import s3_client
from sysbackup.config.bandwidth import Rates
from sysbackup.store.port import ObjectStore
from sysbackup.store.stack import s3_store
from tests.support.asking import MIN_PART, content, lock
from tests.support.clock import START
from tests.support.proxy import Fault, proxying
from tests.support.servers import OnServer

PUT = r"^PUT [^?]* "


class RunningClock:
    """One that goes on by itself, and can be turned."""

    def __init__(self) -> None:
        self._ahead = timedelta(seconds=-time.monotonic())

    def now(self) -> datetime:
        return START + self._ahead + timedelta(seconds=time.monotonic())

    def turn(self, **by: float) -> None:
        self._ahead += timedelta(**by)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections on which nothing moves for a second are given up, which takes a minute as a rule."""
    monkeypatch.setattr(sessions, "READ_SECONDS", 1.0)


@asynccontextmanager
async def limited(
    served: OnServer, bandwidth: str, clock: RunningClock, endpoint: str | None = None
) -> AsyncIterator[ObjectStore]:
    """The bucket behind that limit; trouble is given up after half a second."""
    config = served.server.config(served.name, give_up_after=0.5, endpoint_url=endpoint or served.server.endpoint)
    run = msgspec.structs.replace(config.run, bandwidth=Rates().parse(bandwidth))
    config = msgspec.structs.replace(config, run=run)
    async with s3_client(config) as client:
        yield s3_store(client, served.name, config, clock, UTC)


def test_time_in_which_a_body_is_held_back_counts_for_no_patience(served: OnServer) -> None:
    """A busy store is tried again: three sendings of more than a second each fit into half a second of trouble."""

    async def body() -> None:
        whole = os.urandom(192 << 10)
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(PUT, Fault.BUSY, 1, 2)
            async with limited(served, "128 KiB", RunningClock(), proxy.url) as store:
                stored = await store.put("k", whole, lock())
                assert store.requests.by_kind["PutObject"] == 3
                assert store.requests.sent == len(whole)
        async with served.store() as store:
            assert await content(store, "k", stored.version) == whole

    uvloop.run(body())


def test_no_connection_is_given_up_because_it_is_held_back(served: OnServer) -> None:
    """
    Neither while a part goes out nor while an object comes in, however long that takes.

    When the window ends they go on at full speed.
    """

    async def body() -> None:
        whole = os.urandom(MIN_PART)
        clock = RunningClock()
        async with limited(served, "04:15-04:20=64 KiB", clock) as store, asyncio.TaskGroup() as group:
            async with store.upload("k", lock()) as upload:
                sending = group.create_task(upload.part(1, whole))
                await asyncio.sleep(3)
                assert not sending.done()
                clock.turn(minutes=5)
                await sending
                stored = await upload.finish()
            clock.turn(minutes=-5)
            reading = group.create_task(content(store, "k", stored.version))
            await asyncio.sleep(3)
            assert not reading.done()
            clock.turn(minutes=5)
            assert await reading == whole
            assert store.requests.by_kind["UploadPart"] == 1
            assert store.requests.by_kind["GetObject"] == 1

    uvloop.run(body())
