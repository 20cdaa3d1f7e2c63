"""
What a program leaves behind that holds its pipes, and how that is ended.

It may lead a session of its own (setsid(1)), and so be out of a group's reach,
and it may have become anybody's child. But who holds the writing end of a pipe
that we made for that program, and was born after the program was started, has
it from the program. Older processes may have been handed it (a service manager,
a terminal's server): these are let alone.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress

from sysbackup.programs.children import Child
from sysbackup.programs.pipes import Inlet
from sysbackup.programs.process_table import look_up

_LOOK_EVERY = 0.05


async def end_left(child: Child, inlets: Sequence[Inlet], since: int, grace: float) -> bool:
    """
    End the child's group, and all that hold these pipes and were born at `since` (`children.moment`) or later.

    TERM, and KILL `grace` seconds later. Returns whether nobody holds them any
    more. What they wrote is still in the pipes, for whoever reads.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = loop.time() + grace
        told: set[tuple[int, int]] = set()
        child.signal(number)
        while held := {inlet.pipe for inlet in inlets if inlet.held()}:
            told |= await asyncio.to_thread(_signal, held, since, number, told)
            if loop.time() >= until:
                break
            await asyncio.sleep(_LOOK_EVERY)
        else:
            return True
    return not any(inlet.held() for inlet in inlets)


def _signal(pipes: set[int], since: int, number: signal.Signals, told: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Signal the holders that have not been `told`; who they were."""
    found = set()
    for holder in _holders(pipes, since):
        if holder in told:
            continue
        with suppress(OSError):  # it has ended, or is another user's (sudo)
            handle = os.pidfd_open(holder[0])
            try:
                # Looked at again now that the handle holds on to it: its number may have become a stranger's.
                now = look_up(holder[0])
                if now is not None and (now.number, now.born) == holder and _holds(now.number, pipes):
                    signal.pidfd_send_signal(handle, number)
                    found.add(holder)
            finally:
                os.close(handle)
    return found


def _holders(pipes: set[int], since: int) -> Iterator[tuple[int, int]]:
    """Who has them open for writing: number and birth."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            found = look_up(int(name))
            if found is not None and found.born >= since and _holds(found.number, pipes):
                yield found.number, found.born


def _holds(number: int, pipes: set[int]) -> bool:
    """Whether it has the writing end of one of these pipes; False where we may not know."""
    names = {f"pipe:[{pipe}]" for pipe in pipes}
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{number}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{number}/fd/{descriptor}") in names and _writes(number, descriptor):
                    return True
    return False


def _writes(number: int, descriptor: str) -> bool:
    with open(f"/proc/{number}/fdinfo/{descriptor}", "rb") as file:
        flags = next((line.split()[1] for line in file if line.startswith(b"flags:")), b"0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
