"""Runs commands and says what they cost: time, processor, memory."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.process_tree import together

INCOMPLETE = 3
"""What restic and sysbackup exit with when they could not read some of the sources."""

_SAMPLED_EVERY = 100
"""Milliseconds between two looks at memory. Each look stops the looked-at for as long as its pages are counted."""


@dataclass(frozen=True, slots=True)
class Cost:
    """
    What one command used.

    `cpu` is that of all its processes that were waited for, `parent_cpu` that of the command's own process with its
    threads, in processor seconds. `peak_bytes` is the most that all of them held together, as far as looks at it
    every tenth of a second show (see `process_tree`).
    """

    wall: float
    cpu: float
    parent_cpu: float
    peak_bytes: int
    complete: bool


def measured(argv: Sequence[str], env: Mapping[str, str], log: Path) -> Cost:
    """Runs a command to its end, its output going to `log`; `SystemExit` with the log's end if it fails."""
    os.sync()  # what the run before left to be written must not burden this one
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            peak = _watched(process.pid)
            wall = time.monotonic() - began
            parent_cpu = cpu_of(process.pid)  # it has ended, and is there until it is waited for
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in (0, INCOMPLETE):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{' '.join(argv)} ended with {code}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, parent_cpu, peak, complete=code == 0)


def _watched(pid: int) -> int:
    """Returns when a child has ended, without waiting for it: the most that it and its own were seen to hold."""
    peak = 0
    ended = select.poll()
    descriptor = os.pidfd_open(pid)
    try:
        ended.register(descriptor, select.POLLIN)
        while not ended.poll(_SAMPLED_EVERY):
            peak = max(peak, together(pid))
    finally:
        os.close(descriptor)
    return peak


def cpu_of(pid: int) -> float:
    """The processor seconds that a process has used so far, its children's not among them (proc(5))."""
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
