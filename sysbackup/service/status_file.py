"""
How the daemon is, in a file that is replaced as a whole: whoever reads it sees one moment.

It names its process by number and birth, so that a file left behind by a
daemon that was killed is known for what it is, whoever has that number now.
"""

import hashlib
from pathlib import Path

import msgspec

from sysbackup.config.sections import Config, Daemon
from sysbackup.disk.replacing import replacing
from sysbackup.formats.lines import UNREADABLE, refuse_later
from sysbackup.formats.run_result import Instant, RunResult
from sysbackup.programs.process_table import look_up
from sysbackup.service.messages import Progress

FORMAT = 1


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """The run that goes on; `run` (its working name) and `promise` are None until it has one, or promises nothing."""

    started: Instant
    run: str | None = None
    promise: Instant | None = None
    progress: Progress = Progress()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """
    One moment of a daemon: its process, when, and what it does; all else has a default, as other versions may lack it.

    `format` is that of all in it, the results of runs, too: it is raised with theirs.
    `state` is `waiting`, `running` or `stopping`; `born` the process's start as
    the kernel counts it (proc(5): stat's field 22). `next` is when the daemon
    itself will start a run, None where it waits to be triggered. `asked`: a run
    will follow the one that goes on. `last_complete` and `last_stored` are the
    last runs without any problem, and with a manifest. `refused` says what was
    wrong with a configuration that was not taken. `stale_after` in seconds.
    `conf` is the `fingerprint` of the configuration in force, None where it is not known.
    """

    format: int = FORMAT
    pid: int
    born: int
    since: Instant
    written: Instant
    directory: str = ""
    state: str
    asked: bool = False
    current: Current | None = None
    last: RunResult | None = None
    last_complete: RunResult | None = None
    last_stored: RunResult | None = None
    next: Instant | None = None
    refused: list[str] = []
    stale_after: float = Daemon().stale_after
    conf: str | None = None


def fingerprint(directory: Path) -> str | None:
    """The SHA-256 of what is in the configuration file there, of nothing where there is none; None where unreadable."""
    try:
        data = (directory / "conf").read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError:
        return None
    return hashlib.sha256(data).hexdigest()


def conf_changed(status: Status) -> bool | None:
    """Whether the configuration file is not the one that the daemon works by; None where this user may not know."""
    now = fingerprint(Path(status.directory))
    return None if now is None or status.conf is None else now != status.conf


def status_path(config: Config) -> Path:
    """Where the daemon's status is."""
    return config.runtime / "status.json"


def socket_path(config: Config) -> Path:
    """Where the daemon listens to `sysbackup trigger`."""
    return config.runtime / "control"


def born(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where none of that number lives."""
    found = look_up(pid)
    return None if found is None or found.dead else found.born  # a zombie is dead, though nobody has noticed


def write(path: Path, status: Status) -> None:
    """Replace the file. OSError where that cannot be done."""
    with replacing(path, 0o640) as file:
        file.write(msgspec.json.encode(status) + b"\n")


def read(path: Path) -> Status | None:
    """
    What the last daemon wrote there, whether it still lives or not (`lives`); None where none has, or it is damaged.

    OSError, but for FileNotFoundError, where it may not be read; `LaterFormat` where that was of a later version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    refuse_later(data, FORMAT, str(path))
    try:
        return msgspec.json.decode(data, type=Status)
    except UNREADABLE:
        return None


def lives(status: Status) -> bool:
    """Whether the process that wrote it is still there."""
    return born(status.pid) == status.born
