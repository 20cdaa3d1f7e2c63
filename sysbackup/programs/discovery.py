"""The programs directories, `pickers.d` and `snapshots.d`: which files in them are run."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sysbackup.errors import ConfigError
from sysbackup.model import shown

# What dpkg, ucf, rpm, pacman, portage, editors and patch leave beside a file, and what people rename it to.
_LEFTOVERS = (
    *(b".dpkg-old", b".dpkg-dist", b".dpkg-new", b".dpkg-tmp", b".dpkg-bak", b".dpkg-remove"),
    *(b".ucf-old", b".ucf-dist", b".ucf-new", b".rpmsave", b".rpmnew", b".rpmorig"),
    *(b".pacnew", b".pacsave", b".pacorig", b".swp", b".swo", b".bak", b".orig", b".rej", b".disabled"),
)


# What tells people about the programs that it lies beside.
_TEXTS = (b".txt", b".md", b".rst", b".adoc")


@dataclass(frozen=True, slots=True)
class Program:
    """One picker or snapshotter: its file's name, and its absolute path in the programs directory."""

    name: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class PassedOver:
    """
    A file that is not run, and why.

    `expected` where nobody will wonder: `.hidden`, `old~`, `x.dpkg-old`, `README`.
    """

    name: bytes
    reason: str
    expected: bool


def find_programs(directory: Path) -> tuple[list[Program], list[PassedOver]]:
    """
    The programs of a directory and the files in it that are not run, both sorted by name.

    A directory that does not exist has neither. `ConfigError` where it cannot be read.
    """
    folder = os.path.abspath(os.fsencode(directory))
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise ConfigError(f"{shown(folder)} cannot be read: {error.strerror}") from error
    programs: list[Program] = []
    passed_over: list[PassedOver] = []
    for name in names:
        path = os.path.join(folder, name)
        if leftover := _leftover(name) or _text(name, path):
            passed_over.append(PassedOver(name, leftover, expected=True))
        elif reason := unsafe(path):
            passed_over.append(PassedOver(name, reason, expected=False))
        else:
            programs.append(Program(name, path))
    return programs, passed_over


def _leftover(name: bytes) -> str | None:
    if name.startswith(b"."):
        return "its name begins with a dot"
    if name.endswith(b"~") or (name.startswith(b"#") and name.endswith(b"#")):
        return "it is an editor's copy"
    for ending in _LEFTOVERS:
        if name.endswith(ending):
            return f"its name ends in {ending.decode()}"
    return None


def _text(name: bytes, path: bytes) -> str | None:
    """
    Why a file is to be read by people and not run; None where it may be a program.

    Its name alone proves nothing: what may be executed is, and a script that
    has lost its x bit must not be lost in silence.
    """
    lower = name.lower()
    if lower != b"readme" and not lower.startswith(b"readme.") and not lower.endswith(_TEXTS):
        return None
    try:
        status = os.stat(path)
        # Not opened before it is known to be a file: a FIFO would hold us up.
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o111:
            return None
        with open(path, "rb", opener=_unblocked) as file:
            return None if file.read(2) == b"#!" else "it is a text, by its name, and not executable"
    except OSError:
        return None


def _unblocked(path: str | bytes, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def unsafe(path: bytes) -> str | None:
    """
    Why a file must not, or cannot, be run; None where nothing speaks against it.

    Whoever may change a file, or point a link elsewhere, decides what we run:
    that may be root and ourselves, and nobody else.
    """
    try:
        itself = os.lstat(path)
        target = os.stat(path)
    except FileNotFoundError:
        return "it is a symbolic link to nothing" if os.path.islink(path) else "it does not exist any more"
    except OSError as error:
        return f"it cannot be examined: {error.strerror}"
    linked = stat.S_ISLNK(itself.st_mode)
    what = "its target" if linked else "it"
    if linked and (stranger := _strange_owner(itself)):
        return f"it is a symbolic link that {stranger}"
    if stranger := _strange_owner(target):
        return f"{what} {stranger}"
    return _unfit(what, target.st_mode)


def _strange_owner(node: os.stat_result) -> str | None:
    if node.st_uid in {0, os.geteuid()}:
        return None
    return f"belongs to user {node.st_uid}, who is neither root nor the user running sysbackup"


def _unfit(what: str, mode: int) -> str | None:
    if stat.S_ISDIR(mode):
        return f"{what} is a directory"
    if not stat.S_ISREG(mode):
        return f"{what} is not a regular file"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everybody" if mode & stat.S_IWOTH else "its group"
        return f"{what} is writable by {who} (chmod go-w)"
    if not mode & 0o111:
        return f"{what} is not executable (chmod +x)"
    return None


def unstartable(path: bytes) -> str | None:
    """Why the kernel will refuse to start a file, as far as its first line tells; else None."""
    try:
        with open(path, "rb") as file:
            head = file.read(256)  # what the kernel looks at: BINPRM_BUF_SIZE
    except OSError:
        return None  # a file may be executable and not readable
    if not head.startswith(b"#!"):
        if b"\0" in head:
            return None
        return "the kernel does not know this kind of file: is the #! line missing, or not the very first?"
    line = head[2:].partition(b"\n")[0]
    interpreter = line.strip(b" \t").replace(b"\t", b" ").partition(b" ")[0]
    if not os.path.exists(interpreter):
        windows = " (its lines end as on Windows: see dos2unix)" if interpreter.endswith(b"\r") else ""
        return f"its first line names {shown(interpreter)}, which does not exist{windows}"
    if not os.access(interpreter, os.X_OK):
        return f"its first line names {shown(interpreter)}, which is not executable"
    return None
