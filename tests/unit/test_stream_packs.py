"""Stream packs: filled by several, sent in parts of any size, and not one byte of them twice in memory for long."""

import asyncio
import gzip
import random
from collections.abc import Sequence
from itertools import count

import pytest

from sysbackup.contents import stream_packs
from sysbackup.contents.stream_packs import Filling, Packed, StreamPacks
from sysbackup.formats import gzipping, pack, stream_pack
from tests.support import backups

CONTENTS = [random.Random(n).randbytes(size) for n, size in enumerate([1, 10, 999, 1000, 1001, 5000, 20_000] * 5)]


def packed(contents: Sequence[bytes]) -> list[Packed]:
    return [Packed(n.to_bytes(32), gzipping.member_pieces(memoryview(c)), len(c)) for n, c in enumerate(contents)]


def read(body: bytes) -> list[bytes]:
    """The contents of a pack, by its own list."""
    begin = stream_pack.list_begins(body, len(body))
    found = pack.read_index(body[begin : -stream_pack.END_LENGTH], begin)
    return [gzip.decompress(body[m.span.offset : m.span.end]) for m in found if m.span]


async def sent(contents: Sequence[bytes], taken: int, size: int = 1 << 30, *, flush: int = 0) -> list[bytes]:
    """The packs that these make, of so many bytes each, taken in pieces of that length."""
    bodies: list[bytes] = []

    async def send(filling: Filling) -> None:
        body = b""
        while True:
            await filling.ready(taken)
            piece = await filling.take(taken)
            body += piece
            if len(piece) < taken:
                bodies.append(body)
                return

    async with asyncio.TaskGroup() as group:
        packs = StreamPacks(group, send, size)
        for number, each in enumerate(packed(contents), 1):
            await packs.add([each])
            if flush and number % flush == 0:
                await packs.flush()
                assert packs.stored(packs.latest)
        await packs.flush()
        await packs.close()
    return bodies


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_packs, "PART", 10_000)


@pytest.mark.parametrize("taken", [10_000, 9_999, 10_001, 25_000, 3_000, 1 << 20])
def test_what_was_added_is_sent(taken: int) -> None:
    """Whatever the store's parts are: one body, its list at the end."""
    (body,) = backups.run(sent(CONTENTS, taken))
    assert read(body) == CONTENTS


@pytest.mark.parametrize("size", [1, 10_000, 50_000])
def test_no_pack_is_larger_than_it_may_be(size: int) -> None:
    """But for one content that is; what does not fit goes into the next."""
    bodies = backups.run(sent(CONTENTS, 10_000, size))
    assert [content for body in bodies for content in read(body)] == CONTENTS
    assert all(len(body) <= size or len(read(body)) == 1 for body in bodies)
    assert len(bodies) > 1


def test_a_pack_takes_no_more_contents_than_its_list_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are."""
    monkeypatch.setattr(pack, "CONTENTS_AT_MOST", 4)
    bodies = backups.run(sent([b"%d" % n for n in range(30)], 10_000))
    assert max(len(read(body)) for body in bodies) == 4


def test_what_is_flushed_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes later goes into another pack."""
    bodies = backups.run(sent(CONTENTS, 10_000, flush=10))
    assert [len(read(body)) for body in bodies] == [10, 10, 10, 5]
    assert backups.run(sent([], 10_000)) == []


def test_who_adds_waits_for_who_sends() -> None:
    """No more than some parts wait, however much is added; and their memory is used again."""

    async def work() -> None:
        go_on = asyncio.Event()
        numbers = count(1)
        added = 0

        async def send(filling: Filling) -> None:
            next(numbers)
            await go_on.wait()
            while True:
                await filling.ready(10_000)
                if len(await filling.take(10_000)) < 10_000:
                    return

        async def add(packs: StreamPacks) -> None:
            nonlocal added
            for each in packed([bytes([n]) * 1000 for n in range(200)]):
                await packs.add([each._replace(pieces=[bytes(1000)])])
                added += 1
            await packs.flush()
            await packs.close()

        async with asyncio.TaskGroup() as group:
            packs = StreamPacks(group, send, 1 << 20)
            adding = group.create_task(add(packs))
            await asyncio.sleep(0.05)
            assert added <= 12
            go_on.set()
            await adding
            assert len(packs._memory._parts) <= 3

    backups.run(work())
