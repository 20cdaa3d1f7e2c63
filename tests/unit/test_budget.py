"""The budget of bytes in flight: a bound, a queue, and holds that always come back."""

import asyncio
import random

import pytest

from sysbackup.concurrency.budget import Budget, Hold
from tests.support.backups import run


async def _turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_no_more_is_granted_than_there_is() -> None:
    """Who asks for more than is free waits until that much was given back."""

    async def work() -> None:
        budget = Budget(100)
        first, second = await budget.take(60), await budget.take(40)
        third = asyncio.create_task(budget.take(50))
        await _turns(5)
        assert not third.done()
        second.release()
        await _turns(5)
        assert not third.done()
        first.release()
        assert (await third).size == 50
        assert budget.used == 50

    run(work())


def test_small_requests_do_not_starve_a_large_one() -> None:
    """Who came first is served first, though what came later would fit."""

    async def work() -> None:
        budget = Budget(100)
        holds = [await budget.take(10) for _ in range(10)]
        order: list[str] = []

        async def ask(name: str, size: int) -> None:
            await budget.take(size)
            order.append(name)

        asking = [asyncio.create_task(ask("large", 90)), asyncio.create_task(ask("small", 10))]
        for hold in holds[:8]:
            hold.release()
            await _turns(5)
            assert order == []
        holds[8].release()
        await _turns(5)
        assert order == ["large"]
        holds[9].release()
        await asyncio.wait(asking)
        assert order == ["large", "small"]

    run(work())


def test_what_is_larger_than_all_gets_all_but_the_reserve() -> None:
    """One thing at a time is always possible, however small the budget."""

    async def work() -> None:
        budget = Budget(100, reserve=30)
        kept = await budget.take(30)  # what waits for others holds this for long
        hold = await asyncio.wait_for(budget.take(1 << 40), 30)
        assert hold.size == 70
        hold.release()
        kept.release()
        assert budget.used == 0

    run(work())


@pytest.mark.parametrize("granted", [False, True])
def test_who_is_cancelled_in_the_queue_holds_nothing(granted: bool) -> None:
    """Neither where it still waits, nor where its turn has just come; and who stands behind it is not forgotten."""

    async def work() -> None:
        budget = Budget(100)
        hold = await budget.take(100)
        waiting = asyncio.create_task(budget.take(80))
        behind = asyncio.create_task(budget.take(60))
        await _turns(5)
        if granted:
            hold.release()  # grants it, but it has not been told yet
            waiting.cancel()
        else:
            waiting.cancel()
            await _turns(5)
            hold.release()
        assert (await asyncio.wait_for(behind, 30)).size == 60
        assert waiting.cancelled()
        assert budget.used == 60

    run(work())


def test_holds_are_divided_joined_and_given_back_once() -> None:
    """Whatever is done with them, in the end all is free, and no more than that."""

    async def work() -> None:
        budget = Budget(100)
        hold = await budget.take(50)
        part = hold.split(20)
        assert (hold.size, part.size, budget.used) == (30, 20, 50)
        assert hold.split(40).size == 30  # no more than there is
        assert (hold.size, budget.used) == (0, 50)
        part.shrink(30)  # which is more than it has
        assert part.size == 20
        part.shrink(5)
        assert (part.size, budget.used) == (5, 35)
        other = Hold(budget, 0)
        other.absorb(part)
        assert (other.size, part.size, budget.used) == (5, 0, 35)
        for _ in range(2):
            part.release()
            other.release()
        assert budget.used == 30

    run(work())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_whatever_happens_the_bound_holds_and_all_comes_back(loop: str, seed: int) -> None:
    """Many who take, keep, give back and are cancelled at any moment."""
    dice = random.Random(seed)

    async def work() -> None:
        budget = Budget(1000)
        held = 0
        served = 0

        async def use(size: int) -> None:
            nonlocal held, served
            hold = await budget.take(size)
            held += hold.size
            served += 1
            assert held <= 1000
            try:
                await _turns(dice.randint(0, 5))
            finally:
                held -= hold.size
                hold.release()

        users = [asyncio.create_task(use(dice.choice((1, 10, 400, 999, 5000)))) for _ in range(60)]
        for user in dice.sample(users, 20):
            await _turns(dice.randint(0, 3))
            user.cancel()
        await asyncio.wait(users, timeout=30)
        assert all(user.done() for user in users)
        assert served >= 40
        assert budget.used == 0

    run(work(), loop=loop)
