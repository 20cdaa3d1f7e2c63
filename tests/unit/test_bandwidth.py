"""`[run] bandwidth`: what may be written there, and that no more bytes pass in any minute."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import uvloop
from aiohttp.abc import AbstractStreamWriter

from sysbackup.config.bandwidth import Bandwidth, Rates, Window
from sysbackup.store.bodies import Slices
from sysbackup.store.limiting import Limit, Limited, held_back
from tests.support.clock import START, ManualClock, WakingClock
from tests.support.memory_store import MemoryBucket, MemoryStore

KIB, MIB = 1 << 10, 1 << 20
BERLIN = ZoneInfo("Europe/Berlin")

STORED = MemoryBucket()
STORED.add("k", bytes(5 * MIB))

Flow = Callable[["Passing", int], Awaitable[None]]


class SharedClock(ManualClock):
    """One whose sleepers let others go on."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.turn(seconds=seconds)


class Passing:
    """Bytes that pass a limit, and when."""

    def __init__(self, bandwidth: Bandwidth, clock: ManualClock, seconds: float) -> None:
        self.clock = clock
        self.limit = Limit(bandwidth, clock, BERLIN)
        self.began = clock.now()
        self._end = self.began + timedelta(seconds=seconds)
        self.seen: list[tuple[float, int, int]] = []

    async def through(self, flows: Iterable[Flow]) -> None:
        """Let as many go on as there are flows, each until the time is over."""
        async with asyncio.TaskGroup() as group:
            for number, flow in enumerate(flows):
                group.create_task(self._one(flow, number))

    async def _one(self, flow: Flow, number: int) -> None:
        while self.clock.now() < self._end:
            await flow(self, number)

    def note(self, number: int, size: int) -> None:
        """So many bytes of a flow have passed now."""
        if self.clock.now() <= self._end:
            self.seen.append(((self.clock.now() - self.began).total_seconds(), number, size))

    def between(self, begin: float, end: float, number: int | None = None) -> int:
        """Bytes that passed in these seconds, all or those of one flow."""
        return sum(size for at, of, size in self.seen if begin <= at < end and number in (None, of))


class Wire(AbstractStreamWriter):
    """What aiohttp gives a body to write to."""

    def __init__(self, passing: Passing, number: int) -> None:
        self._passing = passing
        self._number = number

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        await asyncio.sleep(0)
        self._passing.note(self._number, len(chunk))

    async def write_eof(self, chunk: bytes = b"") -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        raise NotImplementedError

    def enable_chunking(self) -> None:
        raise NotImplementedError

    async def write_headers(self, status_line: str, headers: object) -> None:
        raise NotImplementedError


async def send(passing: Passing, number: int) -> None:
    """A part goes out."""
    await Slices(bytes(5 * MIB), passing.limit).write(Wire(passing, number))


async def receive(passing: Passing, number: int) -> None:
    """An object comes in."""
    async with aclosing(Limited(MemoryStore(STORED), passing.limit).read("k", None)) as chunks:
        async for chunk in chunks:
            passing.note(number, len(chunk))


@pytest.mark.parametrize("rate", [64 * KIB, 20 * MIB])
@pytest.mark.parametrize(
    "flows",
    [[send] * 16, [receive] * 16, [send] * 8 + [receive] * 8, [send], [receive]],
    ids=["puts", "gets", "both", "put", "get"],
)
def test_a_rate_holds_over_a_minute(rate: int, flows: list[Flow]) -> None:
    """Within 5 %, for 16 at once of whatever kind, and for one alone."""
    passing = Passing(Bandwidth(rate), SharedClock(), 70)
    uvloop.run(passing.through(flows))
    # reads are handed on in chunks: none of what waits for its turn has been handed on
    waiting = len([flow for flow in flows if flow is receive]) * 64 * KIB
    assert 0.95 * rate * 60 - waiting <= passing.between(5, 65) <= 1.05 * rate * 60 + waiting


