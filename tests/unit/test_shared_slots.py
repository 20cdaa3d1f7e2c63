"""Slots of memory that two processes see."""

import os
import subprocess
import sys
from pathlib import Path

from sysbackup.concurrency.shared_slots import SharedSlots

MIB = 1 << 20

_OTHER = """
import sys
from sysbackup.concurrency.shared_slots import SharedSlots
descriptor, number, size = map(int, sys.argv[1:])
with SharedSlots(number, size, descriptor) as slots:
    assert bytes(slots.view(1, 5)) == b"there"
    slots.view(2)[:4] = b"back"
"""


def resident(slots: SharedSlots) -> int:
    """How many bytes the memory behind all slots takes."""
    return os.fstat(slots.descriptor).st_blocks * 512


def test_another_process_sees_what_is_written_and_writes_what_is_seen() -> None:
    with SharedSlots(3, MIB) as slots:
        slots.view(1)[:5] = b"there"
        subprocess.run(
            [sys.executable, "-c", _OTHER, str(slots.descriptor), "3", str(MIB)],
            pass_fds=(slots.descriptor,),
            check=True,
            cwd=Path(__file__).parents[2],
        )
        assert bytes(slots.view(2, 4)) == b"back"
        assert bytes(slots.view(0, 4)) == bytes(4)


def test_slots_do_not_overlap_and_are_of_whole_pages() -> None:
    with SharedSlots(3, 5000) as slots:
        assert slots.size % os.sysconf("SC_PAGESIZE") == 0
        for slot in range(3):
            slots.view(slot)[:] = bytes([slot + 1]) * slots.size
        assert [set(slots.view(slot)) for slot in range(3)] == [{1}, {2}, {3}]


def test_memory_is_taken_by_what_was_written_and_given_back() -> None:
    with SharedSlots(2, 64 * MIB) as slots:
        assert resident(slots) == 0
        slots.view(1)[: 8 * MIB] = bytes(8 * MIB)
        assert resident(slots) == 8 * MIB
        slots.trim(1, MIB)
        assert resident(slots) == MIB
        slots.view(1)[:4] = b"left"
        slots.trim(0)
        assert bytes(slots.view(1, 4)) == b"left"
        slots.trim(1)
        assert resident(slots) == 0


def test_closes_under_a_view_that_is_still_held() -> None:
    with SharedSlots(1, MIB) as slots:
        view = slots.view(0)
        view[:3] = b"yet"
    assert bytes(view[:3]) == b"yet"
