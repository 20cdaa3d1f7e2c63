"""Runs commands and says what they cost: time, processor, memory."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INCOMPLETE = 3
"""What restic and sysbackup exit with when they could not read some of the sources."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command used, its children that it waited for included."""

    wall: float
    cpu: float
    peak_bytes: int
    complete: bool


def measured(argv: Sequence[str], env: Mapping[str, str], log: Path) -> Cost:
    """
    Runs a command to its end, its output going to `log`; `SystemExit` with the log's end if it fails.

    The kernel counts a parent's own peak memory in its child's: keep this process small.
    """
    os.sync()  # what the run before left to be written must not burden this one
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.monotonic() - began
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in (0, INCOMPLETE):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{' '.join(argv)} ended with {code}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, complete=code == 0)


def cpu_of(pid: int) -> float:
    """The processor seconds that a running process has used so far (proc(5))."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def warm(tree: Path) -> tuple[int, int]:
    """Reads everything once, so that no tool pays for the disk. Returns the count of files and bytes."""
    files = total = 0
    buffer = bytearray(1 << 20)
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                files += 1
                with open(path, "rb", buffering=0) as f:
                    while count := f.readinto(buffer):
                        total += count
    return files, total
