"""What a run has done so far, and what it knows of that at the end."""

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime

import msgspec
import structlog

from sysbackup.disk.sorting import Sorter
from sysbackup.formats import manifest
from sysbackup.formats.run_result import Counts, Outcome, Summary
from sysbackup.model import Clock, Problem, RunIdentity, StoredObject, shown

log = structlog.get_logger()

# Problems shown in the summary and lines of the log; all of them are in the manifest.
SHOWN_AT_MOST = 50
NOTES_AT_MOST = 10
LOGGED_AT_MOST = 1000


class Stage(enum.StrEnum):
    """What a run does now, in the words that people read."""

    STARTING = "starting"
    BACKING_UP = "backing up"
    FINISHING = "finishing"
    STORING_AGAIN = "storing again what was gone"
    RENEWING = "renewing locks"
    WRITING = "writing the manifest"
    DONE = "done"


@dataclass(slots=True)
class Tally:
    """
    Counts as they grow, for whoever watches; only the event loop's thread writes to it.

    `problems_spool` takes every problem and note, so that their number costs no
    memory. A note is of what was not there (any more) when it was to be read:
    nothing that exists is lacking, so the run is complete for all of them.
    `identity` has the working name until the manifest is stored, then its full one;
    `sending_as` is the full name of a manifest that is on its way, and may be stored
    already. `unseen` says what could not be seen of the manifest once it was stored.
    `gathered`: what was examined in all, once that is done and every snapshot is taken;
    `sending` objects have yet to be stored then. `rescan`: every file is read.
    `beginnings`: how often it was begun (`begin_again`).
    """

    clock: Clock
    problems_spool: Sorter
    identity: RunIdentity
    rescan: bool = False
    beginnings: int = 1
    stage: Stage = Stage.STARTING
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
    gathered: Counts | None = None
    sockets: int = 0
    problems: int = 0
    warnings: int = 0
    next_lock_end: datetime | None = None
    notes: int = 0
    first_problems: list[Problem] = field(default_factory=list)
    first_notes: list[Problem] = field(default_factory=list)
    sending_as: str | None = None
    unseen: str | None = None
    compressed: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        """Whose run it is."""
        return self.identity.host

    @property
    def run(self) -> str:
        """What it is called now."""
        return self.identity.run

    @run.setter
    def run(self, name: str) -> None:
        self.identity = msgspec.structs.replace(self.identity, run=name)

    def begin_again(self, identity: RunIdentity, problems_spool: Sorter) -> None:
        """Count from the beginning, under another name: whoever watches goes on watching this."""
        fresh = Tally(self.clock, problems_spool, identity, self.rescan, beginnings=self.beginnings + 1)
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

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

    def counts(self) -> Counts:
        """What has been worked through so far."""
        read = self.bytes_read + self.bytes_under_way
        return Counts(self.files, self.bytes_unchanged + read, read, self.bytes_snapshots)

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

    def summary(self, finished: datetime) -> Summary:
        """All that is known here of a run whose manifest is stored; `backup` knows the rest."""
        run = self.identity
        return Summary(
            outcome=Outcome.INCOMPLETE if self.problems else Outcome.COMPLETE,
            exit_code=3 if self.problems else 0,
            host=run.host,
            run=run.run,
            started=run.started,
            finished=finished,
            seconds=round((finished - run.started).total_seconds(), 3),
            promise=run.promise,
            read=self.bytes_read,
            renewed=self.renewed,
            contents=self.contents,
            objects=self.objects,
            stored=self.bytes_stored,
            snapshots=self.snapshots,
            sockets_skipped=self.sockets,
            warnings=self.warnings,
            problems=self.problems,
            first_problems=[_told(problem) for problem in self.first_problems],
            next_lock_end=self.next_lock_end,
            notes=self.notes,
            first_notes=[_told(note) for note in self.first_notes],
            examined=self.gathered,
            rescan=self.rescan,
            unseen=self.unseen,
            compressed=self.compressed or msgspec.UNSET,
        )


def _told(found: Problem) -> dict[str, str]:
    return {"event": found.event, "path": found.shown, "reason": found.reason}
