"""A process of our own for one long piece of work: told by a line what to do, it answers in lines."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import ExitStack

from sysbackup.programs.children import FOR_GOOD, Child
from sysbackup.programs.own_python import own_python
from sysbackup.programs.pipes import Inlet, Outlet, open_pipe
from sysbackup.programs.starting import start

# What systemd says to the main process, and to no other (sd_notify(3), sd_listen_fds(3)).
_MAIN_ALONE = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"}
)

HELD = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that such a process gets only once it lets them through: until it can obey them, they would kill it."""

_CHUNK = 1 << 16
_LINE_AT_MOST = 16 << 20


class Worker:
    """One such process, made by `start_worker`. Whoever has one must `release` it."""

    def __init__(self, child: Child, inlet: Inlet, outlet: Outlet) -> None:
        self._child = child
        self._inlet = inlet
        self._outlet = outlet

    async def tell(self, line: bytes) -> None:
        """Say something to it, if it still listens."""
        await self._outlet.write(line)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """What it says, line by line, until it has ended or closed its output."""
        rest = b""
        while chunk := await self._inlet.read(_CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
            if len(rest) > _LINE_AT_MOST:
                self.signal(signal.SIGKILL)
                return

    async def status(self) -> int:
        """Wait for its end: its exit status, or the negative number of the signal that killed it."""
        await asyncio.shield(self._child.gone)
        return self._child.status or 0

    def signal(self, number: signal.Signals) -> None:
        """
        Send it a signal; KILL also reaches what it has started without a session of its own.

        No other does: it is for the process itself to decide what is to end.
        """
        self._child.signal(number, alone=number is not signal.SIGKILL)

    def release(self) -> None:
        """Kill it if it has not ended, and close the pipes."""
        self._inlet.close()
        self._outlet.close()
        self._child.release()


async def start_worker(work: str, order: bytes) -> Worker:
    """
    Start a process and hand it its order, one line.

    `work` is `module:function`, called without arguments there: the order is on
    its standard input, which stays open for as long as we live, and what it
    writes to standard output comes out of `lines`. Standard error, the log, is
    ours. `HELD` signals wait until it unblocks them. OSError where it cannot be
    started.
    """
    # All of our environment, with the credentials: it is ourselves.
    environ = {name: value for name, value in os.environ.items() if name not in _MAIN_ALONE and name != FOR_GOOD}
    with ExitStack() as theirs, ExitStack() as ours:
        order_end, writing = open_pipe()
        theirs.callback(os.close, order_end)
        ours.callback(os.close, writing)
        reading, answer_end = open_pipe()
        theirs.callback(os.close, answer_end)
        ours.callback(os.close, reading)
        child = await start(own_python(work), (order_end, answer_end, None), environ=environ, held=HELD)
        ours.pop_all()
    worker = Worker(child, Inlet(reading, lambda: None), Outlet(writing, child.gone))
    try:
        await worker.tell(order)
    except BaseException:
        worker.release()
        raise
    return worker
