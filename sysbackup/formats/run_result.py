"""
How runs end: one format, in JSON, for all who must know of it.

A `RunResult` is what a run's process says last, a line of the history, and part of the daemon's status. Its
`Summary`, where there is a manifest, is what `sysbackup run --json` prints; hooks read the two in one object.

Other versions write it, too: an older one before an upgrade, a newer one before somebody went back. So every
field has a default, and unknown ones are passed over: a field more or less costs no run. `format` is raised
only where what was known before would be misunderstood; what has a later one is refused by name (`LaterFormat`)
and never guessed at. Without a number it is 1.
"""

import enum
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import force_setattr

from sysbackup.errors import FormatError
from sysbackup.formats.lines import UNREADABLE, refuse_later
from sysbackup.model import RunIdentity, brief, plain

FORMAT = 1

Instant = Annotated[datetime, msgspec.Meta(tz=True)]

_UNKNOWN = datetime.min.replace(tzinfo=UTC)


class Outcome(enum.StrEnum):
    """How a run ended: `COMPLETE` and `INCOMPLETE` (some sources had problems) with a manifest, the others without."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    STOPPED = "stopped"


class Counts(Struct, frozen=True):
    """
    What a run has worked through: how far the next one is, is judged by that.

    A file that two pickers name counts twice, unlike in the manifest, for it is
    examined twice. `bytes` are those of all these files, `read` those of them
    that had to be read, `snapshots` what snapshotters wrote.
    """

    files: int = 0
    bytes: int = 0
    read: int = 0
    snapshots: int = 0


class Summary(Struct, frozen=True, kw_only=True):
    """
    What a run has stored that ended with a manifest.

    `bytes` is what the manifest's files and snapshots hold together, `read` what
    was read to find that out, `stored` what was newly sent, `reused` what the
    files hold whose contents were stored already, all in bytes; `unchanged` files
    were not even opened; `renewed` objects got a later lock; `price`
    in US dollars for the requests alone. `next_lock_end` is the first end of a lock
    that this machine knows of and that is still in force. `notes` counts the picked
    paths that were gone when they were to be read, or never there. `promise` is
    None where nothing is locked (`lock_mode = none`). `unseen` says what could not be seen
    of the manifest once it was stored: no problem of a source, and not in the manifest.
    `compressed` are snapshotters whose data were, so that nights share nothing of them.
    `examined` is what the next run's progress is judged by; `rescan`: every file was read.
    """

    outcome: str = Outcome.INCOMPLETE
    exit_code: int = 3
    host: str = ""
    run: str = ""
    bucket: str = ""
    started: Instant = _UNKNOWN
    finished: Instant = _UNKNOWN
    seconds: float = 0.0
    promise: Instant | None = None
    manifest: str = ""
    manifest_version: str | None = None
    entries: dict[str, int] = {}
    files: int = 0
    bytes: int = 0
    unchanged: int = 0
    read: int = 0
    reused: int = 0
    renewed: int = 0
    contents: int = 0
    objects: int = 0
    stored: int = 0
    snapshots: int = 0
    sockets_skipped: int = 0
    warnings: int = 0
    problems: int = 0
    first_problems: list[dict[str, str]] = []
    requests: dict[str, int] = {}
    price: float = 0.0
    next_lock_end: Instant | None = None
    notes: int = 0
    first_notes: list[dict[str, str]] = []
    examined: Counts | None = None
    rescan: bool = False
    unseen: str | None = None
    compressed: list[str] | UnsetType = UNSET


class RunResult(Struct, frozen=True, kw_only=True):
    """
    How one run ended, with a manifest (then it has a `summary`) or without one (then a `reason`, for people).

    `run` is the full name where there is a manifest, the working name where there
    is none, and None where it came to no run at all. `sent_as` is the full name of
    a manifest that was on its way when the run ended, and may be stored. `host` is
    never empty in what we write; what a line does not say it takes from its
    summary, and one of its two dates from the other. A line without any is none.
    """

    outcome: str = ""
    exit_code: int = -1
    host: str = ""
    run: str | None = None
    started: Instant = _UNKNOWN
    finished: Instant = _UNKNOWN
    reason: str | None = None
    summary: Summary | None = None
    sent_as: str | UnsetType = UNSET
    format: int | UnsetType = UNSET

    def __post_init__(self) -> None:
        """ValueError, which msgspec turns into a `ValidationError`, where this can be no result that we know of."""
        if self.format is not UNSET and self.format > FORMAT:
            raise ValueError(f"a run's result has format {self.format}, this sysbackup reads {FORMAT}")
        for name, value in _completed(self).items():
            force_setattr(self, name, value)
        for instant in (self.started, self.finished):
            try:
                instant.astimezone(UTC)
            except OverflowError:
                raise ValueError(f"no date in UTC: {instant.isoformat()}") from None

    @property
    def stored(self) -> bool:
        """Whether there is a manifest of it."""
        return self.summary is not None

    @property
    def complete(self) -> bool:
        """Whether there is one that lacks nothing."""
        return self.outcome == Outcome.COMPLETE

    @property
    def by_hand(self) -> bool:
        """Whether somebody stopped a `sysbackup run` of their own: it says nothing of whether backups can be made."""
        return self.outcome == Outcome.STOPPED and self.exit_code > _SIGNALLED


# The status of a program that a signal ended is more than this by the signal's number.
_SIGNALLED = 128

_EXIT_CODES: dict[str, int] = {Outcome.COMPLETE: 0, Outcome.INCOMPLETE: 3}


def _completed(said: RunResult) -> dict[str, Any]:
    """What a line has left out, as far as the rest of it tells."""
    found: dict[str, Any] = {}
    summary = said.summary or Summary(outcome=Outcome.FAILED, exit_code=1)
    instants = [t for t in (said.finished, said.started, summary.finished, summary.started) if t != _UNKNOWN]
    if not instants:
        raise ValueError("it says neither when the run began nor when it ended")
    if said.started == _UNKNOWN:
        found["started"] = summary.started if summary.started != _UNKNOWN else instants[0]
    if said.finished == _UNKNOWN:
        found["finished"] = summary.finished if summary.finished != _UNKNOWN else instants[0]
    if not said.outcome:
        found["outcome"] = summary.outcome
    if said.exit_code < 0:
        found["exit_code"] = _EXIT_CODES.get(found.get("outcome", said.outcome), 1)
    if said.summary is not None:
        if not said.host:
            found["host"] = summary.host
        if said.run is None:
            found["run"] = summary.run or None
    return found


def with_manifest(summary: Summary) -> RunResult:
    """The end of a run that has stored its manifest."""
    return RunResult(
        outcome=summary.outcome,
        exit_code=summary.exit_code,
        host=summary.host,
        run=summary.run,
        started=summary.started,
        finished=summary.finished,
        summary=summary,
    )


def without_manifest(
    outcome: Outcome,
    exit_code: int,
    reason: str,
    *,
    host: str,
    run: str | None,
    started: datetime,
    finished: datetime,
    sent_as: str | None = None,
) -> RunResult:
    """The end of a run that has not, or does not know of it (`sent_as`): `FAILED` or `STOPPED`."""
    return RunResult(
        outcome=outcome,
        exit_code=exit_code,
        host=host,
        run=run,
        started=started,
        finished=finished,
        reason=plain(reason),
        sent_as=UNSET if sent_as is None else sent_as,
    )


_decoder = msgspec.json.Decoder(RunResult)


def read(line: bytes) -> RunResult:
    """A line as a result. `LaterFormat` where a later version has written it, else `FormatError` where it is none."""
    try:
        return _decoder.decode(line)
    except UNREADABLE as exc:
        refuse_later(line, FORMAT, "a run's result")
        raise FormatError(f"this is no run's result ({brief(str(exc))})") from exc


def write(result: RunResult) -> bytes:
    """A result as a line."""
    return msgspec.json.encode(result) + b"\n"


def printed(result: RunResult | Summary) -> bytes:
    """What `--json` prints of it: of `sysbackup run` the summary, of `sysbackup trigger` all."""
    return msgspec.json.encode(result)


def start_told(run: RunIdentity) -> bytes:
    """What hooks read when a run begins: the keys of `end_told`, as far as they are known, and the promise."""
    said = {
        "outcome": None,
        "exit_code": None,
        "host": run.host,
        "run": run.run,
        "started": run.started,
        "finished": None,
        "seconds": None,
        "reason": None,
        "promise": run.promise,
    }
    return msgspec.json.encode(said) + b"\n"


def end_told(result: RunResult) -> bytes:
    """
    What hooks read at a run's end.

    Always `outcome`, `exit_code`, `host`, `run`, `started`, `finished`,
    `seconds` and `reason`, null where there is none; and where there is a
    manifest all that `sysbackup run --json` prints.
    """
    said: dict[str, object] = {
        "outcome": result.outcome,
        "exit_code": result.exit_code,
        "host": result.host,
        "run": result.run,
        "started": result.started,
        "finished": result.finished,
        "seconds": round((result.finished - result.started).total_seconds(), 3),
        "reason": result.reason,
    }
    if result.summary is not None:
        said |= {k: v for k, v in msgspec.structs.asdict(result.summary).items() if v is not UNSET}
    return msgspec.json.encode(said) + b"\n"
