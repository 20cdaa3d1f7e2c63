"""Channels between stages: order, back-pressure, the end, and what a cancellation leaves."""

import asyncio
import random

import pytest

from sysbackup.concurrency.channel import Channel
from tests.support.backups import run


async def _turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_items_arrive_in_order_and_then_it_ends(size: int) -> None:
    """However little may wait in between; what was sent before the end arrives after it."""

    async def work() -> None:
        channel: Channel[int] = Channel(size)

        async def produce() -> None:
            for item in range(50):
                await channel.send(item)
            await channel.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            assert [item async for item in channel] == list(range(50))
        assert [item async for item in channel] == []  # ended for whoever comes later, too

    run(work())


def test_a_full_channel_holds_its_sender_up() -> None:
    """No more than its size waits; each item that is taken lets one more in."""

    async def work() -> None:
        channel: Channel[int] = Channel(2)
        sent: list[int] = []

        async def produce() -> None:
            for item in range(5):
                await channel.send(item)
                sent.append(item)

        producing = asyncio.create_task(produce())
        await _turns(20)
        assert sent == [0, 1]
        taking = aiter(channel)
        assert await anext(taking) == 0
        await _turns(20)
        assert sent == [0, 1, 2]
        producing.cancel()

    run(work())


def test_empty_is_not_finished() -> None:
    """Who receives waits while nothing is there, and goes on when something comes."""

    async def work() -> None:
        channel: Channel[str] = Channel(1)
        received: list[str] = []

        async def consume() -> None:
            received.extend([item async for item in channel])

        consuming = asyncio.create_task(consume())
        await _turns(20)
        assert not consuming.done()
        await channel.send("late")
        await _turns(20)
        assert not consuming.done()
        await channel.close()
        await consuming
        assert received == ["late"]

    run(work())


def test_the_end_reaches_every_receiver() -> None:
    """All that wait are told, not one alone."""

    async def work() -> None:
        channel: Channel[int] = Channel(1)

        async def consume() -> int:
            return len([item async for item in channel])

        consuming = [asyncio.create_task(consume()) for _ in range(5)]
        await _turns(20)
        await channel.close()
        assert sum([await task for task in consuming]) == 0

    run(work())


def test_nothing_is_sent_after_the_end() -> None:
    """That would be lost: nobody receives any more."""

    async def work() -> None:
        channel: Channel[int] = Channel(1)
        await channel.close()
        with pytest.raises(AssertionError, match="closed"):
            await channel.send(1)

    run(work())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_cancellations_lose_nothing_and_double_nothing(loop: str, seed: int) -> None:
    """Receivers and senders are cancelled at any moment: each item whose sending returned reaches one receiver."""
    dice = random.Random(seed)

    async def work() -> None:
        channel: Channel[int] = Channel(dice.randint(1, 3))
        sent: list[int] = []
        received: list[int] = []

        async def produce(items: range) -> None:
            for item in items:
                await channel.send(item)
                sent.append(item)

        async def consume() -> None:
            async for item in channel:
                received.append(item)  # noqa: PERF401 - a comprehension would lose what it has when it is cancelled

        producing = [asyncio.create_task(produce(range(n * 100, n * 100 + 30))) for n in range(4)]
        consuming = [asyncio.create_task(consume()) for _ in range(6)]
        for task in dice.sample([*producing[:2], *consuming[:4]], 6):
            await _turns(dice.randint(0, 9))
            task.cancel()
        await asyncio.wait(producing)
        await channel.close()
        await asyncio.wait(consuming)
        assert sorted(received) == sorted(sent)
        assert set(range(200, 230)) | set(range(300, 330)) <= set(received)
        for n in range(4):
            mine = [item for item in sent if item // 100 == n]
            assert mine == list(range(n * 100, n * 100 + len(mine)))

    run(work(), loop=loop)
