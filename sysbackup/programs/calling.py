"""Calling hooks: programs that are told something, and say only whether they ended well."""

import asyncio
import os
import signal
from contextlib import ExitStack
from functools import partial

from sysbackup.config.units import duration_text
from sysbackup.programs.children import FOR_GOOD, Child, environment, moment
from sysbackup.programs.discovery import Program
from sysbackup.programs.endings import UnfitError, check_fit, ended_badly, unstarted, with_last_words
from sysbackup.programs.leftovers import end_left
from sysbackup.programs.pipes import Inlet, Outlet, open_pipe
from sysbackup.programs.running import LEAVING_GRACE
from sysbackup.programs.starting import start
from sysbackup.programs.stderr import StandardError

LINGER = 5.0
"""Seconds that what a hook left behind may keep its output open."""


async def call(program: Program, argument: bytes, data: bytes, limit: float) -> str | None:
    """
    Run a hook with one argument and `data` on its standard input; None where it ended well, else why it did not.

    Its session, working directory and environment are those of `running`; what
    it says goes to the log. It need not read its input. After `limit` seconds
    it is ended with all that it started, and so is what keeps its output open
    for longer than it lives. When this is cancelled all of it is killed at once.
    """
    until, since = asyncio.get_running_loop().time() + limit, moment()
    try:
        async with asyncio.timeout_at(until):
            started = await _start_hook(program.path, argument)
    except TimeoutError:
        return f"could not be started within {duration_text(limit)}: does a file system not answer it?"
    except (OSError, UnfitError) as error:
        return unstarted(error)
    return await _attended(program, started, data, until, limit, since)


async def _attended(
    program: Program, started: tuple[Child, Outlet, Inlet], data: bytes, until: float, limit: float, since: int
) -> str | None:
    child, outlet, inlet = started
    left = False
    stderr = StandardError(program.name)
    inlet.drain(stderr.feed)
    why: str | None = None
    try:
        async with asyncio.timeout_at(until):
            await outlet.write(data)
            outlet.close()
            await asyncio.shield(child.gone)
            await asyncio.wait((inlet.ended,), timeout=LINGER)
        if child.status:
            why = ended_badly(child.status)
        elif not inlet.ended.done():
            left = True
            why = "ended, but something that it had started kept its output open"
    except TimeoutError:
        why = f"had not ended after {duration_text(limit)} and was stopped"
    finally:
        outlet.close()
        try:
            if left:
                gone = await end_left(child, (inlet,), since, LEAVING_GRACE)
                why = f"{why} and " + ("was ended" if gone else "could not be ended")
            elif why is not None:
                await child.end(LEAVING_GRACE, (inlet.ended,))
        finally:
            if not inlet.ended.done():
                child.signal(signal.SIGKILL)
            child.release()
            inlet.close()
            stderr.finish()
    return why if why is None else with_last_words(why, stderr)


async def _start_hook(path: bytes, argument: bytes) -> tuple[Child, Outlet, Inlet]:
    """Start it, with our ends of its input and of its output and errors, which are one pipe."""
    with ExitStack() as theirs, ExitStack() as ours:
        reading, writing = open_pipe()
        theirs.callback(os.close, reading)
        ours.callback(os.close, writing)
        listening, saying = open_pipe()
        theirs.callback(os.close, saying)
        ours.callback(os.close, listening)
        child = await start(
            [path, argument],
            (reading, saying, saying),
            environ={**environment(), FOR_GOOD: os.fsdecode(os.path.basename(path))},
            first=partial(check_fit, path),
        )
        ours.pop_all()
    return child, Outlet(writing, child.gone), Inlet(listening, lambda: None)
