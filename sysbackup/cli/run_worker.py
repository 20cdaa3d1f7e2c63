"""The process that makes one run for the daemon: started by `sysbackup.cli.daemon`, see `service.attempts`."""

import asyncio
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

import structlog

from sysbackup import logs
from sysbackup.api.saver import Saver
from sysbackup.cli import process_setup
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.formats.run_result import RunResult, Summary, with_manifest
from sysbackup.model import Clock
from sysbackup.pipeline.tally import Tally
from sysbackup.programs import adopting
from sysbackup.programs.workers import HELD
from sysbackup.service import history, messages
from sysbackup.service.forecast import Yardstick
from sysbackup.service.messages import Message, Progress
from sysbackup.service.one_run import NOT_BEGUN, OneRun
from sysbackup.service.scheduler import KILL_AFTER

log = structlog.get_logger()

_EVERY = 1.0  # seconds between two words on how far it is

_REAP_EVERY = 5  # such words: programs may leave very many processes behind


def main() -> None:
    """Read a configuration from standard input, make one backup, say on standard output how it goes."""
    # Whoever signals the whole control group means the daemon. Not ignored but let pass: that would be inherited.
    for number in HELD:
        signal.signal(number, _let_pass)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    logs.configure(os.environ.get("SYSBACKUP_LOG_LEVEL", "info"))
    order = sys.stdin.buffer.readline()
    if not order.endswith(b"\n"):
        sys.exit(1)  # the daemon is gone before it could say what to do
    config = messages.read_config(order)
    with suppress(OSError):
        adopting.adopt()  # ends with us, or with the daemon: it comes after us
    voice = _Voice(history.yardstick(config))
    ended = _ended(config, voice, SystemClock())
    voice.say_over(ended)
    if voice.orphaned:
        adopting.end_adopted(since=0)
    sys.exit(ended.exit_code)


def _let_pass(*_: object) -> None:
    """A signal that is not for us."""


class _Voice:
    """Our word to the daemon, on a descriptor of its own: a stray print goes to the log."""

    def __init__(self, last: Yardstick | None) -> None:
        self._last = last
        self._fd = os.dup(1)
        os.dup2(2, 1)
        self._over = False
        self.tally: Tally | None = None
        self._beginnings = 0
        self.progress: Callable[[], Progress] | None = None
        self.orphaned = False

    def watch(self, tally: Tally) -> None:
        """Follow these counts."""
        self.tally = tally
        self.progress = messages.following(tally, self._last)
        self.say_how_far()

    def say_how_far(self) -> None:
        """Say what the run is called now, where that is news, and how far it is."""
        if self.tally is None or self.progress is None:
            return
        if self._beginnings != self.tally.beginnings:
            self._beginnings = self.tally.beginnings
            self.say(messages.began(self.tally))
        else:
            self.say(self.progress())

    def say(self, message: Message) -> None:
        """Say it, as long as anybody listens."""
        with suppress(BrokenPipeError):
            data = messages.write(message)
            while data:
                data = data[os.write(self._fd, data) :]

    def say_over(self, ended: RunResult) -> None:
        """Say how it ended; only the first word on that counts."""
        if not self._over:
            self._over = True
            self.say(messages.Over(ended))


def _ended(config: Config, voice: _Voice, clock: Clock) -> RunResult:
    one = OneRun(config.content.host, clock, by_daemon=True)
    # Who tells us to stop from its end on is too late, and must hear how it ended all the same.
    made = one.make(_attempt(config, voice, one), afterwards=_let_pass)
    if made.bug is not None:
        traceback.print_exception(made.bug)  # without local variables, which may hold credentials
    return made.result


async def _attempt(config: Config, voice: _Voice, one: OneRun) -> Summary:
    process_setup.prepare()
    loop = asyncio.get_running_loop()
    # The daemon never writes again: what can be read is the end, which means that the daemon is gone.
    loop.add_reader(0, _orphaned, voice)
    # Python's own, not the loop's, which would leave a moment in the end in which it kills us.
    signal.signal(signal.SIGUSR2, lambda *_: loop.call_soon_threadsafe(_describe, voice))
    telling = loop.create_task(_tell(voice))

    def watch(tally: Tally) -> None:
        one.watch(tally)
        voice.watch(tally)

    try:
        summary = await Saver.of(config).save(watch=watch)
        # Said here: a signal that comes later finds a run that has ended well.
        voice.say_over(with_manifest(summary))
        return summary
    finally:
        signal.signal(signal.SIGUSR2, _let_pass)
        telling.cancel()
        loop.remove_reader(0)


def _orphaned(voice: _Voice) -> None:
    """The daemon was killed: end what goes on, in the time that it would have given us itself."""
    asyncio.get_running_loop().remove_reader(0)  # an end can be read again and again
    voice.orphaned = True
    log.warning("daemon.gone", reason="it has ended without a word, or was killed: this run stops")
    deadline = threading.Timer(KILL_AFTER, _leave_now)
    deadline.daemon = True
    deadline.start()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave_now() -> None:
    """Without cleaning up, and without leaving programs behind."""
    try:
        adopting.end_children()
    finally:
        os._exit(1)


async def _tell(voice: _Voice) -> None:
    for turn in itertools.count(1):
        await asyncio.sleep(_EVERY)
        voice.say_how_far()
        if turn % _REAP_EVERY == 0:
            await asyncio.to_thread(adopting.reap_adopted)


def _describe(voice: _Voice) -> None:
    tally = voice.tally
    if tally is None or voice.progress is None:
        log.info("run.described", stage=NOT_BEGUN)
        return
    progress = voice.progress()
    log.info(
        "run.described",
        run=tally.run,
        stage=tally.stage,
        percent=progress.percent,
        seconds_left=progress.seconds_left,
        current=tally.current,
        files=tally.files,
        bytes_read=tally.bytes_read,
        objects=tally.objects,
        bytes_stored=tally.bytes_stored,
        snapshots=tally.snapshots,
        problems=tally.problems,
        tasks=sorted(task.get_name() for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")),
    )
