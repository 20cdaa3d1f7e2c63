"""A timetable has each instant served once, at its time, whatever happens to clocks."""

import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sysbackup.config.sections import DAY, HOUR, MINUTE, Daemon
from sysbackup.service.timetable import CORRECTION, COUNTED, NEVER, REST, Timetable, time_zone, timetable

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SMALL = CORRECTION - timedelta(seconds=1)


def at(text: str) -> datetime:
    """An instant in UTC: `2026-03-29 01:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def table(
    expression: str,
    now: datetime,
    *,
    last: datetime | None = None,
    zone: tzinfo = UTC,
    delay: float = 0.0,
    seed: int = 0,
) -> Timetable:
    return Timetable(expression, zone, delay, last, now, random.Random(seed))


def follow(table: Timetable, now: datetime, until: datetime) -> Iterator[datetime]:
    """Look at the timetable whenever it asks to be looked at, and say when it had something to run."""
    while now < until:
        if table.look(now):
            yield now
            assert not table.look(now), "the same instant twice"
        rest = table.rest(now)
        assert 0 < rest <= REST
        now += timedelta(seconds=rest)


def runs_on(day: date, expression: str, zone: tzinfo = BERLIN) -> list[str]:
    """When it runs on that day, in UTC."""
    start = datetime(day.year, day.month, day.day, tzinfo=zone)
    end = start + timedelta(days=1)  # by the calendar: 23 to 25 hours
    now, until = start.astimezone(UTC) - timedelta(seconds=1), end.astimezone(UTC)
    return [f"{run:%H:%M}" for run in follow(table(expression, now, zone=zone), now, until)]


# ---- days on which clocks are changed

SPRING = [date(2026, 3, 29), date(2027, 3, 28)]
AUTUMN = [date(2026, 10, 25), date(2027, 10, 31)]
"""Europe/Berlin: 02:00 becomes 03:00, and 03:00 becomes 02:00, both at 01:00 UTC."""


@pytest.mark.parametrize("day", SPRING)
def test_spring(day: date) -> None:
    """What would run in the hour that is skipped runs once, when that hour would have begun; all else as ever."""
    assert runs_on(day, "30 2 * * *") == ["01:00"]
    assert runs_on(day, "0,15,30 2 * * *") == ["01:00"]
    assert runs_on(day, "0,30 1-3 * * *") == ["00:00", "00:30", "01:00", "01:30"]
    assert runs_on(day, "0 4 * * *") == ["02:00"]
    assert len(runs_on(day, "0 * * * *")) == 23
    assert len(runs_on(day, "0 0-23 * * *")) == 23
    assert runs_on(day, "*/30 2 * * *") == []


@pytest.mark.parametrize("day", AUTUMN)
def test_autumn(day: date) -> None:
    """What names an hour that comes twice runs at the first one alone; what runs every hour runs every real hour."""
    assert runs_on(day, "30 2 * * *") == ["00:30"]
    assert runs_on(day, "0,15,30 2 * * *") == ["00:00", "00:15", "00:30"]
    assert runs_on(day, "0 3 * * *") == ["02:00"]
    assert len(runs_on(day, "0 * * * *")) == 25
    assert len(runs_on(day, "0 0-23 * * *")) == 24
    assert runs_on(day, "0 */2 * * *")[:4] == ["22:00", "00:00", "01:00", "03:00"]


@pytest.mark.parametrize("day", AUTUMN)
def test_starting_in_the_hour_that_comes_again(day: date) -> None:
    """A daemon that starts in the second 02:00 to 03:00 does not take the first 02:30 for something to come."""
    now = datetime(day.year, day.month, day.day, 1, 10, tzinfo=UTC)
    found = table("30 2 * * *", now, zone=BERLIN)
    assert not found.look(now)
    assert found.next == datetime(day.year, day.month, day.day, 1, 30, tzinfo=UTC) + timedelta(days=1)


def test_clocks_changed_at_midnight_and_by_half_an_hour() -> None:
    """A midnight that does not exist (Beirut) and a half hour that does not (Lord Howe) lose no run."""
    assert runs_on(date(2026, 3, 28), "0 0 * * *", ZoneInfo("Asia/Beirut")) == ["22:00"]
    day = datetime(2026, 10, 3, tzinfo=UTC)
    found = table("10 2 * * *", day, zone=ZoneInfo("Australia/Lord_Howe"))
    assert found.next == at("2026-10-03 15:30")


# ---- delays


def test_delay_is_drawn_once() -> None:
    """`next` stays what it was, however often one looks, until the instant has been served."""
    found = table("0 * * * *", NOON, delay=30 * MINUTE)
    due = found.next
    for minutes in range(60):
        now = NOON + timedelta(minutes=minutes)
        assert not found.look(now)
        assert found.next == due
    assert found.look(due)
    assert found.next != due


def test_delays_are_spread() -> None:
    """Each instant has a delay of its own, from none to the longest."""
    found = table("0 * * * *", NOON, delay=30 * MINUTE)
    delays = [(run - run.replace(minute=0, second=0, microsecond=0)) for run in follow(found, NOON, NOON + hours(240))]
    assert 239 <= len(delays) <= 240
    assert timedelta() <= min(delays) < timedelta(minutes=3)
    assert timedelta(minutes=27) < max(delays) <= timedelta(minutes=30)
    assert len(set(delays)) > 200


def test_two_daemons_draw_different_delays() -> None:
    """A fleet that is set up alike does not start its runs at the same moment."""
    each = [timetable(Daemon(schedule="0 2 * * *", random_delay=6 * HOUR), None, NOON) for _ in range(8)]
    assert len({found.next for found in each if found is not None}) == 8


def test_delay_longer_than_the_interval() -> None:
    """Instants are left out then; runs never come twice at the same moment, and never out of order."""
    found = table("* * * * *", NOON, delay=HOUR)
    runs = list(follow(found, NOON, NOON + hours(24)))
    assert runs == sorted(set(runs))
    assert 24 < len(runs) < 24 * 60 / 5


# ---- what was missed


def test_first_start_waits() -> None:
    """With no run before, nothing was missed: the first one comes when the schedule says."""
    found = table("0 2 * * *", NOON)
    assert not found.look(NOON)
    assert found.next == at("2026-11-24 02:00")


@pytest.mark.parametrize("days", [1, 30, 5000])
def test_missed_while_off(days: int) -> None:
    """However many runs were missed while no daemon ran, there is one, at once; then it goes on as scheduled."""
    found = table("0 2 * * *", NOON, last=NOON - timedelta(days=days))
    assert list(follow(found, NOON, NOON + hours(40))) == [NOON, at("2026-11-24 02:00"), at("2026-11-25 02:00")]


def test_nothing_missed() -> None:
    """A daemon that is started again runs nothing that the one before has run."""
    found = table("0 2 * * *", NOON, last=at("2026-11-23 02:00:01"))
    assert list(follow(found, NOON, NOON + hours(20))) == [at("2026-11-24 02:00")]


def test_missed_with_delay() -> None:
    """A fleet that is switched on in the morning does not run as one."""
    starts = [table("0 2 * * *", NOON, last=at("2026-11-20 02:00"), delay=HOUR, seed=seed).next for seed in range(20)]
    assert all(NOON <= start <= NOON + hours(1) for start in starts)
    assert len(set(starts)) == 20


def test_asleep() -> None:
    """A machine that slept over some instants has one run as soon as it wakes, then those of the schedule."""
    found = table("0 * * * *", NOON)
    wakes = NOON + hours(10.5)
    assert not found.look(NOON + hours(0.5))
    assert list(follow(found, wakes, wakes + hours(2))) == [wakes, NOON + hours(11), NOON + hours(12)]


# ---- clocks that are set


def test_set_back_a_little() -> None:
    """A clock set back by less than three hours brings no instant again, and none gets lost."""
    found = table("0 * * * *", NOON)
    assert list(follow(found, NOON, NOON + hours(3.01))) == [NOON + hours(n) for n in (1, 2, 3)]
    back = NOON + hours(3) - SMALL
    assert list(follow(found, back, NOON + hours(5.5))) == [NOON + hours(n) for n in (4, 5)]


def test_set_back_a_lot() -> None:
    """A clock set back by three hours or more was wrong: what the right one says counts at once."""
    found = table("0 * * * *", NOON)
    assert list(follow(found, NOON, NOON + hours(4.01)))[-1] == NOON + hours(4)
    back = NOON + hours(1)
    with capture_logs() as log:
        assert list(follow(found, back, back + hours(2.5))) == [NOON + hours(2), NOON + hours(3)]
    assert [line["event"] for line in log] == ["clock.corrected"]


def test_set_back_bit_by_bit() -> None:
    """Steps that are small each, but not together, do not silence the daemon."""
    found = table("0 * * * *", NOON)
    assert found.look(NOON + hours(1))
    for _ in range(3):
        assert not found.look(NOON - hours(1))
    assert not found.look(NOON - hours(2.5))
    assert found.next == NOON - hours(2)


def test_years_ahead() -> None:
    """A machine that starts in 2040 and is then told that it is 2026 has its run of tomorrow tomorrow."""
    wrong = datetime(2040, 1, 1, tzinfo=UTC)
    found = table("0 2 * * *", wrong)
    assert found.look(at("2040-01-01 02:00"))
    assert not found.look(NOON)
    assert found.next == at("2026-11-24 02:00")


def test_years_ahead_with_a_run_pending() -> None:
    """A run that was missed, and put off by chance when the clock was set right, is not lost."""
    found = table("0 2 * * *", datetime(2040, 1, 1, tzinfo=UTC), last=at("2026-11-22 02:00"), delay=HOUR)
    assert not found.look(NOON)
    assert NOON <= found.next <= NOON + hours(1)


def test_pending_when_set_back() -> None:
    """An instant whose delay has not passed when a clock is put right is still served."""
    found = table("0 2 * * *", at("2026-11-23 01:00"), delay=DAY, seed=2)
    assert found.next > at("2026-11-23 08:00")
    assert not found.look(at("2026-11-23 08:00"))
    assert not found.look(at("2026-11-23 02:30"))
    assert at("2026-11-23 02:30") <= found.next <= at("2026-11-24 02:30")
    assert found.look(found.next)


def test_last_run_a_little_ahead() -> None:
    """A last run less than three hours from now in the future was a real one: what it served is not run again."""
    found = table("0 * * * *", NOON, last=NOON + SMALL)
    assert found.next == NOON + hours(3)
    assert table("0 * * * *", NOON, last=NOON + CORRECTION).next == NOON + hours(1)


def test_last_run_far_ahead() -> None:
    """A last run in 2040 says nothing: the next one comes when the schedule says, not in 2040."""
    with capture_logs() as log:
        found = table("0 2 * * *", NOON, last=datetime(2040, 1, 1, tzinfo=UTC))
    assert found.next == at("2026-11-24 02:00")
    assert [line["event"] for line in log] == ["schedule.last_ignored"]


def test_last_run_ahead_and_clock_set_back() -> None:
    """How far a clock was set back is reckoned from the last run, where that lies ahead."""
    found = table("0 * * * *", NOON, last=NOON + hours(2))
    assert not found.look(NOON - hours(1.5))
    assert found.next == NOON - hours(1)


# ---- runs that last


def test_left_out() -> None:
    """What falls into a run is left out, and counted."""
    found = table("0 * * * *", NOON)
    assert found.look(NOON + hours(1))
    assert found.pass_over(NOON + hours(1.5)) == 0
    assert found.pass_over(NOON + hours(2)) == 1
    assert found.pass_over(NOON + hours(4.5)) == 2
    assert list(follow(found, NOON + hours(4.5), NOON + hours(6.5))) == [NOON + hours(5), NOON + hours(6)]


def test_pending_through_a_run() -> None:
    """An instant that falls due after a run has ended is served, though the run has begun after the instant."""
    found = table("0 2 * * *", at("2026-11-23 01:00"), delay=DAY, seed=1)
    due = found.next
    assert found.pass_over(due - timedelta(seconds=1)) == 0
    assert found.look(due)


def test_missed_run_overtaken() -> None:
    """A missed run that falls due while another goes on is one that is left out, not as many as were missed."""
    found = table("0 * * * *", NOON, last=NOON - timedelta(days=30), delay=10 * MINUTE)
    assert found.pass_over(NOON + hours(0.5)) == 1
    assert found.next >= NOON + hours(1)


def test_counting_ends() -> None:
    """A clock set forward by years during a run costs no time to speak of."""
    found = table("* * * * *", NOON)
    later = NOON + timedelta(days=36500)
    assert found.pass_over(later) == COUNTED
    assert found.next == later + timedelta(minutes=1)


# ---- schedules that come rarely, or never


def test_never_comes() -> None:
    """A schedule that names no day waits for ever, and can still be asked."""
    found = table("* * */20 * 1L", NOON)
    assert found.next == NEVER
    assert not found.look(NOON)
    assert found.rest(NOON) == REST
    assert found.pass_over(NOON + hours(1)) == 0


def test_end_of_the_calendar() -> None:
    """A clock that stands at the end of all time is no reason to die."""
    end = datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC)
    found = table("0 0 * * *", end)
    assert not found.look(NOON)
    assert found.next == at("2026-11-24 00:00")


def test_rest_is_exact_in_the_end() -> None:
    """The clock is looked at every minute, and then at the very instant."""
    found = table("0 2 * * *", NOON)
    two = at("2026-11-24 02:00")
    assert found.rest(NOON) == REST
    assert found.rest(two - timedelta(seconds=12.25)) == 12.25
    assert found.rest(two) == 0
    assert found.rest(two + hours(1)) == 0


# ---- whatever happens

SCHEDULES = st.sampled_from(
    [
        "0 2 * * *",
        "30 2 * * *",
        "0 * * * *",
        "*/7 * * * *",
        "0,30 1-3 * * *",
        "0 */2 * * 1-5",
        "15 4 1 * *",
        "* 2 * * *",
    ]
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe", "Asia/Kolkata", "America/Havana"]
)
STARTS = st.floats(0, 1000 * DAY).map(lambda seconds: at("2025-01-01 00:00") + timedelta(seconds=seconds))


@settings(deadline=None, max_examples=60)
@given(SCHEDULES, ZONES, STARTS, st.integers(1, 10))
@example("30 2 * * *", "Europe/Berlin", at("2026-03-28 12:00"), 2)
@example("0,30 1-3 * * *", "Europe/Berlin", at("2026-10-24 12:00"), 2)
def test_every_day_that_has_an_instant_has_a_run(expression: str, zone: str, start: datetime, days: int) -> None:
    """With a clock that only goes on, runs come in order, at whole minutes that the schedule names or a gap ends at."""
    end = start + timedelta(days=days)
    local = ZoneInfo(zone)
    runs = list(follow(table(expression, start, zone=local), start, end))
    assert runs == sorted(set(runs))
    assert all(start < run < end and run.second == run.microsecond == 0 for run in runs)
    if expression in ("0 2 * * *", "30 2 * * *"):
        seen = [run.astimezone(local).date() for run in runs]
        whole = {start.astimezone(local).date() + timedelta(days=n) for n in range(1, days)}
        assert whole <= set(seen)
        assert len(seen) == len(set(seen)), "two on one day"
    if expression == "0 * * * *" and zone in ("UTC", "Europe/Berlin", "America/New_York"):
        assert all(after - before == hours(1) for before, after in pairwise(runs))


class Watched:
    """A timetable, and what must hold of it after every call; `latest` is the latest time since the clock was wrong."""

    def __init__(self, expression: str, zone: tzinfo, delay: float, last: datetime | None, now: datetime) -> None:
        self._expression, self._zone, self._delay = expression, zone, timedelta(seconds=delay)
        self.now = now
        self._found = table(expression, now, last=last, zone=zone, delay=delay)
        known = last is not None and last - now < CORRECTION
        self._latest = max(now, last) if known and last is not None else now
        self._served: datetime | None = last if known else None
        self._hold()

    def look(self) -> None:
        self._notice()
        if self._found.look(self.now):
            self._serve()
        else:
            assert self.now < self._found.next
        assert not self._found.look(self.now), "the same instant twice"
        self._hold()

    def end_run(self) -> None:
        self._notice()
        if self._found.pass_over(self.now):
            self._serve()
        assert self._found.pass_over(self.now) == 0
        self._hold()

    def rest(self) -> float:
        rest = self._found.rest(self.now)
        assert 0 < rest <= REST
        return rest

    @property
    def due(self) -> datetime:
        return self._found.next

    def _notice(self) -> None:
        if self._latest - self.now >= CORRECTION:
            self._latest = self.now
            if self._served is not None and self._served > self.now:
                self._served = self.now
        self._latest = max(self._latest, self.now)

    def _serve(self) -> None:
        """What has been served, or left out, was an instant of its own: there is one since the last."""
        if self._served is not None:
            assert self._after(self._served) <= self.now
        self._served = self.now

    def _hold(self) -> None:
        """Nothing is lost: what comes next comes no later than the first instant that cannot have been served yet."""
        assert self._found.settled < self._found.next
        assert self._found.next <= self._after(self._latest) + self._delay
        if self._served is not None:
            assert self._found.settled == self._served
            missed = self._after(self._served) <= self.now
            assert not missed or self._found.next <= self._latest + self._delay

    def _after(self, instant: datetime) -> datetime:
        return table(self._expression, instant, zone=self._zone).next


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, HOUR)),
        st.tuples(st.just("until due"), st.floats(0, MINUTE)),
        st.tuples(st.just("run"), st.floats(0, 5 * HOUR)),
        st.tuples(st.just("jump"), st.floats(0, 2 * DAY)),
        st.tuples(st.just("jump"), st.floats(-SMALL.total_seconds(), 0)),
        st.tuples(st.just("jump"), st.floats(-3 * DAY, -CORRECTION.total_seconds())),
    ),
    max_size=15,
)
AGES = st.none() | st.floats(-DAY, 9 * DAY)
"""How long ago the last run was."""


@settings(deadline=None, max_examples=200)
@given(SCHEDULES, ZONES, STARTS, st.sampled_from([0.0, MINUTE, HOUR, DAY]), AGES, STEPS)
def test_any_clock(
    expression: str, zone: str, start: datetime, delay: float, age: float | None, steps: list[tuple[str, float]]
) -> None:
    """Whatever the clock does, no instant is served twice, none is lost, and the daemon is never silent for long."""
    last = None if age is None else start - timedelta(seconds=age)
    watched = Watched(expression, ZoneInfo(zone), delay, last, start)
    for what, seconds in steps:
        end = watched.now + timedelta(seconds=seconds)
        if what == "until due":
            watched.now = max(watched.now, watched.due - timedelta(seconds=seconds))
            end = watched.due
        if what == "run":
            watched.look()
            watched.now = end
            watched.end_run()
        elif what == "jump":
            watched.now = end
        watched.look()
        while watched.now < end:
            watched.now = min(end, watched.now + timedelta(seconds=watched.rest()))
            watched.look()


# ---- where the zone comes from


def test_no_schedule() -> None:
    """Without a schedule there is no timetable."""
    assert timetable(Daemon(), None, NOON) is None


def test_configured_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone that is configured goes before the system's."""
    monkeypatch.setenv("TZ", "America/New_York")
    here = timetable(Daemon(schedule="0 2 * * *", time_zone="Europe/Berlin"), None, NOON)
    assert here is not None
    assert here.next == at("2026-11-24 01:00")


