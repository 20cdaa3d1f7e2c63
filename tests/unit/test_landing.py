"""Where reads land: each in memory of its own, which is used again, and of which no more stays than was said."""

import mmap
import os

from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.recovery.landing import SharedRooms, private_room

MIB = 1 << 20


def _resident(slots: SharedSlots) -> int:
    return os.fstat(slots.descriptor).st_blocks * 512


def _filled(rooms: SharedRooms, size: int) -> int:
    """Have one read land; in which slot it did."""
    with rooms.room(size) as room:
        assert room.take(b"x" * size)
        return room.slot


def test_reads_side_by_side_do_not_meet() -> None:
    """As many as there are slots, each as large as it was asked for."""
    with SharedSlots(3, MIB) as slots:
        rooms = SharedRooms(slots, 3 * MIB)
        with rooms.room(5) as one, rooms.room(MIB) as two, rooms.room(7) as three:
            for room, text in ((one, b"a"), (two, b"b"), (three, b"c")):
                room.view[:] = text * len(room.view)
            assert bytes(slots.view(one.slot, 6)) == b"aaaaa\0"
            assert bytes(slots.view(two.slot)) == b"b" * MIB
            assert bytes(slots.view(three.slot, 8)) == b"ccccccc\0"


def test_memory_is_used_again() -> None:
    """One read after another takes no more memory than the largest, wherever the small ones were."""
    with SharedSlots(8, 4 * MIB) as slots:
        rooms = SharedRooms(slots, 32 * MIB)
        with rooms.room(1) as one, rooms.room(1) as two:
            assert one.take(b"1")
            assert two.take(b"2")
            large = _filled(rooms, 4 * MIB)
        for size in (4 * MIB, 3 * MIB, 4 * MIB):
            assert _filled(rooms, size) == large
        assert _resident(slots) == 4 * MIB + 2 * mmap.PAGESIZE
        assert _filled(rooms, 1) != large


def test_what_is_not_in_use_stays_within_its_bound() -> None:
    """Many large reads at once; when they are over their memory is given back, but for what was said."""
    with SharedSlots(8, 4 * MIB) as slots:
        rooms = SharedRooms(slots, 9 * MIB)
        held = [rooms.room(4 * MIB) for _ in range(8)]
        for room in held:
            assert room.__enter__().take(b"x" * (4 * MIB))
        assert _resident(slots) == 32 * MIB
        for room in held:
            room.__exit__(None, None, None)
        assert _resident(slots) == 8 * MIB
        assert _filled(rooms, 4 * MIB) >= 0
        assert _resident(slots) == 8 * MIB


def test_room_of_ones_own() -> None:
    """Empty, as large as it was asked for, and of no number."""
    with private_room(3) as room:
        assert (bytes(room.view), room.slot) == (b"\0\0\0", -1)
