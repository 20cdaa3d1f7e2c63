"""`sysbackup trigger`: have the daemon make a backup, and wait for it if asked to."""

from contextlib import aclosing, nullcontext, suppress
from pathlib import Path
from time import monotonic
from typing import Protocol

import click

from sysbackup.cli import streams
from sysbackup.cli.display import ProgressDisplay, doing, one_line, show_summary
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import Terminal, put, put_json, say
from sysbackup.concurrency.event_loop import Stopped, run
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.errors import DaemonUnreachable, UsageError
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.run_result import Outcome, RunResult, printed
from sysbackup.model import Clock
from sysbackup.service import client
from sysbackup.service.control import Accepted, Going
from sysbackup.service.messages import Over
from sysbackup.service.status_file import Status, conf_changed, lives, socket_path, status_path
from sysbackup.service.verdict import NOT_RELOADED

LINE_EVERY = 60.0
"""Seconds between two lines on how a run goes, where there is no terminal to show it on."""


@click.command("trigger")
@click.option("--wait", is_flag=True, help="Wait for the run's end, and exit with its status.")
@click.option("--json", "as_json", is_flag=True, help="With --wait: print how it ended as one JSON object.")
@pass_invocation
def command(invocation: Invocation, *, wait: bool, as_json: bool) -> int:
    """
    Have the daemon make a backup.

    It begins at once, or after the run that goes on. With --wait: shows how it
    goes, and has the exit status of `sysbackup run`: 0 complete; 3 the manifest
    is stored, some sources had problems; any other: there is no manifest. To be
    interrupted ends the waiting alone: the run is made. Exit status 69: no
    daemon answers, or it went away before the run had ended.
    """
    streams.done_anyway()
    places = invocation.places()
    if wait:
        with suppress(DaemonUnreachable, LaterFormat):  # told where it is asked
            _warn_of_conf(client.look(status_path(places)))
        return _end(_wait(invocation, socket_path(places)), as_json=as_json)
    if as_json:
        raise UsageError("--json needs --wait: without it there is no end to tell of")
    status = client.rouse(status_path(places))
    _warn_of_conf(status)
    after = ", after the one that goes on" if status.current else ""
    put(f"The daemon (process {status.pid}) is asked for a run{after}. How it goes: sysbackup status")
    return 0


def _warn_of_conf(status: Status | None) -> None:
    """A run by an old configuration is a surprise to whoever has just changed it."""
    if status is not None and lives(status) and conf_changed(status):
        say(f"{status.directory}/conf {NOT_RELOADED}")


def _wait(invocation: Invocation, path: Path) -> RunResult:
    console = Terminal(stderr=True)
    progress = ProgressDisplay(console)
    screen: _Follower = _Live(progress, SystemClock()) if console.is_terminal else _Lines(SystemClock())
    try:
        with progress.live(invocation.log_level) if console.is_terminal else nullcontext():
            return run(_follow(path, screen))
    except Stopped:
        if screen.accepted:
            say("no longer waiting; the run is made all the same: see sysbackup status")
        raise


def _end(ended: RunResult, *, as_json: bool) -> int:
    if as_json:
        put_json(printed(ended))
    elif ended.summary is not None:
        show_summary(Terminal(), ended.summary)
    if ended.summary is None:
        what = f"the run {ended.run}" if ended.run else "the run"
        how = "was stopped" if ended.outcome == Outcome.STOPPED else "failed"
        what_of_it = "its manifest may be stored all the same" if ended.sent_as else "there is no manifest of it"
        say(f"{what} {how}, {what_of_it}: {one_line(ended.reason or 'nobody knows why')}")
    return ended.exit_code


async def _follow(path: Path, screen: "_Follower") -> RunResult:
    async with aclosing(client.ask(path)) as answers:
        async for answer in answers:
            if isinstance(answer, Over):
                return answer.ended
            screen.show(answer)
    raise DaemonUnreachable("the daemon did not say how the run ended")  # `ask` says so itself


class _Follower(Protocol):
    """Shows how it goes; `accepted` once the daemon has said that the run will be made."""

    accepted: bool

    def show(self, answer: Accepted | Going) -> None: ...


class _Live:
    """On a terminal."""

    def __init__(self, progress: ProgressDisplay, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self._began = False
        self.accepted = False

    def show(self, answer: Accepted | Going) -> None:
        if isinstance(answer, Accepted):
            self.accepted = True
        elif answer.current is None:
            self._progress.rest("the run has ended" if self._began else "waiting for the run to begin")
        else:
            passed = (self._clock.now() - answer.current.started).total_seconds()
            self._began = answer.ours
            note = "" if answer.ours else "another run goes on, ours comes after it: "
            progress = answer.current.progress
            self._progress.watch(lambda: progress, passed, note)


class _Lines:
    """In a log: a line now and then."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: str | None = None
        self._at = monotonic()
        self.accepted = False

    def show(self, answer: Accepted | Going) -> None:
        if isinstance(answer, Accepted):
            self.accepted = True
            say("another run goes on; ours comes after it" if answer.later else "a run is asked for, and begins now")
        elif answer.current is not None:
            current = answer.current
            if answer.ours and current.run and current.run != self._said:
                self._said = current.run
                self._at = monotonic()
                say(f"run {current.run} has begun")
            elif monotonic() - self._at >= LINE_EVERY:
                self._at = monotonic()
                passed = (self._clock.now() - current.started).total_seconds()
                say(("" if answer.ours else "the other run: ") + doing(current.progress, passed))
