"""
Orphans: what a process of ours leaves behind when it is killed becomes our child, and is ended.

Its programs have sessions of their own, so no signal to its group reaches
them. Under systemd the control group would; elsewhere nobody else does it.

Not all orphans are rubbish. A snapshotter may have started a database server
again where no service manager does that, and a hook may have put something
into the background: what was there before the work began, and what belongs to
a program of ours that still runs, is let alone.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

from sysbackup.sources.children import known, spawning

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

_TICKS = os.sysconf("SC_CLK_TCK")

# For how long what was killed is waited for: only what hangs in the kernel takes longer.
_WITHIN = 0.5
_LOOK_EVERY = 0.01


def adopt() -> None:
    """From now on what our descendants leave behind becomes our child (prctl(2)). OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def moment() -> int:
    """Now, as the kernel counts when processes were born: in clock ticks since boot (proc(5): stat's field 22)."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


def end_adopted(since: int) -> int:
    """
    Kill what we have adopted that was born at `since` or later, and what that leaves behind in turn.

    Returns how many processes that were. Blocks for up to half a second: the
    orphans of one that was killed come to us only when it is gone.
    """

    def find() -> list[_Process]:
        return [p for p in _adopted() if p.born >= since and not {p.group, p.session} & known]

    return _end(find, spawning)


def reap_adopted() -> None:
    """Let the kernel forget those of the adopted that have ended."""
    with spawning:
        _reap()


def end_children() -> None:
    """Kill all our children, also those that we have started ourselves, and what they leave behind: our last act."""
    # Whoever starts a child at this moment may hang in that; else it stays locked, and nobody starts one.
    spawning.acquire(timeout=_WITHIN / 2)
    _end(lambda: list(_children()), nullcontext())


def _end(find: "Callable[[], list[_Process]]", lock: AbstractContextManager[object]) -> int:
    """Kill whom `find` finds, until it finds nobody; `lock` keeps others from reaping them meanwhile."""
    ours = os.getpgrp()
    killed: set[int] = set()
    over: set[int] = set()
    deadline = time.monotonic() + _WITHIN
    while True:
        with lock:
            found = find()
            for process in found:
                if not process.over:
                    _kill(process, ours)
            if lock is spawning:
                _reap()
        alive = {process.number for process in found if not process.over}
        # One that died while we looked may have children that we had looked at before: they are seen the next time.
        lately = {process.number for process in found if process.over} - over
        if not (alive or lately) or time.monotonic() > deadline:
            return len(killed)
        killed |= alive
        over |= lately
        time.sleep(_LOOK_EVERY)


class _Process(NamedTuple):
    number: int
    state: str
    group: int
    session: int
    born: int

    @property
    def over(self) -> bool:
        """It has ended, and waits to be reaped."""
        return self.state in "ZX"


def _kill(process: _Process, ours: int) -> None:
    # Those that have become another user (sudo) may be out of our reach.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process.number, signal.SIGKILL)
    if process.group != ours:
        # It is not reaped yet: its group's number belongs to nobody else.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.group, signal.SIGKILL)


def _reap() -> None:
    for process in _adopted():
        if process.over:
            with suppress(ChildProcessError):
                os.waitpid(process.number, os.WNOHANG)


def _adopted() -> Iterator[_Process]:
    """
    Our children that we have not started ourselves.

    What is in our session was started by a library (credentials may come from a
    program): whoever started it waits for it. Programs of ours lead sessions of their own.
    """
    session = os.getsid(0)
    return (process for process in _children() if process.number not in known and process.session != session)


def _children() -> Iterator[_Process]:
    """Our children, those that have ended too (proc(5): stat)."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError):
            with open(f"/proc/{name}/stat", "rb") as file:
                # The second field is the command's name in brackets, and may hold anything.
                fields = file.read().rpartition(b")")[2].split()
            if int(fields[1]) == os.getpid():
                yield _Process(int(name), fields[0].decode(), int(fields[2]), int(fields[3]), int(fields[19]))
