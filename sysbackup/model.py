"""The words that all floors share: locks, places, problems, runs."""

import enum
import secrets
from asyncio import sleep
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sysbackup.errors import UsageError


class LockMode(enum.StrEnum):
    """
    How firmly a version is locked (S3's Object Lock modes), or not at all.

    `GOVERNANCE` can be lifted by whoever has s3:BypassGovernanceRetention,
    `COMPLIANCE` by nobody. `NONE` is for stores without Object Lock; a run that
    uses it warns.
    """

    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Lock:
    """A mode and the instant (aware, UTC) until which one version cannot be deleted."""

    mode: LockMode
    until: datetime

    def covers(self, asked: "Lock") -> bool:
        """Whether a version under this lock keeps what `asked` promises (stores round to seconds)."""
        if asked.mode is LockMode.NONE:
            return True
        if self.mode is LockMode.NONE:
            return False
        if asked.mode is LockMode.COMPLIANCE and self.mode is not LockMode.COMPLIANCE:
            return False
        return self.until.replace(microsecond=0) >= asked.until.replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """
    One version of one object that the store has confirmed.

    `version` is None only on stores without versions. `size` is the body's
    length in bytes. `lock` is what the version is known to be locked until.
    `fresh` is False where an equal version was there already and nothing new
    was stored.
    """

    key: str
    version: str | None
    size: int
    lock: Lock
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Location:
    """
    Where a content lies: an object and version, and inside a pack the byte range of its gzip member.

    `encoding` is `gzip` where the bytes at that place are the content's gzip.
    """

    key: str
    version: str | None
    offset: int | None = None
    length: int | None = None
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One source that could not be backed up, or not as it should be; it never stops a run.

    `source` is what a person looks for: a path, or a program's name. `event` is
    the log's name for it (`file.skipped`, `picker.failed`); `reason` a sentence.
    """

    event: str
    source: bytes
    reason: str

    @property
    def shown(self) -> str:
        """The source as text for people and logs: control characters and bad bytes escaped."""
        return shown(self.source)


def shown(path: bytes) -> str:
    """
    A path as a terminal may show it.

    Control characters (a file name may hold terminal commands) and bytes that
    are not UTF-8 appear as escapes; everything printable stays.
    """
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable(text: str) -> str:
    """Text of any number of lines as a terminal may show it: what is neither text nor a newline appears as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def brief(text: str, most: int = 200) -> str:
    """Text from outside for a message: control characters escaped, and no more of it than people read."""
    return shown(text[:most].encode("utf-8", "backslashreplace")) + ("…" if len(text) > most else "")


def plain(text: str) -> str:
    """Text that JSON can hold: a path in it, from the system, need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


class Clock(Protocol):
    """What a test turns by hand."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long on this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await sleep(seconds)


RUN_FORM = "%Y%m%dT%H%M%SZ"


def new_run(started: datetime) -> str:
    """A run's name: its start in UTC and four random hex digits, `20261123T041500Z-3fa9`."""
    return f"{started.astimezone(UTC).strftime(RUN_FORM)}-{secrets.token_hex(2)}"


def run_started(run: str) -> datetime:
    """When a run of that name started. `UsageError` where it is no run's name."""
    stamp, dash, tail = run.partition("-")
    try:
        if not dash or len(tail) != 4 or int(tail, 16) < 0:
            raise ValueError(run)
        return datetime.strptime(stamp, RUN_FORM).replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(
            f"{run!r} is not a run's name: runs are named like 20261123T041500Z-3fa9 (see: sysbackup list)"
        ) from None
