"""Where the bytes of a read land, and are taken apart: in memory that helpers share, or in our own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sysbackup.concurrency.shared_slots import SharedSlots


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for one read. `slot` is the number by which helpers know it; -1 where they do not."""

    view: memoryview
    slot: int = -1


@contextmanager
def private_room(size: int) -> Iterator[Room]:
    """Room that nobody shares."""
    yield Room(memoryview(bytearray(size)))


class SharedRooms:
    """
    Rooms in shared slots, each for one read at a time; of as many reads as there are slots.

    A slot whose memory is there already is taken first: the kernel clears each page that
    is not. What those hold that are not in use stays within `memory`.
    """

    def __init__(self, slots: SharedSlots, memory: int) -> None:
        self._slots = slots
        self._memory = memory
        self._free = list(range(slots.number))
        self._held = [0] * slots.number  # bytes of each that were written to

    @contextmanager
    def room(self, size: int) -> Iterator[Room]:
        """A slot with at least `size` bytes, no more than a slot has."""
        slot = min(self._free, key=lambda number: (self._held[number] < size, abs(self._held[number] - size)))
        self._free.remove(slot)
        self._held[slot] = max(self._held[slot], size)
        try:
            yield Room(self._slots.view(slot, size), slot)
        finally:
            if sum(self._held[number] for number in self._free) + self._held[slot] > self._memory:
                self._slots.trim(slot)
                self._held[slot] = 0
            self._free.append(slot)
