"""Sorting more than memory holds: all of it comes back in order, whatever its size, and few files are open."""

import os
import random
from pathlib import Path

import pytest

from sysbackup.disk import sorting
from sysbackup.disk.sorting import Record, Sorter

DICE = random.Random(11)


def records(number: int, largest: int) -> list[Record]:
    """Few keys, so that many are equal; most values are small."""
    return [
        (b"%d" % DICE.randrange(number // 3 + 1), DICE.randbytes(DICE.choice((0, 3, 40, DICE.randrange(largest)))))
        for _ in range(number)
    ]


@pytest.mark.parametrize("number", [0, 1, 50, 3000])
@pytest.mark.parametrize("memory", [1, 2000, 1 << 20])
@pytest.mark.parametrize("largest", [50, 3 * sorting._INLINE])
def test_all_comes_back_in_order(tmp_path: Path, number: int, memory: int, largest: int) -> None:
    """By ascending key, equal keys in the order of adding, a second time too; values of any size."""
    if memory == 1 and number > 50:
        number = sorting._FILES * 3 + 7
    added = records(number, largest)
    with Sorter(tmp_path, memory) as sorter:
        for record in added[: number // 2]:
            sorter.add(*record)
        sorter.add_all(added[number // 2 :])
        expected = sorted(added, key=lambda record: record[0])
        assert list(sorter.sorted()) == expected
        assert list(sorter.sorted()) == expected


def test_open_files_are_few(tmp_path: Path) -> None:
    """However much is set down: a process has 1,024 descriptors, and each file costs memory when they are merged."""
    before = len(os.listdir("/proc/self/fd"))
    number = sorting._FILES**2 + 5
    with Sorter(tmp_path, 1) as sorter:
        for n in range(number):
            sorter.add(b"%06d" % (number - n), b"x" * (1 + sorting._INLINE * (n % 100 == 0)))
        assert (
            len(os.listdir("/proc/self/fd")) - before <= 8
        )  # those that are no full level yet, one merged, large ones
        assert [key for key, _ in sorter.sorted()] == [b"%06d" % n for n in range(1, number + 1)]
    assert len(os.listdir("/proc/self/fd")) == before