@pytest.mark.parametrize("rate", [64 * KIB, 20 * MIB])
def test_uploads_at_once_have_equal_shares(rate: int) -> None:
    """Each of 16 gets a sixteenth of each second, so that none stands still for longer than a server waits."""
    passing = Passing(Bandwidth(rate), SharedClock(), 10)
    uvloop.run(passing.through([send] * 16))
    for second in range(9):
        shares = [passing.between(second, second + 1, number) for number in range(16)]
        assert min(shares) > 0
        assert max(shares) - min(shares) <= max(KIB, rate // 64) * 2


def test_a_large_body_goes_out_bit_by_bit() -> None:
    """No second has more than its share: what is behind us would else be blocked by a burst."""
    passing = Passing(Bandwidth(MIB), SharedClock(), 10)
    uvloop.run(passing.through([send] * 3))
    for second in range(9):
        assert passing.between(second, second + 1) <= 1.3 * MIB


def test_windows_change_the_rate_when_they_begin_and_end() -> None:
    """Within a second of it, for what is under way as well; outside of them the plain rate holds."""
    bandwidth = Rates().parse("1 MiB, 05:16-05:17 = 128 KiB, 05:17-05:18 = 4 MiB")
    passing = Passing(bandwidth, SharedClock(), 240)  # from 05:15 in Berlin on
    uvloop.run(passing.through([send] * 16))
    for minute, rate in enumerate((MIB, 128 * KIB, 4 * MIB, MIB)):
        begin = minute * 60 + 1
        assert passing.between(begin, begin + 59) == pytest.approx(59 * rate, rel=0.05)


def test_outside_of_windows_nothing_is_held_back() -> None:
    """Where no plain rate stands beside them: then no time passes at all."""
    clock = ManualClock()
    passing = Passing(Rates().parse("08:00-18:00=64 KiB"), clock, 60)
    uvloop.run(send(passing, 0))
    uvloop.run(receive(passing, 0))
    assert clock.now() == START


def test_a_limit_that_begins_meanwhile_takes_hold_at_once() -> None:
    """A body that went out at full speed goes on at the window's rate."""
    clock = ManualClock(datetime(2026, 11, 23, 7, 59, 59, 900_000, tzinfo=BERLIN).astimezone(UTC))
    passing = Passing(Rates().parse("08:00-18:00=64 KiB"), clock, 60)

    async def body() -> None:
        wire = Wire(passing, 0)
        slices = Slices(bytes(MIB), passing.limit)
        await slices.write(wire)
        clock.turn(seconds=0.1)
        await slices.write(wire)

    uvloop.run(body())
    assert passing.between(0, 0.1) == MIB
    assert passing.between(0.1, 1.1) <= 1.3 * 64 * KIB


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        (datetime(2027, 3, 27, tzinfo=BERLIN), 1),
        (datetime(2027, 3, 28, tzinfo=BERLIN), 0),  # from 02:00 to 03:00
        (datetime(2027, 10, 31, tzinfo=BERLIN), 2),  # from 03:00 to 02:00
    ],
)
def test_windows_follow_the_clock_on_the_wall(day: datetime, hours: int) -> None:
    """An hour that a change of clocks skips does not come, and one that it repeats comes twice."""
    bandwidth = Rates().parse("02:00-03:00=64 KiB")
    begin = day.astimezone(UTC)
    minutes = [bandwidth.at((begin + timedelta(minutes=minute)).astimezone(BERLIN)) for minute in range(12 * 60)]
    assert minutes.count(64 * KIB) == hours * 60


def test_a_clock_that_is_set_stops_nothing() -> None:
    """Neither hours back, nor hours forward: bytes go on at their rate."""
    for hours in (-3, 3):
        clock = ManualClock()
        passing = Passing(Bandwidth(MIB), clock, 5)
        uvloop.run(passing.through([send] * 2))
        clock.turn(hours=hours)
        began = clock.now()
        uvloop.run(send(passing, 0))
        assert timedelta(seconds=4) < clock.now() - began < timedelta(seconds=6)


