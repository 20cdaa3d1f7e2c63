"""Records in sorted runs: whatever was acknowledged is there, whoever wrote it, in the order of its keys."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from random import Random

import pytest

from sysbackup.disk import sorted_runs
from sysbackup.disk.sorted_runs import SortedRun, SortedRuns, State, read
from sysbackup.disk.sorting import Record
from sysbackup.errors import SpoolError

SLOT = 16 << 10


class Ground:
    """Slots and files of two seats."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.slots = [memoryview(bytearray(SLOT)) for _ in range(2)]
        self.opened = [tempfile.TemporaryFile(dir=directory, buffering=0) for _ in range(2)]  # noqa: SIM115
        self.files = [file.fileno() for file in self.opened]
        self.states = [State(), State()]

    def seat(self, number: int = 0) -> SortedRuns:
        """Somebody sits down, and goes on from what was acknowledged."""
        return SortedRuns(self.slots[number], self.files, number, self.directory, self.states[number])

    def acknowledge(self, seat: SortedRuns, number: int = 0) -> None:
        self.states[number] = seat.change().applied(self.states[number])

    @property
    def runs(self) -> list[tuple[int, SortedRun]]:
        return [(number, run) for number, state in enumerate(self.states) for run in state.runs]

    def read(self, begin: bytes = b"", end: bytes | None = None) -> list[Record]:
        return list(read(self.files, self.runs, begin, end))


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    for file in made.opened:
        file.close()


def some(number: int, seed: int = 0, size: int = 200) -> list[Record]:
    chance = Random(seed)
    return [
        (b"/%08d" % chance.randrange(10**8), b"v" + chance.randbytes(chance.randrange(size))) for _ in range(number)
    ]


def by_key(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=itemgetter(0))


def test_records_come_back_sorted_whole_and_by_ranges(ground: Ground) -> None:
    """From two seats, through slots that overflow, and runs that become one."""
    records = [some(20_000, seed=seat) for seat in range(2)]
    for number in range(2):
        seat = ground.seat(number)
        for start in range(0, 20_000, 250):
            seat.add_all(records[number][start : start + 250])
        seat.set_down()
        ground.acknowledge(seat, number)
    expected = by_key(records[0] + records[1])
    assert sorted(ground.read()) == sorted(expected)
    assert [key for key, _ in ground.read()] == [key for key, _ in expected]
    assert max(run.level for _, run in ground.runs) >= 1
    assert len(ground.runs) < 2 * 2 * sorted_runs._RUNS
    cuts = [b"", b"/25", b"/5000", b"/50001", b"/99", None]
    parts = [ground.read(begin or b"", end) for begin, end in pairwise(cuts)]
    assert [key for part in parts for key, _ in part] == [key for key, _ in expected]


def test_who_comes_after_goes_on_from_what_was_acknowledged(ground: Ground) -> None:
    """At each moment another sits down: nothing that was acknowledged is lost, nothing else is there."""
    told: list[Record] = []
    seat = ground.seat()
    for number in range(200):
        batch = some(30, seed=number)
        seat.add_all(batch)
        if number % 3 == 2:  # killed: what it did last was not acknowledged
            seat = ground.seat()
        else:
            ground.acknowledge(seat)
            told += batch
    seat = ground.seat()
    seat.set_down()
    ground.acknowledge(seat)
    assert sorted(ground.read()) == sorted(told)


def test_a_large_value_lies_by_itself(ground: Ground) -> None:
    """A run is merged with a block of each in memory, however large single values are."""
    large = [(b"/large-%d" % n, b"v" + os.urandom(3 << 20)) for n in range(3)]
    small = some(500)
    seat = ground.seat()
    seat.add_all([*large, *small])
    seat.set_down()
    ground.acknowledge(seat)
    assert ground.read() == by_key([*large, *small])
    assert max(block.size for _, run in ground.runs for block in run.blocks) < 256 << 10


def test_a_batch_larger_than_the_slot_leaves_what_was_acknowledged(ground: Ground) -> None:
    seat = ground.seat()
    seat.add_all(first := some(20, seed=1))
    ground.acknowledge(seat)
    seat.add_all(some(5_000, seed=2))  # killed before it is acknowledged
    seat = ground.seat()
    seat.set_down()
    ground.acknowledge(seat)
    assert ground.read() == by_key(first)


def test_equal_keys_are_all_there(ground: Ground) -> None:
    """Also where many blocks in a row have nothing else: a range may begin with them."""
    seat = ground.seat()
    for n in range(300):
        seat.add_all([(b"/same", b"v%d" % n + bytes(3000))])
    seat.add_all([(b"/later", b"v")])
    seat.set_down()
    ground.acknowledge(seat)
    assert max(sum(block.first == b"/same" for block in run.blocks) for _, run in ground.runs) > 3
    for begin in (b"", b"/same"):
        found = [value.rstrip(b"\0") for key, value in ground.read(begin) if key == b"/same"]
        assert sorted(found) == sorted(b"v%d" % n for n in range(300))


def test_what_the_disk_does_not_give_back_is_never_believed(ground: Ground) -> None:
    """A byte of a block, or of a stretch of the manifest, that is another one than was written."""
    seat = ground.seat()
    seat.add_all(some(500))
    seat.set_down()
    packed = os.urandom(1000)
    offset, sha = seat.append(packed), hashlib.sha256(packed).digest()
    ground.acknowledge(seat)
    file = ground.files[0]
    assert sorted_runs.stretch(file, offset, 1000, sha) == packed
    for at, again in (
        (ground.runs[0][1].blocks[0].offset + 40, ground.read),
        (offset + 7, lambda: sorted_runs.stretch(file, offset, 1000, sha)),
    ):
        (byte,) = os.pread(file, 1, at)
        os.pwrite(file, bytes([byte ^ 1]), at)
        with pytest.raises(SpoolError, match="cannot be read back"):
            again()
    os.ftruncate(file, offset + 10)
    with pytest.raises(SpoolError, match="cannot be read back"):
        sorted_runs.stretch(file, offset, 1000, sha)


def test_a_full_disk_is_told_in_words(ground: Ground, tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        seat = SortedRuns(ground.slots[0], [full.fileno()], 0, tmp_path, State())
        seat.add_all(some(5))
        with pytest.raises(SpoolError, match="the disk is full"):
            seat.set_down()
