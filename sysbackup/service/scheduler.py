"""
The daemon: waits, runs, waits.

One loop decides what happens next, from what others have asked for meanwhile:
triggers, a new configuration, the timetable, an end. Nothing starts a run but
that loop, and it looks for a stop before it does, whatever has happened.
"""

import asyncio
import os
from collections.abc import Callable

import structlog

from sysbackup.config.sections import Config
from sysbackup.errors import SysbackupError
from sysbackup.formats.run_result import Outcome, RunResult
from sysbackup.model import Clock, shown
from sysbackup.service import demand, history, one_run
from sysbackup.service import status_file as statuses
from sysbackup.service.attempts import Attempt, Runner
from sysbackup.service.chronicle import Chronicle, Listener, log_end
from sysbackup.service.demand import Demand
from sysbackup.service.history import Past
from sysbackup.service.in_force import InForce
from sysbackup.service.messages import Began, Progress
from sysbackup.service.notify import Notify
from sysbackup.service.status_file import Current, Status
from sysbackup.service.status_text import sentence

log = structlog.get_logger()

KILL_AFTER = 6.5
"""
Seconds that a run gets to clean up when the daemon is stopped.

Together with what hooks get then (`chronicle.TELL_WITHIN`) they stay below the 10 s within which it must have ended.
"""

STILL_THERE = 60.0
"""Seconds after which a daemon that waits says so again: one that is silent for longer hangs."""


