"""Where the bytes of a read land, and are taken apart: in memory that helpers share, or in our own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sysbackup.concurrency.shared_slots import SharedSlots


@dataclass(slots=True)
class Room:
    """
    Memory for one read, of which the first `length` bytes have arrived.

    `slot` is the number by which helpers know it; -1 where they do not.
    """

    view: memoryview
    slot: int = -1
    length: int = 0

    def take(self, chunk: bytes) -> bool:
        """Set down what has arrived; False where it does not fit: then nothing of it is."""
        end = self.length + len(chunk)
        if end > len(self.view):
            return False
        self.view[self.length : end] = chunk
        self.length = end
        return True


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
        room = Room(self._slots.view(slot, size), slot)
        try:
            yield room
        finally:
            self._held[slot] = max(self._held[slot], room.length)
            if sum(self._held[number] for number in self._free) + self._held[slot] > self._memory:
                self._slots.trim(slot)
                self._held[slot] = 0
            self._free.append(slot)
