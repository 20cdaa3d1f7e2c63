"""
Child processes, once they are started: watched by the loop, ended as a group, always reaped.

Each child leads a session of its own, so what it starts is in its group. It is
reaped last of all: as long as it is not, the kernel gives its number to nobody
else, and a signal to the group cannot reach a stranger.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

FOR_GOOD = "SYSBACKUP_HOOK"
"""Set for programs that may leave something behind on purpose: see `adopting`."""

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

# Python before 3.11.4 (Debian 12 has 3.11.2) vforks with the interpreter's lock held, which stops all threads until the
# program is executed (CPython's gh-104372), for as long as a file system hangs: there it forks. Python's documentation
# names this switch (subprocess, "Disabling use of vfork() or posix_spawn()").
if sys.version_info < (3, 11, 4):
    subprocess._USE_VFORK = False  # type: ignore[misc]  # noqa: SLF001

spawning = threading.Lock()
"""Held to change `starts` and `known`, and by those who must not see them change; never for long."""

starts: dict[object, int] = {}
"""The starts that go on, and when each began (`moment`): whose child was born since may be one of ours."""

known: set[int] = set()
"""The numbers of our children, until they are reaped: see `adopting`."""


def moment() -> int:
    """Now, as the kernel counts when processes were born: in clock ticks since boot (proc(5): stat's field 22)."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


def environment() -> dict[str, str]:
    """Our environment without what is ours alone."""
    return {name: value for name, value in os.environ.items() if name not in _WITHHELD}


def reap(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of a child, and let the kernel forget it."""
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
            threading.Thread(target=reap, args=(self._process,), name=f"reap-{self._process.pid}", daemon=True).start()
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
