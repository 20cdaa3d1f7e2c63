"""Processes as the kernel lists them (proc(5): stat)."""

from contextlib import suppress
from typing import NamedTuple


class Process(NamedTuple):
    """One process, of that `number`; `born`, as `children.moment` counts, tells it from others that had it before."""

    number: int
    state: str
    parent: int
    group: int
    session: int
    threads: int
    born: int

    @property
    def dead(self) -> bool:
        """It has ended, and perhaps waits to be reaped."""
        return self.state in "ZX"

    @property
    def over(self) -> bool:
        """It is dead, with all its threads: as long as some of these end, so long it has its children."""
        return self.dead and self.threads <= 1


def look_up(number: int) -> Process | None:
    """What lives, or is dead and not reaped yet, under that number; None where nothing does."""
    with suppress(OSError), open(f"/proc/{number}/stat", "rb") as file:
        # The second field is the command's name in brackets, and may hold anything.
        fields = file.read().rpartition(b")")[2].split()
        parent, group, session, threads, born = (int(fields[n]) for n in (1, 2, 3, 17, 19))
        return Process(number, fields[0].decode(), parent, group, session, threads, born)
    return None
