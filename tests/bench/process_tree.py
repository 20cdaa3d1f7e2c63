"""
What a process and all below it hold in memory together.

Counted is PSS, the proportional set size (proc(5), smaps_rollup): a page that
several processes have mapped counts in each with its share, so that the sum over
all of them has it once. The sum of what is resident (RSS) has the same page once
for each: a tool whose processes share their buffers, or are forked from one
another, would seem to need several times what the machine gives it.
"""

from contextlib import suppress
from pathlib import Path


def together(pid: int) -> int:
    """Bytes that a process and its descendants hold at this moment; what ends meanwhile counts nothing."""
    return sum(proportional(member) for member in tree(pid))


def tree(pid: int) -> list[int]:
    """A process and its descendants, those of all its threads. What lost its parent is not among them."""
    found = [pid]
    for member in found:
        with suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def proportional(pid: int) -> int:
    """The bytes of one process, what it shares divided by those who share it; 0 once it has ended."""
    try:
        return pss(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:  # ESRCH and ENOENT; EACCES where a program of its has changed its user
        return 0


def pss(rollup: str) -> int:
    """Bytes that a `smaps_rollup` tells; 0 where it tells nothing, as a zombie's."""
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
