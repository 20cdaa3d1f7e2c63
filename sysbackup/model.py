"""The words that all floors share: locks, places, problems, runs."""

import enum
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec

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


class Span(NamedTuple):
    """A range of an object's bytes: from `offset` on, `length` of them."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.length


class Member(NamedTuple):
    """
    One content in an object: its digest, its own size (-1: not known), and where in the object it lies.

    `span` is None where the object holds nothing else: then all of it stands for the content.
    """

    sha: bytes
    size: int
    span: Span | None = None


class Location(NamedTuple):
    """
    Where a content lies: an object and version, the range of its bytes in there, and how they are encoded.

    `span` None: the whole object. `encoding` as in `formats.encodings`; None: the content itself.
    """

    key: str
    version: str | None
    span: Span | None = None
    encoding: str | None = None


class FileState(NamedTuple):
    """What must stay the same for a file to count as unchanged (rule 7), and the digest of its content."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int
    sha: bytes = b""


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


class RunIdentity(msgspec.Struct, frozen=True):
    """
    Which run: of which host, its name, when it started, and until when nobody can delete what it stores.

    `run` is the working name until the manifest is stored, then its full one.
    `promise` is None where nothing is promised (`lock_mode = none`).
    """

    host: str
    run: str
    started: datetime
    promise: datetime | None


RUN_FORM = "%Y%m%dT%H%M%SZ"

# Four digits are of older runs; eight name a run while it goes on, sixteen its manifest.
_RUN = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{4}|[0-9a-f]{8}|[0-9a-f]{16})")
_STAMP_DIGITS = 4
_SECRET_DIGITS = 8

WORKING_NAME = len("20261123T041500Z-a1f03fa9")
"""Characters of a working name, with which all names of the run's manifest begin."""


def working_name(started: datetime) -> str:
    """
    The name of a run while it goes on, `20261123T041500Z-a1f03fa9`, which anybody may know.

    Its start in UTC, the fraction of that second in four hex digits, so that
    the names of runs sort as their starts do, and four random ones.
    """
    began = started.astimezone(UTC)
    fraction = (began.microsecond << 16) // 1_000_000
    return f"{began.strftime(RUN_FORM)}-{fraction:0{_STAMP_DIGITS}x}{secrets.token_hex(2)}"


def full_name(working: str) -> str:
    """
    A name for the manifest of the run of that working name: eight more random hex digits, other ones each time.

    To be called when the manifest is written and not before: an attacker who
    knew the manifest's key could have written another one there first.
    """
    return working + secrets.token_hex(_SECRET_DIGITS // 2)


def worked_under(run: str) -> str | None:
    """The working name of the run whose manifest has that name; None where it is of an older form, or is none."""
    found = _RUN.fullmatch(run)
    return run[:-_SECRET_DIGITS] if found is not None and len(found[2]) > _SECRET_DIGITS else None


def names_manifest(run: str) -> bool:
    """Whether a manifest can have that name: a working name is none, for everybody knows it beforehand."""
    found = _RUN.fullmatch(run)
    return found is not None and len(found[2]) != _SECRET_DIGITS and _moment(found[1]) is not None


def run_started(run: str) -> datetime:
    """When a run of that name, of any form, started, to the second. `UsageError` where it is no run's name."""
    found = _RUN.fullmatch(run)
    started = None if found is None else _moment(found[1])
    if started is None:
        raise UsageError(
            f"{run!r} is not a run's name: runs are named like 20261123T041500Z-a1f03fa95c0e77d2 (see: sysbackup list)"
        )
    return started


def _moment(stamp: str) -> datetime | None:
    try:
        return datetime.strptime(stamp, RUN_FORM).replace(tzinfo=UTC)
    except ValueError:
        return None
