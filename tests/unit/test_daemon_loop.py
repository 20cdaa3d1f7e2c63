"""The daemon's loop on a clock of its own: the right number of runs, at the right times, whatever happens meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from sysbackup.config import sections as settings
from sysbackup.config.sections import HOUR, MINUTE, Config
from sysbackup.errors import ConfigError
from sysbackup.formats.run_result import RunResult, Summary, with_manifest
from sysbackup.service import chronicle, history
from sysbackup.service import scheduler as daemons
from sysbackup.service import status_file as statuses
from sysbackup.service.attempts import Heard
from sysbackup.service.messages import Began, Progress
from sysbackup.service.notify import Notify
from sysbackup.service.scheduler import Scheduler
from sysbackup.service.status_file import Status
from sysbackup.service.status_text import sentence
from tests.support.backups import configured, run
from tests.support.clock import WakingClock, settled

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PROMISE = timedelta(days=14)

NIGHTLY = settings.Daemon(schedule="30 2 * * *", time_zone="Europe/Berlin")
HOURLY = settings.Daemon(schedule="0 * * * *", time_zone="Europe/Berlin")


def at(text: str) -> datetime:
    """An instant in UTC: `2026-03-29 01:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def complete(started: datetime, finished: datetime, number: int = 0) -> RunResult:
    """The end of a run that went well."""
    run_name = f"{started:%Y%m%dT%H%M%SZ}-{number:04x}"
    return with_manifest(
        Summary(
            outcome="complete",
            exit_code=0,
            host="alpha",
            run=run_name,
            bucket="bucket",
            started=started,
            finished=finished,
            seconds=(finished - started).total_seconds(),
            promise=started + PROMISE,
            manifest=f"manifests/alpha/{run_name}.jsonl.gz",
            manifest_version="v1",
            entries={"f": 1},
            files=1,
            bytes=1,
            unchanged=0,
            read=1,
            reused=0,
            renewed=0,
            contents=1,
            objects=1,
            stored=1,
            snapshots=0,
            sockets_skipped=0,
            warnings=0,
            problems=0,
            first_problems=[],
            requests={},
            price=0.0,
            next_lock_end=None,
        )
    )


def failed(started: datetime, finished: datetime, outcome: str = "failed") -> RunResult:
    """The end of one that did not."""
    return RunResult(
        outcome=outcome,
        exit_code=1,
        host="alpha",
        run=f"{started:%Y%m%dT%H%M%SZ}-0bad",
        started=started,
        finished=finished,
        reason="the bucket does not answer",
    )


class Play:
    """A run that lasts as long as it was told, on the clock of the test. An `Attempt`."""

    def __init__(self, runs: "Runs", heard: Heard, ends: Callable[[datetime, datetime], RunResult] | None) -> None:
        self._runs = runs
        self._heard = heard
        self._ends = ends
        self.started = runs.clock.now()
        self.over = asyncio.Event()
        self.said: list[str] = []

    async def end(self) -> RunResult:
        started, clock = self.started, self._runs.clock
        self._heard(Began("alpha", f"{started:%Y%m%dT%H%M%SZ}-0000", started, started + PROMISE))
        self._heard(Progress("backing up", files=12))
        over = asyncio.ensure_future(self.over.wait())
        lasting = asyncio.ensure_future(clock.sleep(self._runs.lasting))
        await asyncio.wait([over, lasting], return_when=asyncio.FIRST_COMPLETED)
        stopped = over.done()
        over.cancel()
        lasting.cancel()
        self._runs.going = None
        if self._ends is not None:
            return self._ends(started, clock.now())
        return failed(started, clock.now(), "stopped") if stopped else complete(started, clock.now())

    def stop(self) -> None:
        self.said.append("stop")
        if not self._runs.stubborn:
            self.over.set()

    def kill(self) -> None:
        self.said.append("kill")
        self.over.set()

    def describe(self) -> None:
        self.said.append("describe")


class Runs:
    """
    A `Runner` whose runs are played: `started` is when they were.

    `lasting` is how long each takes, `unstartable` what comes of starting one,
    `ends` how the next ones end, where not well. A `stubborn` one must be killed.
    """

    def __init__(self, clock: WakingClock) -> None:
        self.clock = clock
        self.lasting = 10 * MINUTE
        self.stubborn = False
        self.unstartable: OSError | None = None
        self.ends: Callable[[datetime, datetime], RunResult] | None = None
        self.held: asyncio.Event | None = None
        self.started: list[datetime] = []
        self.configs: list[Config] = []
        self.going: Play | None = None

    async def start(self, config: Config, heard: Heard) -> Play:
        assert self.going is None, "two runs at a time"
        self.started.append(self.clock.now())
        self.configs.append(config)
        if self.unstartable is not None:
            raise self.unstartable
        self.going = Play(self, heard, self.ends)
        if self.held is not None:
            await self.held.wait()
        return self.going


class Ears:
    """A `Listener` that keeps what it hears."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.events: list[str] = []
        self.endless = False

    def configured(self, config: Config) -> None:
        self.configs.append(config)

    async def began(self, began: Began) -> None:
        self.events.append(f"began {began.started:%H:%M}")

    async def ended(self, ended: RunResult) -> None:
        self.events.append(f"{ended.outcome} {ended.finished:%H:%M}")
        if self.endless:
            await asyncio.Event().wait()

    async def close(self) -> None:
        self.events.append("closed")


class AtOnce(ThreadPoolExecutor):
    """The loop's threads, but that their work is done when it is handed over: time stands still meanwhile."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001 - handed to whoever waits for it
            done.set_exception(exc)
        return done


class World:
    """A machine with a daemon."""

    def __init__(self, base: Path, when: settings.Daemon, now: datetime, past: Sequence[RunResult]) -> None:
        self.clock = WakingClock(now)
        self.runs = Runs(self.clock)
        self.heard = Ears()
        self.config = msgspec.structs.replace(configured(base), daemon=when)
        self.config.runtime.mkdir(parents=True, exist_ok=True)
        self.mistake: str | None = None
        self.daemon = Scheduler(
            self.config,
            self._load,
            self.runs,
            self.heard,
            self.clock,
            Notify({}),
            history.past(sorted(past, key=_start, reverse=True)),
        )

    def _load(self) -> Config:
        if self.mistake is not None:
            raise ConfigError(self.mistake)
        return self.config

    def configure(self, when: settings.Daemon) -> None:
        """Write other settings into the file."""
        self.config = msgspec.structs.replace(self.config, daemon=when)

    @property
    def started(self) -> list[str]:
        """When runs began, in UTC."""
        return [f"{start:%d %H:%M}" for start in self.runs.started]

    @property
    def outcomes(self) -> list[str]:
        """How they ended, the latest last, as the history on disk knows it."""
        return [ended.outcome for ended in reversed(history.recall(self.config))]

    def status(self) -> Status:
        """What the status file says, which is what the daemon knows."""
        found = statuses.read(statuses.status_path(self.config))
        assert found is not None
        assert msgspec.structs.replace(found, written=NOON) == msgspec.structs.replace(
            self.daemon.status(), written=NOON
        ), "the file tells of another moment"
        return found


def _start(ended: RunResult) -> datetime:
    return ended.started


def play(
    base: Path,
    scene: Callable[[World], Awaitable[None]],
    *,
    when: settings.Daemon = HOURLY,
    now: datetime = NOON,
    past: Sequence[RunResult] = (),
) -> World:
    """Have a daemon live through a scene, and end it."""

    async def life() -> World:
        asyncio.get_running_loop().set_default_executor(AtOnce())
        world = World(base, when, now, past)
        serving = asyncio.create_task(world.daemon.serve())
        await settled()
        try:
            await scene(world)
        finally:
            world.daemon.stop("the scene is over")
            await settled()
            assert serving.done(), "it does not end"
            await serving
        assert world.heard.events[-1] == "closed"
        assert world.status().state == "stopping"
        return world

    with capture_logs():
        return run(life(), loop="asyncio")


def waits(**by: float) -> Callable[[World], Awaitable[None]]:
    """A scene in which time passes."""

    async def scene(world: World) -> None:
        await world.clock.go_on(**by)

    return scene


# ---- whole days


def test_a_day(tmp_path: Path) -> None:
    """In 24 hours an hourly schedule has 24 runs, each at its minute; all are told of and remembered."""
    world = play(tmp_path, waits(hours=24, minutes=30))
    assert world.started == [f"{(NOON + timedelta(hours=n)):%d %H:%M}" for n in range(1, 25)]
    assert world.outcomes == ["complete"] * 24
    assert world.heard.events[:4] == ["began 13:00", "complete 13:10", "began 14:00", "complete 14:10"]
    assert len(world.heard.events) == 49


@pytest.mark.parametrize(
    ("now", "nightly", "hourly"),
    [
        ("2026-03-28 22:15", ["29 01:00", "30 00:30"], 26),
        ("2026-10-24 21:15", ["25 00:30", "26 01:30"], 30),
    ],
)
def test_clocks_are_changed(tmp_path: Path, now: str, nightly: list[str], hourly: int) -> None:
    """Through a night in which clocks are changed there is one nightly run, and one for every real hour."""
    length = {"hours": hourly + 0.5}
    assert play(tmp_path / "nightly", waits(hours=30), when=NIGHTLY, now=at(now)).started == nightly
    world = play(tmp_path / "hourly", waits(**length), when=HOURLY, now=at(now))
    assert len(world.started) == hourly
    apart = {after - before for before, after in zip(world.runs.started, world.runs.started[1:], strict=False)}
    assert apart == {timedelta(hours=1)}


def test_random_delay(tmp_path: Path) -> None:
    """With a delay, three nights have three runs, each within the delay of its instant."""
    when = msgspec.structs.replace(NIGHTLY, random_delay=2 * HOUR)
    world = play(tmp_path, waits(days=3), when=when)
    assert [start.day for start in world.runs.started] == [24, 25, 26]
    put_off = [start - start.replace(hour=1, minute=30, second=0, microsecond=0) for start in world.runs.started]
    assert all(timedelta() <= late <= timedelta(hours=2) for late in put_off)
    assert len(set(put_off)) == 3


def test_waits_to_be_triggered(tmp_path: Path) -> None:
    """Without a schedule nothing runs by itself."""
    world = play(tmp_path, waits(days=8), when=settings.Daemon())
    assert world.started == []


# ---- clocks that are set


def test_set_forward_a_little(tmp_path: Path) -> None:
    """A clock set forward over an instant: the run comes within a minute."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=30)
        world.clock.turn(minutes=45)
        await world.clock.go_on(minutes=90)

    world = play(tmp_path, scene)
    assert [f"{start:%H:%M}" for start in world.runs.started] == ["13:16", "14:00"]


def test_set_forward_a_lot(tmp_path: Path) -> None:
    """A machine that slept for three days: one run within a minute, not 72; then as scheduled."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=90)
        world.clock.turn(days=3)
        await world.clock.go_on(hours=2)

    assert play(tmp_path, scene).started == ["23 13:00", "26 13:31", "26 14:00", "26 15:00"]


def test_set_back_a_little(tmp_path: Path) -> None:
    """A clock set back by two hours: no run again for the hours that come again."""

    async def scene(world: World) -> None:
        await world.clock.go_on(hours=3, minutes=30)
        world.clock.turn(hours=-2)
        await world.clock.go_on(hours=4)

    assert play(tmp_path, scene).started == ["23 13:00", "23 14:00", "23 15:00", "23 16:00", "23 17:00"]


def test_set_back_a_lot(tmp_path: Path) -> None:
    """A clock set back by five hours: the new time counts at once."""

    async def scene(world: World) -> None:
        await world.clock.go_on(hours=3, minutes=30)
        world.clock.turn(hours=-5)
        await world.clock.go_on(hours=2)

    world = play(tmp_path, scene)
    assert world.started == ["23 13:00", "23 14:00", "23 15:00", "23 11:00", "23 12:00"]


def test_started_in_the_wrong_year(tmp_path: Path) -> None:
    """A machine that starts in 2040, and learns what time it is, makes the backups of 2026."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=5)
        world.clock.turn(seconds=(at("2026-11-23 20:00") - world.clock.now()).total_seconds())
        await world.clock.go_on(hours=30)

    world = play(tmp_path, scene, when=NIGHTLY, now=at("2040-01-01 12:00"))
    assert world.started == ["24 01:30", "25 01:30"]
    assert {start.year for start in world.runs.started} == {2026}


def test_last_run_in_the_future(tmp_path: Path) -> None:
    """A history from when the clock was wrong does not silence the daemon."""
    wrong = at("2040-01-01 12:00")
    world = play(tmp_path, waits(hours=30), when=NIGHTLY, past=[complete(wrong, wrong)])
    assert world.started == ["24 01:30"]


def test_set_back_during_a_run(tmp_path: Path) -> None:
    """A clock that is put right by hours while a run goes on: what comes after it comes by the new time."""

    async def scene(world: World) -> None:
        await world.clock.go_on(hours=1, minutes=5)
        world.clock.turn(hours=-5)
        await world.clock.go_on(hours=1)

    assert play(tmp_path, scene).started == ["23 13:00", "23 09:00"]


# ---- what was missed


def test_first_start(tmp_path: Path) -> None:
    """A daemon that starts for the first time waits for its hour."""
    assert play(tmp_path, waits(hours=13), when=NIGHTLY).started == []


@pytest.mark.parametrize("days", [1, 100])
def test_missed(tmp_path: Path, days: int) -> None:
    """A daemon that was not running at its hour has one run at once, however many it has missed."""
    last = NOON - timedelta(days=days)
    past = [failed(last, last), complete(last - timedelta(days=1), last - timedelta(days=1))]
    world = play(tmp_path, waits(hours=24), when=NIGHTLY, past=past)
    assert world.started == ["23 12:00", "24 01:30"]


def test_started_again(tmp_path: Path) -> None:
    """A daemon that is restarted in the middle of the day runs nothing again."""
    last = complete(at("2026-11-23 01:30"), at("2026-11-23 02:00"))
    assert play(tmp_path, waits(hours=13), when=NIGHTLY, past=[last]).started == []


def test_what_fell_into_the_last_run_was_not_missed(tmp_path: Path) -> None:
    """A daemon that is restarted after a run of two days does not run for the night in between."""
    last = complete(at("2026-11-21 01:30"), at("2026-11-23 11:00"))
    assert play(tmp_path, waits(hours=13), when=NIGHTLY, past=[last]).started == []


def test_another_run_in_progress_is_no_failure(tmp_path: Path) -> None:
    """`sysbackup run` by hand tells itself how it ends; whoever asked hears that there was no run for him."""

    def busy(started: datetime, finished: datetime) -> RunResult:
        return msgspec.structs.replace(failed(started, finished), exit_code=75, run=None)

    async def scene(world: World) -> None:
        world.runs.ends = busy
        asked = world.daemon.trigger("a test")
        await world.clock.go_on(hours=2)
        assert (await asked).exit_code == 75
        assert world.daemon.status().last is None

    world = play(tmp_path, scene, when=settings.Daemon())
    assert history.recall(world.config) == []
    assert len(world.started) == 1


@pytest.mark.parametrize("by", ["schedule", "signal"])
def test_a_run_that_finds_another_in_progress_is_tried_again(tmp_path: Path, by: str) -> None:
    """Nobody hears of it who could ask again: so it is, each minute, until it is a backup."""

    def busy(started: datetime, finished: datetime) -> RunResult:
        return msgspec.structs.replace(failed(started, finished), exit_code=75, run=None)

    async def scene(world: World) -> None:
        world.runs.ends, world.runs.lasting = busy, 0.0
        if by == "signal":
            world.daemon.rouse("SIGUSR1")
        await world.clock.go_on(hours=1, minutes=2, seconds=30)
        assert world.status().asked
        world.runs.ends = None
        await world.clock.go_on(minutes=20)
        assert not world.status().asked

    world = play(tmp_path, scene, when=HOURLY if by == "schedule" else settings.Daemon())
    assert world.started[-4:] == ["23 13:00", "23 13:01", "23 13:02", "23 13:03"]
    assert world.outcomes == ["complete"]


def test_a_run_that_died_with_its_daemon_is_told_of(tmp_path: Path) -> None:
    """By the next daemon: in history, status and hooks; and it is not made up for, lest it kill this one too."""
    left: list[bytes] = []

    async def dying(world: World) -> None:
        world.daemon.rouse("a test")
        await world.clock.go_on(minutes=5)
        left.append((world.config.state / "running.json").read_bytes())

    killed = play(tmp_path, dying, when=NIGHTLY)
    assert not (killed.config.state / "running.json").exists()
    history.history_path(killed.config).unlink()
    (killed.config.state / "running.json").write_bytes(left[0])

    async def scene(world: World) -> None:
        last = world.status().last
        assert last is not None
        assert (last.outcome, last.run, last.started) == ("failed", "20261123T120000Z-0000", NOON)
        assert "died" in (last.reason or "")
        await world.clock.go_on(hours=1)

    world = play(tmp_path, scene, when=NIGHTLY, now=NOON + timedelta(days=2))
    assert world.outcomes == ["failed"]
    assert world.heard.events[0].startswith("failed")
    assert world.started == []
    assert not (world.config.state / "running.json").exists()


# ---- runs that last


def test_overlapping(tmp_path: Path) -> None:
    """What falls into a run is left out, not made up for; and that is said."""
    said: list[Any] = []

    async def scene(world: World) -> None:
        world.runs.lasting = 2.5 * HOUR
        with capture_logs() as log:
            await world.clock.go_on(hours=9)
        said.extend(line["times"] for line in log if line["event"] == "schedule.skipped")

    assert play(tmp_path, scene).started == ["23 13:00", "23 16:00", "23 19:00"]
    assert said == [2, 2]


def test_ends_at_an_instant(tmp_path: Path) -> None:
    """A run that ends at the very moment when the next is due has met it."""

    async def scene(world: World) -> None:
        world.runs.lasting = HOUR
        await world.clock.go_on(hours=5)

    assert play(tmp_path, scene).started == ["23 13:00", "23 15:00", "23 17:00"]


# ---- triggers


def test_trigger(tmp_path: Path) -> None:
    """A trigger starts a run at once, and whoever asked is told how it ended."""

    async def scene(world: World) -> None:
        answer = world.daemon.trigger("a test")
        await settled()
        assert world.status().state == "running"
        assert not answer.done()
        await world.clock.go_on(minutes=10)
        assert answer.result().outcome == "complete"
        assert answer.result() == world.status().last

    assert play(tmp_path, scene).started == ["23 12:00"]


def test_a_run_that_begins_again_is_one_run(tmp_path: Path) -> None:
    """Under another name, which the status has from then on; hooks and metrics have heard of its beginning already."""

    async def scene(world: World) -> None:
        world.daemon.trigger("a test")
        await settled()
        assert world.runs.going is not None
        again = Began("alpha", "20261123T120100Z-0001", world.clock.now(), world.clock.now() + PROMISE)
        world.runs.going._heard(again)
        await settled()
        current = world.status().current
        assert current is not None
        assert (current.run, current.started) == (again.run, again.started)
        await world.clock.go_on(minutes=10)

    assert play(tmp_path, scene).heard.events == ["began 12:00", "complete 12:10", "closed"]


@pytest.mark.parametrize("number", [1, 200])
def test_triggers_during_a_run(tmp_path: Path, number: int) -> None:
    """However often a run is asked for while one goes on, there is one more after it, and it answers all of them."""

    async def scene(world: World) -> None:
        first = world.daemon.trigger("a test")
        await world.clock.go_on(minutes=5)
        answers = [world.daemon.trigger("a test") for _ in range(number)]
        await settled()
        assert world.status().asked
        assert "one more run after this" in sentence(world.status(), world.clock.now())
        await world.clock.go_on(minutes=5)
        assert first.done()
        assert not any(answer.done() for answer in answers)
        await world.clock.go_on(minutes=10)
        assert {answer.result().started for answer in answers} == {NOON + timedelta(minutes=10)}
        assert first.result().started == NOON

    world = play(tmp_path, scene)
    assert world.started == ["23 12:00", "23 12:10"]
    assert world.outcomes == ["complete"] * 2


def test_triggers_at_once(tmp_path: Path) -> None:
    """200 triggers before a run has begun are one run."""

    async def scene(world: World) -> None:
        answers = [world.daemon.trigger("a test") for _ in range(200)]
        await world.clock.go_on(minutes=30)
        assert all(answer.done() for answer in answers)

    assert play(tmp_path, scene).started == ["23 12:00"]


def test_one_who_asked_goes_away(tmp_path: Path) -> None:
    """A run that was asked for is made, though nobody waits for it any more."""

    async def scene(world: World) -> None:
        world.daemon.trigger("a test").cancel()
        await world.clock.go_on(minutes=5)
        world.daemon.trigger("a test").cancel()
        await world.clock.go_on(minutes=30)

    assert play(tmp_path, scene).started == ["23 12:00", "23 12:10"]


def test_trigger_and_schedule_together(tmp_path: Path) -> None:
    """A trigger at the moment when the schedule is due, too, is answered by that one run."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=59, seconds=59)
        world.clock.turn(seconds=1)
        answer = world.daemon.trigger("a test")
        with capture_logs() as log:
            await world.clock.go_on(minutes=30)
        assert answer.done()
        assert "schedule.skipped" not in [line["event"] for line in log]

    assert play(tmp_path, scene).started == ["23 13:00"]


def test_trigger_and_schedule_during_a_run(tmp_path: Path) -> None:
    """An instant and a trigger within one run: one more run after it, the trigger's."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=55)
        world.daemon.trigger("a test")
        await world.clock.go_on(minutes=7)
        world.daemon.trigger("a test")
        await world.clock.go_on(minutes=50)

    assert play(tmp_path, scene).started == ["23 12:55", "23 13:05"]


# ---- runs that fail


def test_failing(tmp_path: Path) -> None:
    """A run that fails leaves the daemon alive, and is not tried again before its time."""

    async def scene(world: World) -> None:
        world.runs.ends = failed
        await world.clock.go_on(hours=2, minutes=30)
        last = world.status().last
        assert last is not None
        assert last.outcome == "failed"
        assert world.status().last_complete is None
        assert world.status().last_stored is None
        world.runs.ends = None
        await world.clock.go_on(hours=1)
        assert world.status().last == world.status().last_complete

    world = play(tmp_path, scene)
    assert world.started == ["23 13:00", "23 14:00", "23 15:00"]
    assert world.outcomes == ["failed", "failed", "complete"]


def test_cannot_be_started(tmp_path: Path) -> None:
    """Where not even a process can be started, that is a run that failed, told to all who asked and remembered."""

    async def scene(world: World) -> None:
        world.runs.unstartable = OSError(12, "Cannot allocate memory")
        answer = world.daemon.trigger("a test")
        await settled()
        assert answer.result().outcome == "failed"
        assert "Cannot allocate memory" in (answer.result().reason or "")
        await world.clock.go_on(hours=1)
        world.runs.unstartable = None
        await world.clock.go_on(hours=1, minutes=30)

    world = play(tmp_path, scene)
    assert world.started == ["23 12:00", "23 13:00", "23 14:00"]
    assert world.outcomes == ["failed", "failed", "complete"]
    assert world.heard.events[:2] == ["failed 12:00", "failed 13:00"]


def test_history_that_cannot_be_written(tmp_path: Path) -> None:
    """A state directory that takes nothing does not keep backups from being made."""
    (tmp_path / "state").write_text("no directory")
    world = play(tmp_path, waits(hours=3, minutes=30))
    assert len(world.started) == 3


def test_status_that_cannot_be_written(tmp_path: Path) -> None:
    """Nor does a runtime directory that is gone."""

    async def scene(world: World) -> None:
        status = statuses.status_path(world.config)
        status.unlink()
        world.config.runtime.rmdir()
        with capture_logs() as log:
            await world.clock.go_on(hours=3, minutes=30)
        assert [line["event"] for line in log].count("status.unwritable") == 1
        world.config.runtime.mkdir()

    assert len(play(tmp_path, scene).started) == 3


# ---- the end


def test_stop_while_waiting(tmp_path: Path) -> None:
    """A daemon that waits ends at once, and starts nothing, asked or scheduled."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=30)
        world.daemon.stop("a test")
        answer = world.daemon.trigger("a test")
        assert answer.result().outcome == "stopped"
        await world.clock.go_on(hours=3)
        assert world.heard.events == ["closed"]

    assert play(tmp_path, scene).started == []


def test_stop_while_running(tmp_path: Path) -> None:
    """A run that goes on is stopped, remembered as that, and told to whoever asked for it."""

    async def scene(world: World) -> None:
        answer = world.daemon.trigger("a test")
        await world.clock.go_on(minutes=5)
        world.daemon.stop("a test")
        assert world.status().state == "stopping"
        assert world.status().next is None
        going = world.runs.going
        world.daemon.stop("again")
        await settled()
        assert going is not None
        assert going.said == ["stop"]
        assert answer.result().outcome == "stopped"
        assert world.heard.events == ["began 12:00", "stopped 12:05", "closed"]

    world = play(tmp_path, scene)
    assert world.started == ["23 12:00"]
    assert world.outcomes == ["stopped"]


@pytest.mark.parametrize("ends", [failed, complete])
def test_end_while_being_stopped(tmp_path: Path, ends: Callable[[datetime, datetime], RunResult]) -> None:
    """A run that fails (or is complete) while it is being stopped is followed by no other, though one was asked for."""

    async def scene(world: World) -> None:
        world.runs.ends = ends
        first = world.daemon.trigger("a test")
        await world.clock.go_on(minutes=5)
        second = world.daemon.trigger("a test")
        world.clock.turn(hours=2)  # and the schedule is due
        world.daemon.stop("a test")
        await settled()
        assert first.result().outcome == world.outcomes[0]
        assert second.result().outcome == "stopped"
        await world.clock.go_on(hours=3)

    world = play(tmp_path, scene)
    assert world.started == ["23 12:00"]
    assert len(world.outcomes) == 1


def test_stop_with_a_run_asked_for(tmp_path: Path) -> None:
    """A run asked for in the same moment as the end is not begun."""

    async def scene(world: World) -> None:
        answer = world.daemon.trigger("a test")
        world.daemon.stop("a test")
        await settled()
        assert answer.result().outcome == "stopped"
        assert answer.result().run is None

    assert play(tmp_path, scene).started == []


def test_stop_while_starting(tmp_path: Path) -> None:
    """A run whose process is just being started is stopped as soon as it is there."""

    async def scene(world: World) -> None:
        world.runs.held = asyncio.Event()
        answer = world.daemon.trigger("a test")
        await settled()
        world.daemon.stop("a test")
        await settled()
        assert not answer.done()
        world.runs.held.set()
        await settled()
        assert answer.result().outcome == "stopped"

    assert play(tmp_path, scene).started == ["23 12:00"]


def test_stubborn_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not end when it is told to is killed."""
    monkeypatch.setattr(daemons, "KILL_AFTER", 0.0)

    async def scene(world: World) -> None:
        world.runs.stubborn = True
        world.daemon.trigger("a test")
        await settled()
        going = world.runs.going
        assert going is not None
        world.daemon.stop("a test")
        await settled()
        assert going.said == ["stop", "kill"]

    assert play(tmp_path, scene).outcomes == ["stopped"]


def test_listener_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told of a run and takes for ever holds up neither the next run nor the end."""
    monkeypatch.setattr(chronicle, "TELL_WITHIN", 0.0)

    async def scene(world: World) -> None:
        world.heard.endless = True
        await world.clock.go_on(hours=2, minutes=30)

    assert play(tmp_path, scene).started == ["23 13:00", "23 14:00"]


# ---- the configuration


def test_reload(tmp_path: Path) -> None:
    """A new schedule holds at once; what it would have started before now was not missed."""

    async def scene(world: World) -> None:
        await world.clock.go_on(minutes=30)
        world.configure(settings.Daemon(schedule="15 * * * *"))
        world.daemon.reload()
        await settled()
        assert world.status().next == at("2026-11-23 13:15")
        await world.clock.go_on(hours=2)
        assert world.heard.configs[-1] == world.config

    assert play(tmp_path, scene).started == ["23 13:15", "23 14:15"]


def test_reload_adds_and_removes_the_schedule(tmp_path: Path) -> None:
    """A daemon that waited to be triggered gets a schedule, and loses it again."""

    async def scene(world: World) -> None:
        world.configure(HOURLY)
        world.daemon.reload()
        await world.clock.go_on(hours=1, minutes=30)
        world.configure(settings.Daemon())
        world.daemon.reload()
        await world.clock.go_on(hours=5)
        assert world.status().next is None

    assert play(tmp_path, scene, when=settings.Daemon()).started == ["23 13:00"]


def test_reload_with_mistakes(tmp_path: Path) -> None:
    """A configuration with mistakes is refused, and shown as that until a good one comes; the old one stays."""

    async def scene(world: World) -> None:
        world.mistake = "/etc/b\udcffckup/conf: no UTF-8 in a path"
        world.daemon.reload()
        assert world.status().refused == ["/etc/b\\udcffckup/conf: no UTF-8 in a path"]
        world.mistake = "conf: [daemon] schedule is no cron expression"
        world.daemon.reload()
        await settled()
        assert world.status().refused == [world.mistake]
        assert "mistakes" in sentence(world.status(), world.clock.now())
        await world.clock.go_on(hours=1, minutes=30)
        world.mistake = None
        world.daemon.reload()
        await settled()
        assert world.status().refused == []

    world = play(tmp_path, scene)
    assert world.started == ["23 13:00"]
    assert len(world.heard.configs) == 2


def test_reload_cannot_move_the_daemon(tmp_path: Path) -> None:
    """The directories in which others look for the daemon stay what they were."""

    async def scene(world: World) -> None:
        kept = world.config
        world.config = msgspec.structs.replace(kept, runtime=tmp_path / "elsewhere")
        world.daemon.reload()
        world.config = kept
        await settled()
        assert len(world.status().refused) == 1
        assert not (tmp_path / "elsewhere").exists()

    play(tmp_path, scene)


def test_reload_during_a_run(tmp_path: Path) -> None:
    """A run keeps the configuration it was started with; the next one has the new one."""

    async def scene(world: World) -> None:
        world.daemon.trigger("a test")
        await world.clock.go_on(minutes=5)
        world.config = msgspec.structs.replace(world.config, content=settings.Content(host="beta"))
        world.daemon.reload()
        await settled()
        assert world.status().state == "running"
        await world.clock.go_on(hours=1, minutes=30)

    world = play(tmp_path, scene)
    assert [config.content.host for config in world.runs.configs] == ["alpha", "beta"]
    assert world.started == ["23 12:00", "23 13:00"]


def test_reload_keeps_a_run_that_was_put_off(tmp_path: Path) -> None:
    """A run that waits for its random delay to pass survives a change of settings that have nothing to do with it."""

    async def scene(world: World) -> None:
        due = world.status().next
        assert due is not None
        await world.clock.go_on(hours=13, minutes=45)  # 02:45 in Berlin
        assert world.started == []
        world.configure(msgspec.structs.replace(world.config.daemon, stale_after=48 * HOUR))
        world.daemon.reload()
        await settled()
        assert world.status().next == due
        assert world.status().stale_after == 48 * HOUR
        world.configure(msgspec.structs.replace(world.config.daemon, random_delay=MINUTE))
        world.daemon.reload()
        await world.clock.go_on(minutes=5)

    when = msgspec.structs.replace(NIGHTLY, random_delay=24 * HOUR)
    world = late_enough(tmp_path, scene, when)
    assert [f"{start:%d %H}" for start in world.runs.started] == ["24 01"]


def late_enough(base: Path, scene: Callable[[World], Awaitable[None]], when: settings.Daemon) -> World:
    """Play the scene with a delay that chance has made longer than half an hour."""

    async def usual(world: World) -> None:
        found = world.status().next
        assert found is not None
        while found is not None and found < at("2026-11-24 02:00"):
            world.configure(msgspec.structs.replace(when, random_delay=0.0))
            world.daemon.reload()
            world.configure(when)
            world.daemon.reload()
            found = world.daemon.status().next
        await settled()
        await scene(world)

    return play(base, usual, when=when)


# ---- what it says of itself


def test_status(tmp_path: Path) -> None:
    """At each stage the status file tells what goes on, what was, and what comes next."""

    async def scene(world: World) -> None:
        waiting = world.status()
        assert (waiting.state, waiting.current, waiting.last, waiting.asked) == ("waiting", None, None, False)
        assert (waiting.since, waiting.next) == (NOON, NOON + timedelta(hours=1))
        assert statuses.lives(waiting)
        assert sentence(waiting, NOON) == "Waiting; no run yet; next at 2026-11-23 13:00 UTC"

        await world.clock.go_on(hours=1, minutes=5)
        running = world.status()
        assert running.state == "running"
        assert running.current is not None
        assert running.current.started == NOON + timedelta(hours=1)
        assert running.current.run == "20261123T130000Z-0000"
        assert running.current.promise == NOON + timedelta(hours=1) + PROMISE
        assert running.current.progress.files == 12
        assert running.next == NOON + timedelta(hours=2)
        assert sentence(running, world.clock.now()).startswith("Backing up: 12 files")

        await world.clock.go_on(minutes=10)
        after = world.status()
        assert (after.state, after.current) == ("waiting", None)
        assert after.last is not None
        assert after.last == after.last_complete == after.last_stored
        assert after.last.finished == NOON + timedelta(hours=1, minutes=10)
        assert "last run complete at 2026-11-23 13:10 UTC" in sentence(after, world.clock.now())

        world.runs.ends = failed
        await world.clock.go_on(hours=1)
        worse = world.status()
        assert worse.last is not None
        assert worse.last.outcome == "failed"
        assert worse.last_complete == after.last

    play(tmp_path, scene)


def test_status_from_the_history(tmp_path: Path) -> None:
    """A daemon that has just started knows what the one before has done."""
    good = complete(NOON - timedelta(hours=30), NOON - timedelta(hours=29))
    bad = failed(NOON - timedelta(hours=3), NOON - timedelta(hours=3))

    async def scene(world: World) -> None:
        assert world.status().last == bad
        assert world.status().last_complete == world.status().last_stored == good

    play(tmp_path, scene, when=settings.Daemon(), past=[good, bad])


def test_describe(tmp_path: Path) -> None:
    """Asked what it does, the daemon logs it, and has the run do so, too."""

    async def scene(world: World) -> None:
        with capture_logs() as log:
            world.daemon.describe()
            world.daemon.trigger("a test")
            await settled()
            world.daemon.describe()
            going = world.runs.going
            await world.clock.go_on(minutes=30)
            world.daemon.describe()
        world.daemon.stop("a test")
        assert going is not None
        assert going.said == ["describe"], "nothing is asked of a run that has ended"
        described = [line["state"] for line in log if line["event"] == "daemon.described"]
        assert described == ["waiting", "running", "waiting"]

    play(tmp_path, scene)
