"""
The daemon: waits, runs, waits.

One loop decides what happens next, from what others have asked for meanwhile:
triggers, a new configuration, the timetable, an end. Nothing starts a run but
that loop, and it looks for a stop before it does, whatever has happened.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from sysbackup.config.sections import Config
from sysbackup.errors import ConfigError, SysbackupError
from sysbackup.model import Clock, plain, shown
from sysbackup.pipeline.tally import Ended, badly
from sysbackup.service import history
from sysbackup.service import status_file as statuses
from sysbackup.service.attempts import Attempt, Runner
from sysbackup.service.history import Past
from sysbackup.service.ledger import Ledger
from sysbackup.service.messages import Began, Progress
from sysbackup.service.notify import Notify
from sysbackup.service.status_file import Current, Status
from sysbackup.service.status_text import sentence
from sysbackup.service.timetable import timetable

log = structlog.get_logger()

KILL_AFTER = 6.5
"""Seconds that a run gets to clean up when the daemon is stopped."""

TELL_WITHIN = 1.5
"""Seconds that hooks get then; together the two stay below the 10 s within which the daemon must have ended."""


AGAIN = 60.0
"""Seconds until a run is tried again that found another in progress: `sysbackup run`, or what a killed daemon left."""

STILL_THERE = 60.0
"""Seconds after which a daemon that waits says so again: one that is silent for longer hangs."""


class Listener(Protocol):
    """
    Who must hear how runs go: metrics, hooks. Nothing of theirs may raise, or last for ever.

    `began` and `ended` are called in the order of events, but not waited for: a
    later one may be called before an earlier one has returned.
    """

    def configured(self, config: Config) -> None:
        """What holds from now on."""
        ...

    async def began(self, began: Began) -> None:
        """A run has begun."""
        ...

    async def ended(self, ended: Ended) -> None:
        """A run has ended."""
        ...

    async def close(self) -> None:
        """The daemon ends."""
        ...


class Scheduler:
    """
    `serve` is its life. All other methods return at once, and are for the event loop's own thread.

    `load` reads the configuration (`ConfigError`); `past` is what was before it,
    `conf` the `status.fingerprint` of the file, taken before it was read.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        runner: Runner,
        listener: Listener,
        clock: Clock,
        notify: Notify,
        past: Past,
        conf: str | None = None,
    ) -> None:
        self._config = config
        self._conf = conf
        self._load = load
        self._runner = runner
        self._listener = listener
        self._clock = clock
        self._notify = notify
        self._since = clock.now()
        self._past = past
        self._ledger = Ledger(config)
        # What fell into the last run was not missed.
        self._timetable = timetable(config.daemon, past.last.finished if past.last else None, clock.now())
        self._refused: list[str] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._asked: list[asyncio.Future[Ended]] = []
        self._wanted: str | None = None
        self._again: tuple[str, datetime] | None = None
        self._attempt: Attempt | None = None
        self._current: Current | None = None
        self._unwritable = False
        self._group = asyncio.TaskGroup()
        self._telling: set[asyncio.Task[None]] = set()

    # ---- what others ask for

    def trigger(self, who: str) -> "asyncio.Future[Ended]":
        """
        Ask for a run that begins from now on; the answer is how it ended.

        During a run that is one more after it, however often it is asked for.
        """
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        if self._stopping:
            future.set_result(self._never("the daemon is being stopped"))
            return future
        self._asked = [f for f in self._asked if not f.done()]
        self._asked.append(future)
        self.rouse(who)
        return future

    def rouse(self, who: str) -> None:
        """The same for who needs no answer."""
        if self._stopping:
            return
        if self._wanted is None:
            log.info("run.asked", by=who, after="the one that goes on" if self._current else "nothing: it starts now")
            self._wanted = who
            self._publish()
        self._wake.set()

    def reload(self) -> None:
        """Read the configuration again; with a mistake in it the old one stays. A run that goes on keeps its own."""
        if self._stopping:
            log.info("config.left", reason="the daemon is being stopped")
            return  # READY=1 after STOPPING=1 would be a lie
        self._notify.reloading()
        try:
            self._take_new()
        finally:
            self._notify.ready()
        self._wake.set()
        self._publish()

    def _take_new(self) -> None:
        # Before: a change that comes in between is taken for one that was not read, never the other way round.
        conf = statuses.fingerprint(self._config.directory)
        try:
            config = self._load()
            if (config.runtime, config.state) != (self._config.runtime, self._config.state):
                raise ConfigError("the runtime and state directories cannot change while the daemon runs: restart it")
        except ConfigError as exc:
            self._refused = [plain(mistake) for mistake in exc.mistakes]
            for mistake in self._refused:
                log.error("config.refused", mistake=mistake, kept="the configuration from before stays in force")
        else:
            self._refused, self._conf = [], conf
            self._reschedule(config)
            self._config = config
            self._listener.configured(config)
            log.info("config.read", directory=str(config.directory))

    def _reschedule(self, config: Config) -> None:
        """Take a new schedule, where there is one. A run that was put off is not forgotten for any other setting."""
        now, before, after = self._clock.now(), self._config.daemon, config.daemon
        if (after.schedule, after.time_zone) != (before.schedule, before.time_zone):
            # What the new schedule would have started before now was not missed.
            self._timetable = timetable(after, now, now)
        elif after.random_delay != before.random_delay and self._timetable is not None:
            self._timetable = timetable(after, self._timetable.settled, now)

    def stop(self, why: str) -> None:
        """End what goes on, and then the daemon. A second call changes nothing; see `kill`."""
        if self._stopping:
            return
        self._stopping = True
        log.info("daemon.stopping", reason=why, run=self._run_name())
        self._notify.stopping()
        if self._attempt is not None:
            self._attempt.stop()
        asyncio.get_running_loop().call_later(KILL_AFTER, self.kill)  # one that is being started, too
        self._wake.set()
        self._publish()

    def kill(self) -> None:
        """End a run that goes on without waiting for it to clean up."""
        if self._attempt is not None:
            log.warning("run.killed", run=self._run_name(), reason="it did not end in time, or was not given any")
            self._attempt.kill()

    def describe(self) -> None:
        """Log what goes on."""
        status = self.status()
        doing = sentence(status, self._clock.now())
        log.info("daemon.described", run=self._run_name(), state=status.state, doing=doing)
        if self._attempt is not None:
            self._attempt.describe()

    def status(self) -> Status:
        """This moment."""
        state = "stopping" if self._stopping else "running" if self._current else "waiting"
        return Status(
            pid=os.getpid(),
            born=statuses.born(os.getpid()) or 0,
            since=self._since,
            written=self._clock.now(),
            directory=shown(bytes(self._config.directory)),
            state=state,
            asked=(self._wanted is not None or self._again is not None) and not self._stopping,
            current=self._current,
            last=self._past.last,
            last_complete=self._past.complete,
            last_stored=self._past.stored,
            next=None if self._timetable is None or self._stopping else self._timetable.next,
            refused=self._refused,
            stale_after=self._config.daemon.stale_after,
            conf=self._conf,
        )

    # ---- its life

    async def serve(self) -> None:
        """Wait and run until stopped. What can go wrong with runs is told, and never ends it."""
        self._listener.configured(self._config)
        async with self._group:
            beating = self._group.create_task(self._beat())
            try:
                self._publish()
                self._notify.ready()
                await self._tell_of_the_dead()
                while (why := await self._wanted_or_due()) is not None:
                    await self._run(why)
            finally:
                for future in self._asked:
                    if not future.done():
                        future.set_result(self._never("the daemon was stopped before the run began"))
                if self._telling:
                    _, late = await asyncio.wait(self._telling, timeout=TELL_WITHIN)
                    for task in late:
                        task.cancel()
                beating.cancel()
        await self._listener.close()
        self._publish()

    async def _wanted_or_due(self) -> str | None:
        """Wait for a reason to run; None when it is time to end."""
        while not self._stopping:
            self._wake.clear()
            if self._timetable is not None and self._timetable.look(self._clock.now()):
                return "the schedule"
            if self._wanted is not None:
                return self._wanted
            if self._again is not None and self._rest(self._again[1]) <= 0:
                return self._again[0]
            self._publish()
            await self._sleep()
        return None

    async def _sleep(self) -> None:
        """Until somebody asks for something, or it is time to look at the clock again."""
        rest = STILL_THERE
        if self._timetable is not None:
            rest = min(rest, self._timetable.rest(self._clock.now()))
        if self._again is not None:
            rest = min(rest, self._rest(self._again[1]))
        waking = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(rest))
        try:
            await asyncio.wait((waking, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            sleeping.cancel()

    def _rest(self, instant: datetime) -> float:
        """Seconds until then; none where the clock was set back meanwhile."""
        rest = (instant - self._clock.now()).total_seconds()
        return rest if rest <= AGAIN else 0.0

    async def _run(self, why: str) -> None:
        asked, self._asked, self._wanted, self._again = self._asked, [], None, None
        self._current = Current(started=self._clock.now())
        self._publish()
        log.info("run.starting", because=why)
        ended = await self._attempted()
        _log_end(ended)
        if history.no_attempt(ended):
            self._try_again(why, asked)
        else:
            await self._conclude(ended)
        self._current = None
        self._publish()
        for future in asked:
            if not future.done():
                future.set_result(ended)

    def _try_again(self, why: str, asked: "list[asyncio.Future[Ended]]") -> None:
        """After a run that found another in progress. Those who wait for an answer have it; nobody else would hear."""
        if all(future.done() for future in asked) and not self._stopping:
            self._again = (why, self._clock.now() + timedelta(seconds=AGAIN))
            log.warning("run.postponed", seconds=AGAIN, reason="another run is in progress; this one is tried again")

    async def _conclude(self, ended: Ended) -> None:
        """All who must know of a run's end hear of it."""
        # Set down first: who sees in the status that it has ended finds it in the history.
        await self._ledger.ended(ended)
        self._past = self._past.after(history.brief(ended))
        self._tell(self._listener.ended(ended))
        if self._timetable is not None and (left_out := self._timetable.pass_over(self._clock.now())):
            log.warning("schedule.skipped", times=left_out, reason="a run was still going on at that time")

    async def _tell_of_the_dead(self) -> None:
        """A run that died together with an earlier daemon has not been told of."""
        if (dead := await self._ledger.dead()) is None:
            return
        ended = badly(
            "failed",
            1,
            "the daemon, or the machine, died during this run",
            host=self._config.content.host,
            run=dead.run,
            started=dead.started,
            finished=self._clock.now(),
        )
        _log_end(ended)
        await self._conclude(ended)

    async def _attempted(self) -> Ended:
        """One run, to whatever end."""
        try:
            self._attempt = await self._runner.start(self._config, self._follow)
            if self._stopping:
                self._attempt.stop()
            return await self._attempt.end()
        except (OSError, SysbackupError) as exc:
            return self._never(f"the run could not be started: {exc}", outcome="failed")
        finally:
            self._attempt = None

    def _tell(self, telling: Coroutine[None, None, None]) -> None:
        task = self._group.create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _follow(self, message: Began | Progress) -> None:
        if self._current is None:
            return
        before = self._current
        if isinstance(message, Began):
            self._current = Current(
                started=message.started, run=message.run, promise=message.promise, progress=before.progress
            )
            self._tell(self._listener.began(message))
            self._tell(self._ledger.begun(self._current))
        else:
            self._current = Current(started=before.started, run=before.run, promise=before.promise, progress=message)
        self._publish()

    async def _beat(self) -> None:
        """Tell the watchdog that the loop turns, twice as often as it asks for."""
        while self._notify.watchdog is not None:
            self._notify.alive()
            await asyncio.sleep(self._notify.watchdog / 2)

    def _run_name(self) -> str | None:
        return self._current.run if self._current else None

    def _never(self, reason: str, outcome: str = "stopped") -> Ended:
        now: datetime = self._clock.now()
        return badly(outcome, 1, reason, host=self._config.content.host, run=None, started=now, finished=now)

    def _publish(self) -> None:
        """Let people see this moment, in the status file and in systemctl's."""
        status = self.status()
        self._notify.status(sentence(status, status.written))
        try:
            statuses.write(statuses.status_path(self._config), status)
        except OSError as exc:
            if not self._unwritable:
                path = shown(bytes(statuses.status_path(self._config)))
                log.error("status.unwritable", path=path, reason=exc.strerror)
            self._unwritable = True
        else:
            self._unwritable = False


def _log_end(ended: Ended) -> None:
    """The canonical line of a run, at the level that a reader of the journal looks for."""
    level = {"complete": "info", "incomplete": "warning"}.get(ended.outcome, "error")
    getattr(log, level)("run.ended", run=ended.run, outcome=ended.outcome, reason=ended.reason, status=ended.exit_code)
