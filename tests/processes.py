"""The processes of a test."""

import os
from contextlib import suppress
from pathlib import Path


def children() -> set[int]:
    """This process's children, zombies too, whichever of its threads started them (proc(5): stat's fourth field)."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == os.getpid():
                    found.add(int(name))
    return found


def command_line(pid: int) -> bytes:
    """What a process was started with; nothing where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
