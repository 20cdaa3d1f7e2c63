"""
Signals of the daemon: USR1 runs, HUP reads the configuration, USR2 logs what goes on, TERM and INT stop.

They are held from the first line of the program (`sysbackup.__main__`): what
arrives before the daemon is ready waits until it is. Unheld, SIGUSR1 would
kill it (signal(7)).
"""

import asyncio
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from sysbackup.service.daemon import KILL_AFTER, TELL_WITHIN, Daemon
from sysbackup.sources import adopting

log = structlog.get_logger()

HELD = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

LEAVE_WITHIN = KILL_AFTER + TELL_WITHIN + 0.9
"""Seconds from a stop until the process is gone, whatever hangs; the promise is 10 s."""

REAP_AFTER = 1.0
"""Seconds after which what has ended of the adopted is reaped: many at once, where many end."""


@contextmanager
def obeyed(daemon: Daemon) -> Iterator[None]:
    """
    Obey signals by what the daemon can do; those that were held arrive now.

    The handlers are Python's own, not the loop's: they run also where the loop
    waits in a system call, for a log that nobody reads, and in the end they are
    replaced without a moment in which SIGUSR1 would kill us.
    """
    loop = asyncio.get_running_loop()
    actions: dict[int, Callable[[], object]] = {
        signal.SIGUSR1: lambda: daemon.trigger("SIGUSR1"),
        signal.SIGUSR2: daemon.describe,
        signal.SIGHUP: daemon.reload,
        signal.SIGTERM: lambda: daemon.stop("SIGTERM"),
        signal.SIGINT: lambda: daemon.stop("SIGINT"),
        signal.SIGCHLD: _Reaping().soon,
    }

    def obey(number: int, _: FrameType | None) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            guard.told(number)
        loop.call_soon_threadsafe(actions[number])

    with _Guard() as guard:
        before = {number: signal.signal(number, obey) for number in actions}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if number in HELD else handler)


class _Guard:
    """
    A thread that ends the process when it is told to stop a second time, or does not end in time after the first.

    Signal handlers tell it through a pipe: they may come in the middle of
    anything, and a lock that they wait for may be held by what they interrupt.
    """

    def __init__(self) -> None:
        self._listening, self._telling = os.pipe()
        os.set_blocking(self._telling, False)
        self._thread = threading.Thread(target=self._watch, name="stop", daemon=True)

    def __enter__(self) -> "_Guard":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._telling)
        self._thread.join()
        os.close(self._listening)

    def told(self, number: int) -> None:
        """A signal has come that says stop."""
        try:
            os.write(self._telling, bytes([number]))
        except BlockingIOError:
            return  # told some ten thousand times

    def _watch(self) -> None:
        if not os.read(self._listening, 1):
            return
        if not select.select([self._listening], [], [], LEAVE_WITHIN)[0]:
            _leave_now(1, f"it had not ended {LEAVE_WITHIN:.1f} s after it was told to")
        elif again := os.read(self._listening, 1):
            _leave_now(128 + again[0], f"a second signal, {signal.Signals(again[0]).name}")


def _leave_now(status: int, reason: str) -> None:
    """Without cleaning up; a run and its programs are not left behind."""
    try:
        # Said by a thread of its own: the log may be what hangs.
        saying = threading.Thread(target=log.error, args=("daemon.cut_short",), kwargs={"reason": reason}, daemon=True)
        saying.start()
        adopting.end_children()
        saying.join(0.2)
    finally:
        os._exit(status)


class _Reaping:
    """Has the kernel forget what we have adopted and has ended, now and then."""

    def __init__(self) -> None:
        self._waiting = False

    def soon(self) -> None:
        """A child has ended; it may be an adopted one."""
        if not self._waiting:
            self._waiting = True
            asyncio.get_running_loop().call_later(REAP_AFTER, self._reap)

    def _reap(self) -> None:
        self._waiting = False
        asyncio.get_running_loop().run_in_executor(None, adopting.reap_adopted)
