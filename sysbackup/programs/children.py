"""
Child processes: started in a thread, watched by the loop, ended as a group, always reaped.

`subprocess.Popen` in a thread rather than asyncio's own: that one forks the
whole process on the loop's thread under uvloop (70 to 80 ms at 1 GiB), where
Popen uses vfork, but for Python before 3.11.4 (Debian 12 has 3.11.2): there
vfork stops all threads until the program is executed (CPython's gh-104372), for
as long as a file system hangs, so its thread forks.

Each child leads a session of its own, so what it starts is in its group. It is
reaped last of all: as long as it is not, the kernel gives its number to nobody
else, and a signal to the group cannot reach a stranger.
"""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sysbackup.concurrency.waits import settled

FOR_GOOD = "SYSBACKUP_HOOK"
"""Set for programs that may leave something behind on purpose: see `adopting`."""

LATE = 0.3
"""Seconds for which a start that is no longer wanted is waited for: exec(2) waits as long as a file system hangs."""

_TICKS = os.sysconf("SC_CLK_TCK")

# What sysbackup has and its children need not: credentials (a program of the administrator's reaches for
# its own), and systemd's channels to the main process alone (sd_notify(3), sd_listen_fds(3)).
# CREDENTIALS_DIRECTORY stays: a snapshotter's database password may lie there.
_WITHHELD = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "JOURNAL_STREAM",
        FOR_GOOD,
    }
)

# A descriptor of one digit, whatever ours are: dash, Debian's /bin/sh, takes `>&12` for a syntax error. Popen
# sets standard input, output and error alone; so the pipe goes in as the first of them, and a shell moves it.
_MOVE_INPUT = b'exec "$0" 3 3>&0 0</dev/null'

# Python's documentation names this switch (subprocess, "Disabling use of vfork() or posix_spawn()").
if sys.version_info < (3, 11, 4):
    subprocess._USE_VFORK = False  # type: ignore[misc]  # noqa: SLF001

spawning = threading.Lock()
"""Held to change `starts` and `known`, and by those who must not see them change; never for long."""

starts: dict[object, int] = {}
"""The starts that go on, and when each began (`moment`): whose child was born since may be one of ours."""

known: set[int] = set()
"""The numbers of our children, until they are reaped: see `adopting`."""

Streams = tuple[int, int | None, int | None]
"""A child's standard input, output and error: descriptors, or None to inherit ours."""