def test_one_who_waits_and_is_cancelled_lets_the_others_pass() -> None:
    """Whether it is its turn or not."""

    async def body() -> None:
        clock = WakingClock()
        limit = Limit(Bandwidth(64 * KIB), clock)
        await limit.grant(KIB)
        tasks = [asyncio.create_task(limit.grant(KIB)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        await clock.go_on(seconds=1)
        assert [task.cancelled() or task.result() for task in tasks] == [True, KIB, True, KIB]

    uvloop.run(body())


def test_what_is_held_back_is_told_to_who_sent_it() -> None:
    """To each the seconds of its own bodies, those sent by tasks of its own among them: they are no trouble."""

    async def body() -> None:
        clock = WakingClock()
        limit = Limit(Bandwidth(64 * KIB), clock)
        with held_back() as mine:
            sent = asyncio.create_task(limit.passed(4 * KIB))
        with held_back() as others:
            pass
        await clock.go_on(seconds=1)
        await sent
        assert mine.seconds > 0
        assert others.seconds == 0

    asyncio.run(body())  # whose clock is finer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20 MiB", Bandwidth(20 * MIB)),
        ("20M", Bandwidth(20 * MIB)),
        ("08:00-18:00=20 MiB", Bandwidth(None, (Window(480, 1080, 20 * MIB),))),
        (
            "08:00-18:00=20 MiB, 18:00-23:30=100 MiB",
            Bandwidth(None, (Window(480, 1080, 20 * MIB), Window(1080, 1410, 100 * MIB))),
        ),
        ("1 MiB,\n  22:00 - 6:00 = 2 MiB", Bandwidth(MIB, (Window(1320, 360, 2 * MIB),))),
        ("22:00-06:00=1 MiB, 06:00-22:00=2 MiB", Bandwidth(None, (Window(1320, 360, MIB), Window(360, 1320, 2 * MIB)))),
        ("18:00-24:00=1 MiB, 00:00-08:00=2 MiB", Bandwidth(None, (Window(1080, 1440, MIB), Window(0, 480, 2 * MIB)))),
        ("00:00-24:00=1 MiB", Bandwidth(None, (Window(0, 1440, MIB),))),
    ],
)
def test_rates_and_windows_are_read(text: str, value: Bandwidth) -> None:
    """And what is printed of them is read as the same."""
    assert Rates().parse(text) == value
    assert Rates().parse(Rates().text(value)) == value


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("22:00-06:00=1 MiB", {1320: True, 1439: True, 0: True, 359: True, 360: False, 1319: False}),
        ("00:00-24:00=1 MiB", {0: True, 1439: True}),
        ("08:00-18:00=1 MiB", {479: False, 480: True, 1079: True, 1080: False}),
    ],
)
def test_a_window_holds_from_its_first_minute_to_before_its_last(text: str, minutes: dict[int, bool]) -> None:
    """Over midnight as well."""
    midnight = datetime(2026, 11, 23, tzinfo=BERLIN)
    for minute, limited in minutes.items():
        assert (Rates().parse(text).at(midnight + timedelta(minutes=minute)) is not None) is limited


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fast", "'fast' in it, which is not a size"),
        ("20 MiB/s", "'20 MiB/s' in it, which is not a size"),
        ("20 Mbit", "unknown unit 'Mbit'"),
        ("1 KiB", "'1 KiB', which is out of range"),
        ("08:00-18:00=0", "'0', which is out of range"),
        ("08:00-18:00=", "'' in it, which is not a size"),
        ("1 MiB, 2 MiB", "more than one rate without a window"),
        ("1 MiB,", "'' in it, which is not a size"),
        ("8-18=1 MiB", "'8-18=1 MiB' in it, which is no window: write it as in 08:00-18:00=20 MiB"),
        ("08:00-24:01=1 MiB", "'08:00-24:01=1 MiB' in it, with a time that no day has"),
        ("08:60-18:00=1 MiB", "'08:60-18:00=1 MiB' in it, with a time that no day has"),
        ("08:00-08:00=1 MiB", "'08:00-08:00=1 MiB' in it, which ends when it begins"),
        ("24:00-00:00=1 MiB", "'24:00-00:00=1 MiB' in it, which ends when it begins"),
        (
            "08:00-18:00=1 MiB, 20:00-21:00=3 MiB, 17:00-19:00=2 MiB",
            "windows that overlap: 08:00-18:00=1 MiB and 17:00-19:00=2 MiB",
        ),
        ("22:00-06:00=1 MiB, 05:59-07:00=2 MiB", "windows that overlap: 22:00-06:00=1 MiB and 05:59-07:00=2 MiB"),
        ("08:00-18:00=1 MiB, 08:00-18:00=1 MiB", "windows that overlap: 08:00-18:00=1 MiB and 08:00-18:00=1 MiB"),
    ],
)
def test_what_makes_no_sense_is_named(text: str, why: str) -> None:
    """The window that is meant, and of two that overlap both."""
    with pytest.raises(ValueError, match=re.escape(why)):
        Rates().parse(text)
