"""
The history: how the runs of this machine ended, a line of JSON for each.

Not in the catalog: that is a cache, set aside when it is damaged or about
another bucket, and just then people want to know when the last backup was.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path

import msgspec
import structlog

from sysbackup.config.sections import Config
from sysbackup.disk.locked_file import held_in_turn
from sysbackup.disk.ownership import leave_to_owner
from sysbackup.disk.replacing import replacing
from sysbackup.errors import BusyError, FormatError, SpoolError
from sysbackup.formats import run_result
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.run_result import Counts, Outcome, RunResult
from sysbackup.service.forecast import Yardstick

log = structlog.get_logger()

KEPT = 1000
"""Runs that are remembered: almost three years of daily ones."""

# Read back from the end: as many lines as are kept, each as long as `brief` lets it be.
_TAIL = 8 << 20

_PROBLEMS = 10
_ROOM = 6 << 10  # bytes, in JSON, of all of them
_WORDS = 1024  # and of one path, or reason: hardly any is longer, and who looks for a file needs the whole of its path
_REASON = 4096  # bytes of why a run failed
_GAP = " … "

_ENOUGH = 16  # runs among which there is a complete one, as a rule

_CREDIBLE = 1 << 62  # files, bytes or seconds: what is more, or less than none, comes of damage


@dataclass(frozen=True, slots=True)
class Past:
    """The last run, the last that was complete, and the last that stored a manifest."""

    last: RunResult | None = None
    complete: RunResult | None = None
    stored: RunResult | None = None

    def after(self, ended: RunResult) -> "Past":
        """The same one run later."""
        return Past(
            ended,
            ended if ended.complete else self.complete,
            ended if ended.stored else self.stored,
        )


def no_attempt(ended: RunResult) -> bool:
    """Whether it found another run in progress: that one tells how backups go."""
    return ended.run is None and ended.exit_code == BusyError.exit_code


def past(runs: Iterable[RunResult]) -> Past:
    """What a history says, the latest run first as `history.recall` gives it."""
    attempts = [ended for ended in runs if not no_attempt(ended)]
    return Past(
        next(iter(attempts), None),
        next((ended for ended in attempts if ended.complete), None),
        next((ended for ended in attempts if ended.stored), None),
    )


def brief(ended: RunResult) -> RunResult:
    """
    As much of it as is remembered: ten problems at the most, of notes their number, of very long texts both ends.

    Else a few runs with many problems would crowd out all before them. Twice is as good as once.
    """
    summary = ended.summary
    if summary is not None:
        problems = [
            {key: _cut(value, _WORDS) for key, value in problem.items()}
            for problem in summary.first_problems[:_PROBLEMS]
        ]
        used = accumulate(len(msgspec.json.encode(problem)) for problem in problems)
        kept = problems[: sum(1 for _ in takewhile(lambda size: size <= _ROOM, used))]
        summary = msgspec.structs.replace(summary, first_problems=kept, first_notes=[])
    reason = None if ended.reason is None else _cut(ended.reason, _REASON)
    return msgspec.structs.replace(ended, reason=reason, summary=summary)


def _cut(text: str, most: int) -> str:
    """The text without its middle, where it would be longer than that in JSON."""
    if _size(text) <= most:
        return text
    half = (most - _size(_GAP)) // 2
    return _first(text, half) + _GAP + _first(text[::-1], half)[::-1]


def _first(text: str, most: int) -> str:
    sizes = accumulate(map(_size, text))
    return text[: sum(1 for _ in takewhile(lambda size: size <= most, sizes))]


def _size(text: str) -> int:
    return len(msgspec.json.encode(text)) - len(b'""')


def history_path(config: Config) -> Path:
    """Where the history is."""
    return config.state / "history.jsonl"


def remember(config: Config, ended: RunResult) -> None:
    """Add a run (`brief`) to the history, and forget the oldest. `SpoolError` where the directory cannot take it."""
    path = history_path(config)
    line = run_result.write(brief(ended))
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with _held(path) as fd:
            size = os.fstat(fd).st_size
            # A line that was cut off by a full disk must not swallow this one.
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            _write(fd, b"\n" + line if torn else line)
            if size > 2 * _TAIL or _count(fd) > 2 * KEPT:
                _shorten(path, fd)
    except OSError as exc:
        raise SpoolError(
            f"cannot write the history of runs {path}: {exc.strerror}. The backup itself is not affected;"
            " name another directory with SYSBACKUP_STATE_DIR"
        ) from exc


def _log_later(reason: str) -> None:
    log.warning("history.later", reason=reason)


def recall(config: Config, most: int = KEPT, later: Callable[[str], None] = _log_later) -> list[RunResult]:
    """
    The last runs, the latest first; damaged lines are passed over. `SpoolError` where it may not be read.

    What a later version has written cannot be understood, but is not passed over in
    silence: `later` is told how many runs that concerns.
    """
    path = history_path(config)
    try:
        with path.open("rb") as file:
            runs, refused = _last(file.fileno(), most)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise SpoolError(f"cannot read the history of runs {path}: {exc.strerror}") from exc
    if refused:
        number = f"{len(refused)} runs are" if len(refused) > 1 else "1 run is"
        later(f"{number} left out, which {path} tells of: {refused[0]}")
    return runs


def recall_past(config: Config) -> tuple[Past, list[RunResult]]:
    """What was last, and as much of the history as it took to know it: a thousand bad runs are 30 MiB of memory."""
    runs = recall(config, _ENOUGH)
    found = past(runs)
    if found.complete is None and len(runs) == _ENOUGH:
        runs = recall(config)
        found = past(runs)
    return found, runs


def yardstick(config: Config) -> Yardstick | None:
    """
    What this host's last complete run held, or where there is none the last that stored a manifest.

    None where nothing is known of one: a history that cannot be read costs an estimate, never a run.
    """
    try:
        _, runs = recall_past(config)
    except SpoolError as exc:
        log.debug("history.unreadable", reason=str(exc))
        return None
    mine = [ended.summary for ended in runs if ended.summary is not None and ended.host == config.content.host]
    last = next((summary for summary in mine if summary.outcome == Outcome.COMPLETE), mine[0] if mine else None)
    if last is None:
        return None
    # Before amounts were remembered: what the manifest held, a file that two pickers name but once.
    held = last.examined or Counts(last.files, last.bytes, last.read)
    files, size, read, snapshots = (max(0, min(amount, _CREDIBLE)) for amount in msgspec.structs.astuple(held))
    seconds = min(last.seconds, float(_CREDIBLE)) if last.seconds > 0 else 0.0
    return Yardstick(Counts(files, size, min(read, size), snapshots), seconds, last.rescan)


def _last(fd: int, most: int) -> tuple[list[RunResult], list[str]]:
    """The last runs, and why those between them that a later version has written are refused."""
    found: list[RunResult] = []
    refused: list[str] = []
    for line in reversed(_tail(fd).splitlines()):
        if len(found) >= most:
            break
        try:
            found.append(run_result.read(line))
        except LaterFormat as exc:
            refused.append(str(exc))
        except FormatError:
            continue
    return found, refused


def _tail(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    data = os.pread(fd, _TAIL, max(0, size - _TAIL))
    return data if size <= _TAIL else data.partition(b"\n")[2]


def _count(fd: int) -> int:
    return _tail(fd).count(b"\n")


def _shorten(path: Path, fd: int) -> None:
    lines = _tail(fd).splitlines(keepends=True)[-KEPT:]
    with replacing(path, 0o640, durable=True) as file:
        leave_to_owner(file.fileno(), path.parent)
        os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(fd).st_mode))
        file.writelines(lines)


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """The file, locked against others who add to it; a lock of its own, for the file itself may be replaced."""
    with held_in_turn(path.with_name(path.name + ".lock")):
        fd = _opened(path)
        try:
            leave_to_owner(fd, path.parent)
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)


def _opened(path: Path) -> int:
    """The file, made if it is missing; readable by the group whatever the umask is: monitoring is in it."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        os.fchmod(fd, 0o640)
    except OSError:
        os.close(fd)
        raise
    return fd


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