class Scheduler:
    """
    `serve` is its life. All other methods return at once, and are for the event loop's own thread.

    `load` reads the configuration (`ConfigError`); `past` is what was before it,
    `conf` the `status_file.fingerprint` of the file, taken before it was read.
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
        self._runner = runner
        self._listener = listener
        self._clock = clock
        self._notify = notify
        self._since = clock.now()
        self._force = InForce(config, load, conf, past.last.finished if past.last else None, self._since)
        self._group = asyncio.TaskGroup()
        self._chronicle = Chronicle(config, listener, past, clock, self._group)
        self._demand = Demand()
        self._wake = asyncio.Event()
        self._stopping = False
        self._attempt: Attempt | None = None
        self._current: Current | None = None
        self._unwritable = False

    # ---- what others ask for

    def trigger(self, who: str) -> "asyncio.Future[RunResult]":
        """
        Ask for a run that begins from now on; the answer is how it ended.

        During a run that is one more after it, however often it is asked for.
        """
        future = self._demand.answer()
        if self._stopping:
            future.set_result(self._never("the daemon is being stopped"))
        self.rouse(who)
        return future

    def rouse(self, who: str) -> None:
        """The same for who needs no answer."""
        if self._stopping:
            return
        if self._demand.ask(who):
            log.info("run.asked", by=who, after="the one that goes on" if self._current else "nothing: it starts now")
            self._publish()
        self._wake.set()

    def reload(self) -> None:
        """Read the configuration again; with a mistake in it the old one stays. A run that goes on keeps its own."""
        if self._stopping:
            log.info("config.left", reason="the daemon is being stopped")
            return  # READY=1 after STOPPING=1 would be a lie
        self._notify.reloading()
        try:
            if self._force.read_again(self._clock.now()):
                self._listener.configured(self._force.config)
        finally:
            self._notify.ready()
        self._wake.set()
        self._publish()

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
        force, past = self._force, self._chronicle.past
        state = "stopping" if self._stopping else "running" if self._current else "waiting"
        return Status(
            pid=os.getpid(),
            born=statuses.born(os.getpid()) or 0,
            since=self._since,
            written=self._clock.now(),
            directory=shown(bytes(force.config.directory)),
            state=state,
            asked=bool(self._demand) and not self._stopping,
            current=self._current,
            last=past.last,
            last_complete=past.complete,
            last_stored=past.stored,
            next=None if force.timetable is None or self._stopping else force.timetable.next,
            refused=force.refused,
            stale_after=force.config.daemon.stale_after,
            conf=force.conf,
        )

    # ---- its life

    async def serve(self) -> None:
        """Wait and run until stopped. What can go wrong with runs is told, and never ends it."""
        self._listener.configured(self._force.config)
        async with self._group:
            beating = self._group.create_task(self._beat())
            try:
                self._publish()
                self._notify.ready()
                if await self._chronicle.tell_of_the_dead():
                    self._pass_over()
                while (why := await self._wanted_or_due()) is not None:
                    await self._run(why)
            finally:
                self._demand.refuse(self._never("the daemon was stopped before the run began"))
                await self._chronicle.close()
                beating.cancel()
        await self._listener.close()
        self._publish()

    async def _wanted_or_due(self) -> str | None:
        """Wait for a reason to run; None when it is time to end."""
        while not self._stopping:
            self._wake.clear()
            now = self._clock.now()
            if self._force.timetable is not None and self._force.timetable.look(now):
                return "the schedule"
            if (why := self._demand.due(now)) is not None:
                return why
            self._publish()
            await self._sleep()
        return None

    async def _sleep(self) -> None:
        """Until somebody asks for something, or it is time to look at the clock again."""
        now = self._clock.now()
        rest = min(STILL_THERE, self._demand.rest(now))
        if self._force.timetable is not None:
            rest = min(rest, self._force.timetable.rest(now))
        waking = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(rest))
        try:
            await asyncio.wait((waking, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            sleeping.cancel()

    async def _run(self, why: str) -> None:
        waiting = self._demand.take()
        self._current = Current(started=self._clock.now())
        self._publish()
        log.info("run.starting", because=why)
        ended = await self._attempted()
        log_end(ended)
        if not history.no_attempt(ended):
            await self._chronicle.ended(ended)
            self._pass_over()
        # Those who wait for an answer have it; nobody else would hear of a run that found another in progress.
        elif all(future.done() for future in waiting) and not self._stopping:
            self._demand.try_again(why, self._clock.now())
            reason = "another run is in progress; this one is tried again"
            log.warning("run.postponed", seconds=demand.AGAIN, reason=reason)
        self._current = None
        self._publish()
        demand.tell(waiting, ended)

    def _pass_over(self) -> None:
        """What the schedule would have started during a run is left out."""
        timetable = self._force.timetable
        if timetable is not None and (left_out := timetable.pass_over(self._clock.now())):
            log.warning("schedule.skipped", times=left_out, reason="a run was still going on at that time")

    async def _attempted(self) -> RunResult:
        """One run, to whatever end."""
        try:
            self._attempt = await self._runner.start(self._force.config, self._follow)
            if self._stopping:
                self._attempt.stop()
            return await self._attempt.end()
        except (OSError, SysbackupError) as exc:
            return self._never(f"the run could not be started: {exc}", outcome=Outcome.FAILED)
        finally:
            self._attempt = None

    def _follow(self, message: Began | Progress) -> None:
        if self._current is None:
            return
        before = self._current
        if isinstance(message, Began):
            self._current = Current(
                started=message.started, run=message.run, promise=message.promise, progress=before.progress
            )
            # A run that has to begin again has another name then; it is the same run to those who heard of it.
            self._chronicle.began(message, self._current, again=before.run is not None)
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

    def _never(self, reason: str, outcome: Outcome = Outcome.STOPPED) -> RunResult:
        return one_run.never(self._force.config.content.host, self._clock.now(), reason, outcome)

    def _publish(self) -> None:
        """Let people see this moment, in the status file and in systemctl's."""
        status = self.status()
        self._notify.status(sentence(status, status.written))
        try:
            statuses.write(statuses.status_path(self._force.config), status)
        except OSError as exc:
            if not self._unwritable:
                path = shown(bytes(statuses.status_path(self._force.config)))
                log.error("status.unwritable", path=path, reason=exc.strerror)
            self._unwritable = True
        else:
            self._unwritable = False
