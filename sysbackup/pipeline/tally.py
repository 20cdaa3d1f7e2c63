"""What a run has done so far, and its summary at the end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import structlog

from sysbackup.disk.sorting import Sorter
from sysbackup.formats import manifest
from sysbackup.model import Clock, Problem, StoredObject, plain, shown

log = structlog.get_logger()

# Problems shown in the summary and lines of the log; all of them are in the manifest.
SHOWN_AT_MOST = 50
NOTES_AT_MOST = 10
LOGGED_AT_MOST = 1000


class Amounts(msgspec.Struct, frozen=True):
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


@dataclass(slots=True)
class Tally:
    """
    Counts as they grow, for whoever watches; only the event loop's thread writes to it.

    `problems_spool` takes every problem and note, so that their number costs no
    memory. A note is of what was not there (any more) when it was to be read:
    nothing that exists is lacking, so the run is complete for all of them.
    `run` is the working name until the manifest is stored, then its full one;
    `sending_as` the full name of a manifest that is on its way, and may be stored
    already. `unseen` says what could not be seen of the manifest once it was stored.
    `promise` is None where nothing is promised (`lock_mode = none`). `gathered`: what
    was examined in all, once that is done and every snapshot is taken; `sending`
    objects have yet to be stored then. `rescan`: every file is read.
    """

    clock: Clock
    problems_spool: Sorter
    host: str
    run: str
    started: datetime
    promise: datetime | None
    stage: str = "starting"
    current: str = ""
    files: int = 0
    bytes_read: int = 0
    bytes_unchanged: int = 0
    bytes_under_way: int = 0
    bytes_snapshots: int = 0
    bytes_fresh: int = 0
    renewed: int = 0
    contents: int = 0
    objects: int = 0
    sending: int = 0
    bytes_stored: int = 0
    snapshots: int = 0
    gathered: Amounts | None = None
    rescan: bool = False
    sockets: int = 0
    problems: int = 0
    warnings: int = 0
    next_lock_end: datetime | None = None
    notes: int = 0
    first_problems: list[Problem] = field(default_factory=list)
    first_notes: list[Problem] = field(default_factory=list)
    sending_as: str | None = None
    unseen: str | None = None

    def problem(self, problem: Problem) -> None:
        """Note what went wrong with one source."""
        self._write_down(problem)
        self.problems += 1
        if len(self.first_problems) < SHOWN_AT_MOST:
            self.first_problems.append(problem)
        if self.problems <= LOGGED_AT_MOST:
            log.warning(problem.event, path=problem.shown, reason=problem.reason)
        if self.problems == LOGGED_AT_MOST:
            log.warning("problems.quiet", reason="further problems are in the manifest alone")

    def vanished(self, path: bytes) -> None:
        """Note that a path that was picked was gone when it was to be read, or never there: nobody can tell which."""
        note = Problem(manifest.VANISHED, path, "it was gone when it was to be read, or never there")
        self._write_down(note)
        self.notes += 1
        if len(self.first_notes) < NOTES_AT_MOST:
            self.first_notes.append(note)
        if self.notes <= LOGGED_AT_MOST:
            log.info(note.event, path=note.shown, reason=note.reason)
        if self.notes == LOGGED_AT_MOST:
            log.info("notes.quiet", reason="what else was gone is in the manifest alone")

    def not_seen(self, reason: str) -> None:
        """Say what could not be seen of the manifest, which is stored and cannot tell it any more."""
        self.unseen = reason
        log.warning("manifest.unseen", reason=reason)

    def at_the_end(self, reason: str) -> str:
        """Why a run has ended early, and what is not known of its manifest."""
        if self.sending_as is None:
            return reason
        return f"{reason}; its manifest was on its way as {self.sending_as}, and may be stored: see sysbackup list"

    def _write_down(self, found: Problem) -> None:
        entry = manifest.Log(
            time=self.clock.now(), event=found.event, reason=found.reason, **manifest.named(found.source)
        )
        self.problems_spool.add((self.problems + self.notes).to_bytes(8, "big"), manifest.encode(entry))

    def warned(self, path: bytes, warnings: Sequence[str]) -> None:
        """Note that a file was kept, but not as it should be."""
        for warning in warnings:
            self.warnings += 1
            if self.warnings <= LOGGED_AT_MOST:
                log.warning("file.kept", path=shown(path), warning=warning)

    def reading(self, path: bytes) -> None:
        """Say what is being read."""
        self.current = shown(path)

    @contextmanager
    def under_way(self) -> Iterator[Callable[[int], None]]:
        """A large file, of which so many bytes are dealt with, until it is counted as a whole or given up."""
        counted = 0

        def dealt_with(size: int) -> None:
            nonlocal counted
            self.bytes_under_way += size - counted
            counted = size

        try:
            yield dealt_with
        finally:
            dealt_with(0)

    def amounts(self) -> Amounts:
        """What has been worked through so far."""
        read = self.bytes_read + self.bytes_under_way
        return Amounts(self.files, self.bytes_unchanged + read, read, self.bytes_snapshots)

    def stored(self, stored: StoredObject, contents: int = 1, *, plain: int) -> None:
        """Note an object that the store has confirmed, and the `plain` bytes of its contents."""
        if stored.fresh:
            self.objects += 1
            self.contents += contents
            self.bytes_fresh += plain
            self.bytes_stored += stored.size
        log.debug("object.stored", key=stored.key, bytes=stored.size, fresh=stored.fresh)

    def problem_lines(self) -> Iterator[bytes]:
        """The manifest's lines of all problems and notes, in the order of their coming."""
        return (line for _, line in self.problems_spool.sorted())


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """
    How one run went; `--json` prints it as it is.

    `bytes` is what the manifest's files and snapshots hold together, `read` what
    was read to find that out, `stored` what was newly sent, `reused` what the
    files hold whose contents were stored already, all in bytes; `unchanged` files
    were not even opened; `renewed` objects got a later lock; `price`
    in US dollars for the requests alone. `next_lock_end` is the first end of a lock
    that this machine knows of and that is still in force. `notes` counts the picked
    paths that were gone when they were to be read, or never there. `promise` is
    None where nothing is locked (`lock_mode = none`). `unseen` says what could not be seen
    of the manifest once it was stored: no problem of a source, and not in the manifest.
    `examined` is what the next run's progress is judged by; `rescan`: every file was read.
    """

    outcome: str
    exit_code: int
    host: str
    run: str
    bucket: str
    started: datetime
    finished: datetime
    seconds: float
    promise: datetime | None
    manifest: str
    manifest_version: str | None
    entries: dict[str, int]
    files: int
    bytes: int
    unchanged: int
    read: int
    reused: int
    renewed: int
    contents: int
    objects: int
    stored: int
    snapshots: int
    sockets_skipped: int
    warnings: int
    problems: int
    first_problems: list[dict[str, str]]
    requests: dict[str, int]
    price: float
    next_lock_end: datetime | None
    notes: int = 0
    first_notes: list[dict[str, str]] = []
    examined: Amounts | None = None
    rescan: bool = False
    unseen: str | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """
    How one run ended, with a manifest or without one; a line of the history.

    `outcome` is `complete`, `incomplete` (with a manifest, and with problems),
    `failed` or `stopped`; these two have a `reason`, for people, and no
    `summary`. `run` is the full name where there is a manifest, the working name
    where there is none, and None where it came to no run at all.
    """

    outcome: str
    exit_code: int
    host: str
    run: str | None
    started: datetime
    finished: datetime
    reason: str | None = None
    summary: Summary | None = None

    @property
    def stored(self) -> bool:
        """Whether there is a manifest of it."""
        return self.summary is not None


def badly(
    outcome: str, exit_code: int, reason: str, *, host: str, run: str | None, started: datetime, finished: datetime
) -> Ended:
    """The end of a run without a manifest: `failed` or `stopped`."""
    return Ended(
        outcome=outcome,
        exit_code=exit_code,
        host=host,
        run=run,
        started=started,
        finished=finished,
        reason=plain(reason),
    )


def well(summary: Summary) -> Ended:
    """The end of a run that has stored its manifest."""
    return Ended(
        outcome=summary.outcome,
        exit_code=summary.exit_code,
        host=summary.host,
        run=summary.run,
        started=summary.started,
        finished=summary.finished,
        summary=summary,
    )
