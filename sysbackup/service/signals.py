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
from concurrent.futures import Executor
from contextlib import contextmanager
from types import FrameType

import structlog

from sysbackup.programs import adopting
from sysbackup.service.chronicle import TELL_WITHIN
from sysbackup.service.scheduler import KILL_AFTER, Scheduler

log = structlog.get_logger()

HELD = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
STOPPING = (signal.SIGTERM, signal.SIGINT)

LEAVE_WITHIN = KILL_AFTER + TELL_WITHIN + 0.9
"""Seconds from a stop until the process is gone, whatever hangs; the promise is 10 s."""

THREADS_WITHIN = 0.5
"""Seconds that threads get to end when all else has."""

REAP_AFTER = 1.0
"""Seconds after which what has ended of the adopted is reaped: many at once, where many end."""


class Deadline:
    """
    Ends the process when it is told to stop a second time, or does not end in time after the first.

    To be held around all that the process does: what hangs may be what comes
    last, a thread that is waited for. Signal handlers tell it through a pipe:
    they may come in the middle of anything, and a lock that they wait for may be
    held by what they interrupt.
    """

    def __init__(self) -> None:
        self._listening, self._telling = os.pipe()
        os.set_blocking(self._telling, False)
        self._thread = threading.Thread(target=self._watch, name="stop", daemon=True)
        self._before = {number: signal.getsignal(number) for number in STOPPING}

    def __enter__(self) -> "Deadline":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._telling)
        self._thread.join()
        os.close(self._listening)

    def told(self, number: int, _: FrameType | None = None) -> None:
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


@contextmanager
def obeyed(daemon: Scheduler, deadline: Deadline) -> Iterator[None]:
    """
    Obey signals by what the daemon can do; those that were held arrive now.

    The handlers are Python's own, not the loop's: they run also where the loop
    waits in a system call, for a log that nobody reads, and in the end they are
    replaced without a moment in which SIGUSR1 would kill us.
    """
    loop = asyncio.get_running_loop()
    actions: dict[int, Callable[[], object]] = {
        signal.SIGUSR1: lambda: daemon.rouse("SIGUSR1"),
        signal.SIGUSR2: daemon.describe,
        signal.SIGHUP: daemon.reload,
        signal.SIGTERM: lambda: daemon.stop("SIGTERM"),
        signal.SIGINT: lambda: daemon.stop("SIGINT"),
        signal.SIGCHLD: _Reaping().soon,
    }

    def obey(number: int, _: FrameType | None) -> None:
        if number in STOPPING:
            deadline.told(number)
        loop.call_soon_threadsafe(actions[number])

    before = {number: signal.signal(number, obey) for number in actions}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    try:
        yield
    finally:
        for number, handler in before.items():
            late = signal.SIG_IGN if number in HELD else deadline.told if number in STOPPING else handler
            signal.signal(number, late)


async def wait_for_threads(threads: Executor) -> None:
    """
    Wait a little for threads that still work, `threads` and others; where one hangs, leave at once, with exit status 0.

    For the very end, when all else is given back: the interpreter would wait
    for such a thread, in a file system that does not answer, for ever.
    """
    loop = asyncio.get_running_loop()
    threads.shutdown(wait=False, cancel_futures=True)
    until = loop.time() + THREADS_WITHIN
    # All that the interpreter would wait for.
    while hanging := [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]:
        if loop.time() >= until:
            _leave_now(0, f"{len(hanging)} of its threads hang: a file system does not answer")
        await asyncio.sleep(0.01)


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
        # A thread of its own: a child may end when the loop's threads have been shut down already (wait_for_threads).
        threading.Thread(target=adopting.reap_adopted, name="reap", daemon=True).start()
