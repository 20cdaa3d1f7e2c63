"""Fixtures of runs that store into memory: a clock that stands still, and a bucket that goes by it."""

import pytest

from sysbackup.contents import census
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bucket(clock: ManualClock) -> MemoryBucket:
    return MemoryBucket(clock)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The census stands elsewhere, as in a bucket of very many objects, or one that somebody has filled with junk."""
    monkeypatch.setattr(census, "PAGES", 0)
    monkeypatch.setattr(census, "_HOSTS", 0)
