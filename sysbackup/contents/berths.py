"""
Berths: slots of shared memory in which an examiner makes what the store is to get, and from which it is sent.

A berth's bytes are paid for from the budget, from the moment it is given until the
store has confirmed what lay in it.
"""

import asyncio
from dataclasses import dataclass, field

from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.shared_slots import SharedSlots


@dataclass(eq=False, slots=True)
class Berth:
    """One slot that is somebody's; `release` gives it back."""

    slot: int
    hold: Hold
    pool: "Berths" = field(repr=False)

    def body(self, length: int) -> memoryview:
        """What lies in it; that much of the budget is kept."""
        self.hold.shrink(length)
        return self.pool.view(self.slot, length)

    def release(self) -> None:
        """Nobody uses it any more."""
        self.hold.release()
        self.pool.take_back(self)


class Berths:
    """Gives out slots; `memory` bytes of them are kept warm, what was used beyond that goes back to the system."""

    def __init__(self, slots: SharedSlots, budget: Budget, memory: int) -> None:
        self._slots = slots
        self._budget = budget
        self._memory = memory
        self._free = list(range(slots.number))
        self._some = asyncio.Semaphore(slots.number)
        self._touched = [0] * slots.number
        self._out: set[Berth] = set()

    @property
    def slots(self) -> SharedSlots:
        """The memory itself."""
        return self._slots

    async def give(self, size: int) -> Berth:
        """A slot for `size` bytes; waits until the budget has them and a slot is free."""
        hold = await self._budget.take(size)
        try:
            await self._some.acquire()
        except BaseException:
            hold.release()
            raise
        slot = self._free.pop()  # the one that was used last: its memory is there
        self._out.add(berth := Berth(slot, hold, self))
        return berth

    def view(self, slot: int, length: int) -> memoryview:
        """The first bytes of a slot."""
        self._touched[slot] = max(self._touched[slot], length)
        return self._slots.view(slot, length)

    def take_back(self, berth: Berth) -> None:
        """For `Berth`."""
        if berth not in self._out:
            return
        self._out.discard(berth)
        if sum(self._touched) > self._memory:
            self._slots.trim(berth.slot)
            self._touched[berth.slot] = 0
        self._free.append(berth.slot)
        self._some.release()