def test_system_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, the schedule goes by what TZ says."""
    monkeypatch.setenv("TZ", "America/New_York")
    there = timetable(Daemon(schedule="0 2 * * *"), None, NOON)
    assert there is not None
    assert there.next == at("2026-11-24 07:00")


def zone_file(path: Path, name: str = "Europe/Berlin") -> Path:
    """The system's own file of a zone, copied."""
    path.write_bytes(Path("/usr/share/zoneinfo", name).read_bytes())
    return path


@pytest.mark.parametrize(
    ("variable", "winter", "summer"),
    [
        ("Europe/Berlin", 1, 2),
        (":Europe/Berlin", 1, 2),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 1, 2),
        ("<+03>-3", 3, 3),
        ("UTC0", 0, 0),
        ("", 0, 0),
    ],
)
def test_variable(variable: str, winter: int, summer: int, tmp_path: Path) -> None:
    """TZ is understood in all the forms that tzset(3) has, and goes before localtime(5)."""
    with capture_logs() as log:
        zone = time_zone(None, {"TZ": variable}, zone_file(tmp_path / "localtime", "Asia/Tokyo"))
    offsets = [datetime(2026, month, 15, tzinfo=UTC).astimezone(zone).utcoffset() for month in (1, 7)]
    assert offsets == [hours(winter), hours(summer)]
    assert log == []


