"""How far a run is, by what the last one held: within bounds for all numbers, and near the truth for real ones."""

from collections.abc import Iterator
from itertools import pairwise
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysbackup.formats.run_result import Counts
from sysbackup.service.forecast import Forecast, Outlook, Yardstick

GIB = 1 << 30

sizes = st.one_of(st.integers(0, 1000), st.integers(0, 1 << 62))


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    size = draw(sizes)
    return Counts(draw(sizes), size, draw(st.integers(0, size)), draw(sizes))


@st.composite
def growing(draw: st.DrawFn) -> list[tuple[Counts, float]]:
    """What a run has done, each time with the seconds that have passed: no time, no work, or all at once."""
    steps = draw(st.lists(st.tuples(counts(), st.one_of(st.just(0.0), st.floats(0, 1e7))), min_size=1, max_size=20))
    found, done, now = [], Counts(), draw(st.floats(0, 1e7))
    for more, passed in steps:
        done = Counts(
            done.files + more.files,
            done.bytes + more.bytes,
            done.read + more.read,
            done.snapshots + more.snapshots,
        )
        now += passed
        found.append((done, now))
    return found


held = st.none() | st.builds(Yardstick, counts(), st.one_of(st.just(0.0), st.floats(0, 1e18)), st.booleans())


@given(held, growing(), st.booleans())
def test_an_outlook_is_within_bounds(last: Yardstick | None, course: list[tuple[Counts, float]], rescan: bool) -> None:
    """A percentage from 0 to 99 that never falls, and a time that is none or neither negative nor infinite."""
    forecast = Forecast(last, rescan=rescan)
    before = 0
    for number, (done, now) in enumerate(course):
        outlook = forecast.look(done, now, gathered=number == len(course) - 1)
        if last is None or not (last.counts.files or last.counts.snapshots):
            assert outlook == Outlook()
            continue
        assert outlook.percent is not None
        assert before <= outlook.percent <= 99
        before = outlook.percent
        assert outlook.seconds_left is None or (isfinite(outlook.seconds_left) and outlook.seconds_left > 0)
        if outlook.beyond:
            assert (outlook.percent, outlook.seconds_left) == (99, None)


@given(held, growing())
def test_who_looks_more_often_loses_nothing(last: Yardstick | None, course: list[tuple[Counts, float]]) -> None:
    """A second look at the same moment says the same."""
    forecast = Forecast(last)
    for done, now in course:
        assert forecast.look(done, now, gathered=False) == forecast.look(done, now, gathered=False)


