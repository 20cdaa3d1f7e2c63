"""Berths: no more memory than the budget has, paid for until it is given back, and used again."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from sysbackup.concurrency.budget import Budget
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.contents.berths import Berth, Berths
from tests.support import backups

MIB = 1 << 20


def on(number: int, total: int, memory: int, work: Callable[[Berths, Budget], Awaitable[None]]) -> None:
    """Do this with berths of 4 MiB each."""

    async def run() -> None:
        budget = Budget(total)
        with SharedSlots(number, 4 * MIB) as slots:
            await work(Berths(slots, budget, memory), budget)

    backups.run(run())


async def waits(giving: "asyncio.Task[Berth]") -> bool:
    """Whether it does, for now."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not giving.done()


def resident(berths: Berths) -> int:
    """How many bytes the memory behind all slots takes."""
    return os.fstat(berths.slots.descriptor).st_blocks * 512


def test_each_has_a_slot_of_its_own() -> None:
    """What lies in it is what was written there, and nobody else's."""

    async def work(berths: Berths, _: Budget) -> None:
        given = [await berths.give(10) for _ in range(3)]
        assert {berth.slot for berth in given} == {0, 1, 2}
        for berth in given:
            berths.slots.view(berth.slot)[:10] = b"%010d" % berth.slot
        assert [bytes(berth.body(10)) for berth in given] == [b"%010d" % berth.slot for berth in given]

    on(3, 100, MIB, work)


def test_bytes_are_paid_for_from_giving_to_release() -> None:
    """A body keeps what it takes; the next one waits for the rest, however many slots are free."""

    async def work(berths: Berths, budget: Budget) -> None:
        first = await berths.give(80)
        assert budget.used == 80
        giving = asyncio.create_task(berths.give(60))
        assert await waits(giving)
        assert len(first.body(30)) == 30
        second = await giving
        assert budget.used == 90
        first.release()
        assert budget.used == 60
        second.release()
        assert budget.used == 0

    on(5, 100, MIB, work)


def test_who_finds_no_slot_waits_for_one() -> None:
    """However much the budget has; cancelled meanwhile, it has taken nothing."""

    async def work(berths: Berths, budget: Budget) -> None:
        first, second = [await berths.give(10) for _ in range(2)]
        given_up, giving = asyncio.create_task(berths.give(10)), asyncio.create_task(berths.give(10))
        assert await waits(given_up)
        assert await waits(giving)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await waits(giving)
        assert budget.used == 30
        second.release()
        third = await giving
        assert third.slot == second.slot
        first.release()
        third.release()
        assert budget.used == 0

    on(2, 100, MIB, work)


def test_a_second_release_does_nothing() -> None:
    """Neither slot nor bytes are given back twice, whoever has them by then."""

    async def work(berths: Berths, budget: Budget) -> None:
        first = await berths.give(60)
        first.release()
        second = await berths.give(60)
        first.release()
        assert second.slot == first.slot
        assert budget.used == 60
        third = await berths.give(40)
        assert third.slot != second.slot
        fourth = asyncio.create_task(berths.give(0))
        assert await waits(fourth)
        second.release()
        assert (await fourth).slot == second.slot

    on(2, 100, MIB, work)


def test_memory_that_is_there_is_used_again() -> None:
    """The slot that was used last is given next; up to the bound, what was used stays warm."""

    async def work(berths: Berths, _: Budget) -> None:
        for _turn in range(5):
            berth = await berths.give(2 * MIB)
            berth.body(2 * MIB)[:] = os.urandom(2 * MIB)
            berth.release()
        assert resident(berths) == 2 * MIB

    on(3, 100 * MIB, 6 * MIB, work)


def test_beyond_the_bound_memory_goes_back_to_the_system() -> None:
    """Slots that were all used once do not keep all of it."""

    async def work(berths: Berths, _: Budget) -> None:
        given = [await berths.give(3 * MIB) for _ in range(4)]
        for berth in given:
            berth.body(3 * MIB)[:] = os.urandom(3 * MIB)
        assert resident(berths) == 12 * MIB
        for berth in given:
            berth.release()
        assert resident(berths) <= 6 * MIB
        again = [await berths.give(3 * MIB) for _ in range(4)]
        assert {berth.slot for berth in again} == {0, 1, 2, 3}

    on(4, 100 * MIB, 6 * MIB, work)
