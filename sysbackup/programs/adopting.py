"""
Orphans: what a process of ours leaves behind when it is killed becomes our child, and is ended.

Its programs have sessions of their own, so no signal to its group reaches
them. Under systemd the control group would; elsewhere nobody else does it.

Not all orphans are rubbish. A snapshotter may have started a database server
again where no service manager does that, and a hook may have put something
into the background: what was there before the work began, what belongs to a
program of ours that still runs, and what has a hook's environment
(`children.FOR_GOOD`), is let alone. What a hook starts without its environment
(sudo) during a run that is killed cannot be told from what that run has left.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress

from sysbackup.programs.children import FOR_GOOD, known, moment, spawning, starts
from sysbackup.programs.process_table import Process, look_up

__all__ = ["adopt", "end_adopted", "end_children", "moment", "reap_adopted"]

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

# For how long what was killed is waited for: only what hangs in the kernel takes longer.
_WITHIN = 0.5
# The same where somebody has time: on a busy machine also what is killed waits for its turn to die.
_AMPLY = 1.5
_LOOK_EVERY = 0.01


def adopt() -> None:
    """From now on what our descendants leave behind becomes our child (prctl(2)). OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def end_adopted(since: int) -> int:
    """
    Kill what we have adopted that was born at `since` or later, and what that leaves behind in turn.

    Returns how many processes that were. Blocks for up to a second and a half: the
    orphans of one that was killed come to us only when it is gone.
    """

    def find() -> list[Process]:
        adopted = (p for p in _adopted() if p.born >= since and not {p.group, p.session} & known)
        return [p for p in adopted if p.over or not _for_good(p.number)]

    return _end(find, spawning, _AMPLY)


def reap_adopted() -> None:
    """Let the kernel forget those of the adopted that have ended."""
    with spawning:
        _reap()


def end_children() -> None:
    """Kill all our children, also those that we have started ourselves, and what they leave behind: our last act."""
    # It stays locked, and nobody starts one any more.
    spawning.acquire(timeout=_WITHIN / 2)
    _end(lambda: list(_children()), nullcontext(), _WITHIN)


def _end(find: "Callable[[], list[Process]]", lock: AbstractContextManager[object], within: float) -> int:
    """Kill whom `find` finds, until it finds nobody; `lock` keeps others from reaping them meanwhile."""
    ours = os.getpgrp()
    killed: set[int] = set()
    over: set[int] = set()
    quiet = 0
    deadline = time.monotonic() + within
    # Twice: one that dies while we look, and is reaped, may have children that we had looked at before.
    while quiet < 2 and time.monotonic() < deadline:
        with lock:
            found = find()
            for process in found:
                if not process.over:
                    _kill(process, ours)
            if lock is spawning:
                _reap()
        alive = {process.number for process in found if not process.over}
        lately = {process.number for process in found if process.over} - over
        quiet = 0 if alive or lately else quiet + 1
        killed |= alive
        over |= lately
        time.sleep(_LOOK_EVERY)
    return len(killed)


def _kill(process: Process, ours: int) -> None:
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


def _adopted() -> list[Process]:
    """
    Our children that we have not started ourselves, to be called with `spawning` held.

    What is in our session was started by a library (credentials may come from a
    program): whoever started it waits for it. Programs of ours lead sessions of their own.

    A child that is being started is not known yet. Until its exec(2) is over,
    which may take as long as a file system hangs, it has our memory, and so our
    command line. Where fewer such children are seen than starts go on, some of
    the others that were born since may be ours: they are left for the next time.
    """
    session = os.getsid(0)
    found = [p for p in _children() if p.number not in known and p.session != session]
    if not starts:
        return found
    first = min(starts.values())
    ours = _read("self", "cmdline")
    beginning = {p.number for p in found if p.born >= first and _read(str(p.number), "cmdline") == ours}
    certain = len(beginning) == len(starts)
    return [p for p in found if p.number not in beginning and (certain or p.born < first)]


def _for_good(number: int) -> bool:
    """Whether it has a hook's environment."""
    return b"\0" + os.fsencode(FOR_GOOD) + b"=" in b"\0" + _read(str(number), "environ")


def _read(process: str, what: str) -> bytes:
    """A file of proc(5); nothing where the process is gone, or we may not."""
    with suppress(OSError), open(f"/proc/{process}/{what}", "rb") as file:
        return file.read()
    return b""


def _children() -> Iterator[Process]:
    """Our children, those that have ended too."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := look_up(int(name))) is not None and found.parent == os.getpid():
            yield found
