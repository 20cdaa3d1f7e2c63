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


def belonging(base: Path) -> dict[int, bytes]:
    """The living processes that were started with a path beneath `base` in their environment, and their commands."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if bytes(base) + b"/" in Path(f"/proc/{name}/environ").read_bytes():
                    found[int(name)] = command_line(int(name))
    return found


def zombies(parent: int) -> set[int]:
    """The children of a process that have ended and that it has not reaped."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                state, ppid = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and int(ppid) == parent:
                    found.add(int(name))
    return found
