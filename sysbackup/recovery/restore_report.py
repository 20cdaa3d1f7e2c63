"""What a restore is asked to do, what it says while it works, and what came of it."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from sysbackup.config.sections import MIB
from sysbackup.model import Problem

EVENT = "restore.failed"
IN_THE_WAY = "restore.in_the_way"

# Each is reported when it happens; the report of a restore that failed 10 million times keeps the first ones.
KEPT_PROBLEMS = 10_000

# Of what is in the way so many are named: a second restore over another tree would name them all.
NAMED_IN_THE_WAY = 20

_KINDS = 100
_OTHER = "more could not be restored, of more kinds than are listed here"


@dataclass(frozen=True, slots=True)
class Options:
    """
    How to restore.

    `overwrite` replaces what is in the way; directories are never replaced.
    `numeric_owner` takes numbers even where the names exist. `spool` takes
    sorted lists of entries; `memory` bounds the bytes in flight, `fetches` the
    objects read at once. From `many` files on, `workers` processes of our own
    write them (None: as many as there are processors; 0: none, threads alone).
    """

    overwrite: bool = False
    numeric_owner: bool = False
    spool: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    memory: int = 64 * MIB
    fetches: int = 16
    many: int = 2000
    workers: int | None = None

    @property
    def helpers(self) -> int:
        """How many processes may help."""
        return len(os.sched_getaffinity(0)) if self.workers is None else self.workers


@dataclass(slots=True)
class Shortfall:
    """One kind of thing that could not be restored on top of the contents: how often, and where first."""

    count: int
    first: bytes


@dataclass(slots=True)
class Outcome:
    """
    What one job, or a whole restore, has brought about.

    `size` is the bytes of all files. `shortfalls` are by their sentence. `kept` are directories that were there
    before and were left as they are; `present` what else was there and right, with `present_size` bytes in files.
    `blocked` of those that `failed` had something else in their place.
    """

    files: int = 0
    size: int = 0
    hard_links: int = 0
    directories: int = 0
    symlinks: int = 0
    specials: int = 0
    kept: int = 0
    present: int = 0
    present_size: int = 0
    failed: int = 0
    blocked: int = 0
    problems: list[Problem] = field(default_factory=list)
    shortfalls: dict[str, Shortfall] = field(default_factory=dict)

    def fail(self, path: bytes, reason: str) -> None:
        """Count one entry that was not restored, and say why."""
        self.failed += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(Problem(EVENT, _nameable(path), reason))

    def block(self, path: bytes, reason: str) -> None:
        """Count one entry in whose place something else is; the first of them are named."""
        self.failed += 1
        self.blocked += 1
        if self.blocked <= NAMED_IN_THE_WAY:
            self.problems.append(Problem(IN_THE_WAY, _nameable(path), reason))

    def fail_all(self, paths: Iterable[bytes], reason: str) -> None:
        """Count several entries that were not restored for one reason."""
        for path in paths:
            self.fail(path, reason)

    def lack(self, kind: str, path: bytes) -> None:
        """Count one shortfall of a kind."""
        self._lack(kind, 1, path)

    def add(self, other: "Outcome") -> list[Problem]:
        """Take in what another job has brought about; returns those of its problems that are to be named."""
        room = NAMED_IN_THE_WAY - min(self.blocked, NAMED_IN_THE_WAY)
        blocked = [problem for problem in other.problems if problem.event == IN_THE_WAY]
        named = blocked[:room] + [problem for problem in other.problems if problem.event != IN_THE_WAY]
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.problems += named[: max(0, KEPT_PROBLEMS - len(self.problems))]
        for kind, lack in other.shortfalls.items():
            self._lack(kind, lack.count, lack.first)
        return named

    def _lack(self, kind: str, count: int, path: bytes) -> None:
        known = self.shortfalls.get(kind)
        if known is None:
            kind = kind if len(self.shortfalls) < _KINDS else _OTHER
            known = self.shortfalls.setdefault(kind, Shortfall(0, path))
        known.count += count


_NUMBERS = [field.name for field in fields(Outcome) if field.type is int]


def _nameable(path: bytes) -> bytes:
    """A path, or the two ends of one that is longer than any system call takes (PATH_MAX): ten thousand are kept."""
    return path if len(path) <= 4096 else path[:2000] + " … ".encode() + path[-2000:]


class RestoreWatcher(Protocol):
    """Who watches a restore; called on the event loop."""

    def planned(self, files: int, size: int) -> None:
        """How many files, and bytes of them, are to come."""
        ...

    def done(self, files: int, size: int) -> None:
        """So many more files and bytes have been dealt with."""
        ...

    def problem(self, problem: Problem) -> None:
        """One entry could not be restored."""
        ...


class Silent:
    """Watches and says nothing."""

    def planned(self, files: int, size: int) -> None:
        """Nothing."""

    def done(self, files: int, size: int) -> None:
        """Nothing."""

    def problem(self, problem: Problem) -> None:
        """Nothing."""


class Counts(Struct, frozen=True):
    """How much of what was restored; `failed` entries were not, for `in_the_way` of them something else was there."""

    files: int
    bytes: int
    hard_links: int
    directories: int
    symlinks: int
    specials: int
    kept: int
    present: int
    failed: int
    in_the_way: int


@dataclass(frozen=True, slots=True)
class Report:
    """
    How a restore ended.

    `problems` are entries that were not restored, or not as they were (the
    first `KEPT_PROBLEMS`; `counts.failed` has the number). `warnings` are sentences
    about what could not be restored for want of rights.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    counts: Counts

    @property
    def exit_code(self) -> int:
        """0 where all is back, 3 where something is not."""
        return 3 if self.problems or self.counts.failed else 0