def moment() -> int:
    """Now, as the kernel counts when processes were born: in clock ticks since boot (proc(5): stat's field 22)."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


def environment() -> dict[str, str]:
    """Our environment without what is ours alone."""
    return {name: value for name, value in os.environ.items() if name not in _WITHHELD}


async def start(
    arguments: Sequence[bytes],
    streams: Streams,
    data: int | None = None,
    environ: Mapping[str, str] | None = None,
    held: Sequence[signal.Signals] = (),
    first: Callable[[], None] | None = None,
) -> "Child":
    """
    Start a program in its own session, in `/`, with default signal handling.

    Where `data` is given, a descriptor open for writing, `arguments` is a
    path alone: the program has that descriptor as its number 3, `3` as its
    argument, and nothing on standard input. The descriptors stay ours to close.
    `environ` is for processes of our own; others have what `environment` gives.
    So is `held`, signals that wait until the process lets them through.
    `first` is called before, where a file system may hang; what it raises comes
    out here. `OSError` where the program cannot be started. When cancelled
    nothing is left; a start that hangs then is left to itself, and what comes
    to life of it is killed.
    """
    if data is not None:
        arguments = [b"/bin/sh", b"-c", _MOVE_INPUT, *arguments]
        streams = (data, *streams[1:])
    starting = _Starting(arguments, streams, environ, held, first)
    # A thread cannot be called back.
    cancelled = await settled(starting.done, patience=lambda: LATE)
    if cancelled is not None:
        starting.leave()
        raise cancelled
    return Child(starting.result())


class _Starting:
    """
    The start of a program, in a thread of its own.

    Not in one of the loop's threads, of which there are few: any number of
    starts may hang. It is a daemon's (`threading`), for which nobody waits.
    """

    def __init__(
        self,
        arguments: Sequence[bytes],
        streams: Streams,
        environ: Mapping[str, str] | None,
        held: Sequence[signal.Signals],
        first: Callable[[], None] | None,
    ) -> None:
        self._arguments = arguments
        self._environ = environment() if environ is None else environ
        self._held = held
        self._first = first
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._error: BaseException | None = None
        self._left = False
        self._handing = threading.Lock()
        self._owned: list[int] = []
        try:
            # Of our own: those of the caller are closed when it has left, and their numbers are given to others.
            self._streams = [self._own(stream) for stream in streams]
            threading.Thread(target=self._run, name="start", daemon=True).start()
        except BaseException as error:
            self._close()
            if isinstance(error, RuntimeError):  # no thread can be had
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise

    def leave(self) -> None:
        """Nobody wants it any more."""
        with self._handing:
            self._left = True
        if self._process is not None:
            Child(self._process).release()

    def result(self) -> "subprocess.Popen[bytes]":
        """The process, once `done`."""
        if self._process is None:
            raise self._error or RuntimeError("it is still being started")
        return self._process

    def _own(self, stream: int | None) -> int | None:
        if stream is None or stream < 0:  # subprocess.DEVNULL
            return stream
        self._owned.append(os.dup(stream))
        return self._owned[-1]

    def _close(self) -> None:
        while self._owned:
            os.close(self._owned.pop())

    def _run(self) -> None:
        process: subprocess.Popen[bytes] | None = None
        try:
            if self._first is not None:
                self._first()
            process = None if self._left else self._spawn()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._error = error
        finally:
            self._close()
        with self._handing:
            if not self._left:
                self._process = process
                process = None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            _reap(process)
        with suppress(RuntimeError):  # the loop is closed: it was left
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        stdin, stdout, stderr = self._streams
        process: subprocess.Popen[bytes] | None = None
        with spawning:
            starts[self] = moment()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._held)  # of this thread alone; a child inherits it
        try:
            process = subprocess.Popen(
                self._arguments,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                close_fds=True,  # neither our descriptors nor the pipes of another child that starts at this moment
                cwd="/",
                env=self._environ,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            with spawning:
                del starts[self]
                if process is not None:
                    known.add(process.pid)
        return process


def _reap(process: "subprocess.Popen[bytes]") -> None:
    process.wait()
    known.discard(process.pid)


class Child:
    """
    A running child. Whoever has one must `release` it.

    `gone` is done when it has ended. `status` is its exit status then, or the
    negative number of the signal that killed it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self._released = False
        self.status: int | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # Linux before 5.3, or a sandbox that forbids it
            threading.Thread(target=self._wait, name=f"wait-{process.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._look)

    def signal(self, number: signal.Signals, *, alone: bool = False) -> None:
        """Send a signal to the child and all that it started, or to the child `alone`."""
        if not self._released:
            # Nobody is there any more, or all who are have become another user (sudo).
            with suppress(ProcessLookupError, PermissionError):
                (os.kill if alone else os.killpg)(self._process.pid, number)

    async def end(self, grace: float, also: "Sequence[asyncio.Future[None]]" = ()) -> None:
        """
        End the child and all that it started.

        TERM; KILL once the child and `also` are done, or have not been for
        `grace` seconds, in which case they are waited for as long again.
        """
        self.signal(signal.SIGTERM)
        _, pending = await asyncio.wait((self.gone, *also), timeout=grace)
        self.signal(signal.SIGKILL)
        if pending:
            await asyncio.wait(pending, timeout=grace)

    def release(self) -> None:
        """Kill the child if it has not ended, and let the kernel forget it. Does not wait."""
        if self._released:
            return
        if not self.gone.done():
            self.signal(signal.SIGKILL)
            self.gone.cancel()
        self._released = True
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._process.poll() is None:
            # Killed this moment, or in a system call that cannot be interrupted: only a thread waits for it.
            threading.Thread(target=_reap, args=(self._process,), name=f"reap-{self._process.pid}", daemon=True).start()
        else:
            known.discard(self._process.pid)

    def _look(self) -> None:
        self._done(os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def _wait(self) -> None:
        try:
            ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # released, and reaped
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._done, ended)

    def _done(self, ended: os.waitid_result | None) -> None:
        if ended is None or self.gone.done():
            return
        if self._pidfd is not None and not self._released:
            self._loop.remove_reader(self._pidfd)
        self.status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self.gone.set_result(None)
