"""`sysbackup run`: one backup now."""

import asyncio
import os
import signal
from contextlib import nullcontext

import click
import structlog

from sysbackup.api.saver import Saver
from sysbackup.cli import process_setup, streams
from sysbackup.cli.display import ProgressDisplay, show_summary
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import Terminal, put_json
from sysbackup.concurrency.event_loop import STOPPING, Stopped, run
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.errors import SpoolError
from sysbackup.formats.run_result import RunResult, Summary, printed
from sysbackup.model import Clock
from sysbackup.pipeline.tally import Tally
from sysbackup.service import history, messages
from sysbackup.service.observers import Telling
from sysbackup.service.one_run import OneRun

log = structlog.get_logger()

TELL_STOPPED_WITHIN = 10.0
"""Seconds that hooks get for a run that was stopped by a signal: somebody waits for us to end."""


@click.command("run")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--rescan", is_flag=True, help="Read every file, also those that look unchanged.")
@pass_invocation
def command(invocation: Invocation, as_json: bool, rescan: bool) -> int:
    """
    Make one backup now.

    Runs all pickers and snapshotters, stores what is new, and last of all the
    manifest. Exit status 0: complete. 3: the manifest is stored, some sources
    had problems. Any other: there is no manifest of this run; what it had
    stored stays locked and serves the next one.

    The history, the metrics' textfile and the hooks hear of it as they do of
    the daemon's runs; not where another run is in progress or the configuration
    has mistakes.
    """
    process_setup.prepare()
    streams.done_anyway()
    config = invocation.config()
    errors = Terminal(stderr=True)
    progress = ProgressDisplay(errors)
    attempt = _ToldRun(config, progress, SystemClock())
    with progress.live(invocation.log_level) if errors.is_terminal else nullcontext():
        summary = attempt.make(rescan=rescan)
    if as_json:
        put_json(printed(summary))
    else:
        show_summary(Terminal(), summary)
    return summary.exit_code


class _ToldRun:
    """A run, and all who hear of it. Whatever goes wrong with telling them changes nothing about the run."""

    def __init__(self, config: Config, progress: ProgressDisplay, clock: Clock) -> None:
        self._config = config
        self._progress = progress
        self._clock = clock
        self._run = OneRun(config.content.host, clock, by_daemon=False)
        self._last = history.yardstick(config)
        self._telling: set[asyncio.Task[None]] = set()
        self._told_late = False

    def make(self, *, rescan: bool) -> Summary:
        """Make it and tell how it ended; what ended it without a manifest is raised then."""
        before = {number: signal.getsignal(number) for number in STOPPING}
        try:
            made = self._run.make(self._back_up(rescan=rescan), self._too_late)
            if not history.no_attempt(made.result):  # else the run that goes on tells how that one ends
                self._tell(made.result, within=TELL_STOPPED_WITHIN if isinstance(made.error, Stopped) else None)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if made.error is not None:
            raise made.error
        assert made.result.summary is not None
        return made.result.summary

    async def _back_up(self, *, rescan: bool) -> Summary:
        telling = Telling(single=True)
        telling.configured(self._config)

        def watch(tally: Tally) -> None:
            self._run.watch(tally)
            self._progress.watch(messages.following(tally, self._last))
            self._telling.add(asyncio.create_task(telling.began(messages.began(tally)), name="hooks"))

        try:
            return await Saver.of(self._config).save(rescan=rescan, watch=watch)
        except asyncio.CancelledError:
            for task in self._telling:
                task.cancel()
            raise
        finally:
            await self._told_of_start()

    def _too_late(self, number: int, _: object) -> None:
        """A signal after the run's end: how it ended is told, but nobody waits for long. A second one ends us."""
        if self._told_late:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._told_late = True

    async def _told_of_start(self) -> None:
        """The end is told after the start. A signal ends the telling, not what has ended well meanwhile."""
        while pending := [task for task in self._telling if not task.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError:
                for task in pending:
                    task.cancel()

    def _tell(self, ended: RunResult, within: float | None = None) -> None:
        try:
            history.remember(self._config, ended)
        except SpoolError as exc:
            log.error("history.unwritable", reason=str(exc))
        try:
            run(self._tell_others(ended, TELL_STOPPED_WITHIN if self._told_late else within), self._too_late)
        except Stopped as stopped:
            log.warning("telling.cut_short", reason=str(stopped))
        except Exception:  # how the run ended stands, and is what our exit status says
            log.exception("telling.failed")

    async def _tell_others(self, ended: RunResult, within: float | None) -> None:
        telling = Telling(single=True)
        telling.configured(self._config)
        try:
            async with asyncio.timeout(within):
                await telling.ended(ended)
        except TimeoutError:
            log.warning("telling.cut_short", reason="the run was stopped: its hooks may not take long")
        finally:
            await telling.close()