def test_files(tmp_path: Path) -> None:
    """TZ may name a file; without TZ it is the system's."""
    path = zone_file(tmp_path / "zone")
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert summer.astimezone(time_zone(None, {"TZ": f":{path}"}, tmp_path / "missing")).utcoffset() == hours(2)
    assert summer.astimezone(time_zone(None, {}, path)).utcoffset() == hours(2)


def test_no_zone_at_all(tmp_path: Path) -> None:
    """A system without a zone of its own is on UTC, and that is nothing to warn of."""
    with capture_logs() as log:
        assert time_zone(None, {}, tmp_path / "localtime") is UTC
    assert log == []


@pytest.mark.parametrize("variable", ["Middle/Earth", ":/nonexistent", "/", "../../etc/passwd", "CET-1CEST", "Europe"])
def test_broken_variable(variable: str, tmp_path: Path) -> None:
    """A zone that does not exist is UTC, with a warning that names it."""
    with capture_logs() as log:
        assert time_zone(None, {"TZ": variable}, tmp_path / "localtime") is UTC
    assert [(line["event"], line["time_zone"]) for line in log] == [("time_zone.unusable", variable)]


def test_zone_that_is_gone() -> None:
    """A configured zone that the system knows no longer (tzdata was removed) is UTC, with a warning."""
    with capture_logs() as log:
        assert time_zone("Middle/Earth", {}) is UTC
    assert [line["event"] for line in log] == ["time_zone.unusable"]


def test_dangling_link(tmp_path: Path) -> None:
    """An /etc/localtime that leads nowhere is worth a warning."""
    link = tmp_path / "localtime"
    link.symlink_to("/nonexistent")
    with capture_logs() as log:
        assert time_zone(None, {}, link) is UTC
    assert [line["time_zone"] for line in log] == [str(link)]


def test_torn_file(tmp_path: Path) -> None:
    """However short a zone's file was cut, the answer comes, and is UTC."""
    whole = zone_file(tmp_path / "localtime").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "localtime").write_bytes(whole[:length])
        with capture_logs() as log:
            assert time_zone(None, {}, tmp_path / "localtime") is UTC
        assert len(log) == 1


@settings(max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_rubbish(rubbish: bytes, headed: bool) -> None:
    """A file of something else is UTC, or what it can be read as; never an exception."""
    found = _written(b"TZif2" + bytes(15) + rubbish if headed else rubbish)
    assert isinstance(found, tzinfo)


def _written(data: bytes) -> tzinfo:
    with tempfile.NamedTemporaryFile() as file, capture_logs():
        file.write(data)
        file.flush()
        return time_zone(None, {}, Path(file.name))