def course(
    last: Yardstick | None, files: int, size: int, speed: Counts, *, rescan: bool = False
) -> Iterator[tuple[float, Outlook]]:
    """
    A run over so many files of `size` bytes, looked at each second: (the share of its time that has passed, outlook).

    `speed`: files a second, of whose `bytes` it reads `read`.
    """
    forecast = Forecast(last, rescan=rescan)
    seconds = -(-files // speed.files)
    for second in range(1, seconds):
        done = min(files, second * speed.files)
        share = speed.read / speed.bytes if speed.bytes else 0
        now = Counts(done, done * size, int(done * size * share))
        yield second / seconds, forecast.look(now, 1000.0 + second, gathered=False)


FILES, SIZE = 100_000, 100_000
ALL = Counts(FILES, FILES * SIZE, FILES * SIZE)
NOTHING_NEW = Counts(FILES, FILES * SIZE, 0)


@pytest.mark.parametrize(
    ("last", "speed", "rescan", "off"),
    [
        (Yardstick(NOTHING_NEW, 100), Counts(1000, 1, 0), False, 1),
        (Yardstick(ALL, 1000), Counts(100, 1, 1), False, 1),
        (Yardstick(ALL, 1000), Counts(1000, 1, 0), False, 8),
        (Yardstick(NOTHING_NEW, 100), Counts(100, 1, 1), False, 8),
        (Yardstick(NOTHING_NEW, 100), Counts(100, 1, 1), True, 1),
        (Yardstick(ALL, 1000, rescan=True), Counts(1000, 1, 0), False, 1),
    ],
    ids=[
        "unchanged, as before",
        "all is new, as before",
        "unchanged after a first run",
        "all is new after an unchanged one",
        "a rescan after an unchanged one",
        "unchanged after a rescan",
    ],
)
def test_it_is_near_the_truth(last: Yardstick, speed: Counts, rescan: bool, off: int) -> None:
    """A run of even speed: how far it is, and how long it takes from its middle on, whatever it finds."""
    files = 0
    for part, outlook in course(last, FILES, SIZE, speed, rescan=rescan):
        files += speed.files
        assert outlook.percent is not None
        assert abs(outlook.percent - 100 * part) <= off + 1, part
        if 0.5 <= part < 0.95:
            left = (1 - part) * FILES / speed.files
            assert outlook.seconds_left is not None
            assert 0.8 * left <= outlook.seconds_left <= 1.25 * left, (part, left)
        assert not outlook.beyond


def test_a_great_image_that_is_unchanged_is_one_file() -> None:
    """A terabyte that is not read is no work, though it is nearly all that the last run held."""
    forecast = Forecast(Yardstick(Counts(100_000, 1000 * GIB, 10 * 1000), 100))
    outlook = forecast.look(Counts(5_000, 999 * GIB, 0), 5.0, gathered=False)
    assert outlook.percent in (4, 5)


def test_a_great_file_that_is_read_is_most_of_the_work() -> None:
    """Its bytes count before it is through, and a thousand files after it are little."""
    forecast = Forecast(Yardstick(Counts(1_000, 100 * GIB, 100 * GIB), 1000))
    outlook = forecast.look(Counts(1, 50 * GIB, 50 * GIB), 5.0, gathered=False)
    assert outlook.percent == 49


def test_what_snapshotters_write_counts() -> None:
    """A dump is all there is to do where no file has changed; one that has not begun yet is to come."""
    forecast = Forecast(Yardstick(Counts(1_000, GIB, 0, 100 * GIB), 1000))
    assert forecast.look(Counts(1_000, GIB, 0, 0), 5.0, gathered=False).percent == 0
    assert forecast.look(Counts(1_000, GIB, 0, 40 * GIB), 10.0, gathered=False).percent == 40


def test_a_first_run_has_no_outlook() -> None:
    """Nothing is known of how much there will be; the end of examining changes nothing about that."""
    forecast = Forecast(None)
    for second in range(100):
        assert forecast.look(Counts(second, second, second), second, gathered=second > 90) == Outlook()


def test_what_the_last_run_took_is_known_from_the_start() -> None:
    """Before anything is done, and however long the beginning takes; not where the last one was of another kind."""
    last = Yardstick(ALL, 1000)
    forecast = Forecast(last)
    for second in range(100):
        outlook = forecast.look(Counts(), second, gathered=False)
        assert outlook.percent == 0
        assert outlook.seconds_left == pytest.approx(1000)
    assert Forecast(last, rescan=True).look(Counts(), 0.0, gathered=False) == Outlook(0)


def test_a_tree_that_grew() -> None:
    """99 % and not one more; once all that was there before is passed it says so, and no time."""
    outlooks = [outlook for _, outlook in course(Yardstick(ALL, 1000), 3 * FILES, SIZE, Counts(100, 1, 1))]
    third = len(outlooks) // 3
    assert not any(outlook.beyond for outlook in outlooks[:third])
    assert all(outlook == Outlook(99, beyond=True) for outlook in outlooks[third + 1 :])


def test_a_tree_that_shrank() -> None:
    """The end comes sooner than was thought: when all is examined there is no time to tell any more."""
    forecast = Forecast(Yardstick(ALL, 1000))
    assert forecast.look(Counts(10_000, 10_000 * SIZE, 0), 100.0, gathered=False).percent == 6
    assert forecast.look(Counts(10_000, 10_000 * SIZE, 0), 101.0, gathered=True) == Outlook(99)


def test_a_pause_does_not_make_it_jump() -> None:
    """A store that does not answer for a minute, a burst after it: the time left moves by less than the pause did."""
    forecast = Forecast(Yardstick(ALL, 1000))
    seen = []
    for second in range(900):
        files = 100 * (second if second < 500 else max(500, second - 60))
        outlook = forecast.look(Counts(files, files * SIZE, files * SIZE), second, gathered=False)
        assert outlook.seconds_left is not None
        seen.append(outlook.seconds_left)
    assert max(abs(after - before) for before, after in pairwise(seen[10:])) < 10
    assert seen[559] < 2 * 500


def test_what_is_read_again_is_no_news() -> None:
    """A large file changed under our hands: what it had gained is taken back, and coming again it is no burst."""
    steady, taken_back = Forecast(Yardstick(ALL, 1000)), Forecast(Yardstick(ALL, 1000))
    for second in range(600):
        done = Counts(second, 10_000_000 * second, 10_000_000 * second)
        expected = steady.look(done, second, gathered=False)
        seen = taken_back.look(Counts() if second == 300 else done, second, gathered=False)
        if second == 300:
            assert seen.percent == expected.percent
        elif second > 300:
            assert seen.seconds_left == pytest.approx(expected.seconds_left, rel=0.01)


def test_when_nothing_moves_any_more_there_is_no_estimate() -> None:
    """Rather none than a hundred years."""
    forecast = Forecast(Yardstick(ALL, 1000))
    forecast.look(Counts(1, 1, 1), 0.0, gathered=False)
    assert forecast.look(Counts(2, 2, 2), 1e7, gathered=False).seconds_left is None
