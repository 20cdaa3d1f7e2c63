"""
How backups go, as Prometheus is told: https://prometheus.io/docs/practices/naming/.

What is said of the last backup is said of the last one that exists: a run that
fails touches neither the time of the last success nor what that one held.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sysbackup.config.sections import Config
from sysbackup.disk.replacing import replacing
from sysbackup.errors import SpoolError
from sysbackup.formats.run_result import Outcome, RunResult, Summary
from sysbackup.service import history
from sysbackup.service.history import Past
from sysbackup.version import VERSION

log = structlog.get_logger()

# An event for the log: what could not be done with which file, and why.
_Failure = tuple[str, Path, str]

WRITE_WITHIN = 10.0
"""Seconds that writing the textfile may take before it is left alone: a file system may hang."""


class RunMetrics(Collector):
    """
    Follows runs, and says how they go.

    The history is looked at again whenever its file has changed: `sysbackup run`
    adds to it too. `counting`: say how many runs have ended since we began.
    """

    def __init__(self, config: Config, *, counting: bool) -> None:
        self._config = config
        self._counting = counting
        self._counts: Counter[tuple[str, str]] = Counter()
        self._past = Past()
        self._own = Past()
        self._seen: object = None
        self._unread: object = None
        self._running = False
        self._files: set[Path] = set()
        self._writing: asyncio.Future[list[_Failure]] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def configure(self, config: Config) -> None:
        """Take these settings from now on."""
        self._config = config

    def began(self) -> None:
        """A run goes on."""
        self._running = True

    def ended(self, ended: RunResult) -> None:
        """A run has ended."""
        self._running = False
        self._counts[ended.host, ended.outcome] += 1
        ended = history.brief(ended)  # as it will be read in the history
        self._own = self._own.after(ended)
        self._past = self._past.after(ended)

    async def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        await self._look()
        return generate_latest(self._registry)

    async def write(self) -> None:
        """
        Replace the textfile, where there is to be one; what goes wrong is a warning.

        One that was written where the settings do not want it any more is removed: node_exporter would read both.
        """
        path = self._config.metrics.textfile
        if path is None and not self._files:
            return
        where = path or min(self._files)
        failures = [("metrics.unwritten", where, "an earlier attempt to write or remove a textfile still hangs")]
        if self._writing is None or self._writing.done():
            data = await self.exposition()
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._place, path, data))
            await asyncio.wait((self._writing,), timeout=WRITE_WITHIN)
            late = [("metrics.unwritten", where, f"not done after {WRITE_WITHIN:.0f} s")]
            failures = self._writing.result() if self._writing.done() else late
        for event, which, reason in failures:
            log.warning(event, path=str(which), reason=reason)

    def _place(self, path: Path | None, data: bytes) -> list[_Failure]:
        """In a thread of its own, one at a time: have that file and no other; what could not be done."""
        failures: list[_Failure] = []
        for old in self._files - {path}:
            try:
                old.unlink(missing_ok=True)
                self._files.discard(old)
            except OSError as exc:
                failures.append(
                    ("metrics.unremoved", old, f"{exc.strerror}: node_exporter still reads it, remove it by hand")
                )
        if path is not None:
            if (reason := _replace(path, data)) is not None:
                failures.append(("metrics.unwritten", path, reason))
            else:
                self._files.add(path)
        return failures

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        yield _gauge("build", "info", "Which sysbackup this is.", {"version": VERSION}, 1)
        host = self._config.content.host
        yield _gauge("run", "in_progress", "1 while a run goes on.", {"host": host}, self._running)
        if self._past.last is not None:
            yield from _of_run(self._past.last)
        # Nought where there has been none: an alarm for what is too long ago is raised then, too.
        success, backup = self._past.complete, self._past.stored
        yield _time("last_success", "End of the last run without any problem; 0: none is known.", success, host)
        yield _time("last_backup", "End of the last run that stored a manifest; 0: none is known.", backup, host)
        if backup is not None and backup.summary is not None:
            yield from _of_backup(backup.summary)
        if self._counting:
            yield self._counted(host)

    def _counted(self, host: str) -> Metric:
        family = CounterMetricFamily(
            "sysbackup_runs", "Runs that ended since the daemon started.", labels=("host", "outcome")
        )
        # All outcomes from the beginning: what is not there yet cannot be seen to increase.
        for key in sorted({*self._counts, *((host, outcome.value) for outcome in Outcome)}):
            family.add_metric(key, self._counts[key])
        return family

    async def _look(self) -> None:
        """Read the history, if it is not the one that we have seen."""
        path = history.history_path(self._config)
        try:
            status = path.stat()
            seen = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            return  # nothing has been remembered yet, or cannot be: what we have heard ourselves holds
        if seen == self._seen:
            return
        try:
            found, runs = await asyncio.to_thread(history.recall_past, self._config)
        except SpoolError as exc:
            if seen != self._unread:
                log.warning("metrics.outdated", reason=str(exc))
            self._unread = seen
            return
        self._seen, own = seen, self._own
        self._past = Past(
            _last(own.last, found.last, runs),
            _last(own.complete, found.complete, runs),
            _last(own.stored, found.stored, runs),
        )


def _last(own: RunResult | None, remembered: RunResult | None, runs: list[RunResult]) -> RunResult | None:
    """The later one of what we know ourselves, which the history may not have been able to take, and what it says."""
    if own is None or remembered is None or own in runs:
        return remembered or own
    return max(own, remembered, key=lambda ended: ended.finished)


def _gauge(subject: str, what: str, meaning: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"sysbackup_{subject}_{what}", meaning, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _time(subject: str, meaning: str, ended: RunResult | None, host: str) -> Metric:
    known, value = (host, 0.0) if ended is None else (ended.host, ended.finished.timestamp())
    return _gauge(subject, "timestamp_seconds", meaning, {"host": known}, value)


def _of_run(ended: RunResult) -> Iterator[Metric]:
    """The last run, however it ended."""
    host = {"host": ended.host}
    seconds = (ended.finished - ended.started).total_seconds()
    start, finish = ended.started.timestamp(), ended.finished.timestamp()
    yield _gauge("last_run", "start_timestamp_seconds", "Start of the last run that has ended.", host, start)
    yield _gauge("last_run", "end_timestamp_seconds", "End of the last run.", host, finish)
    yield _gauge("last_run", "duration_seconds", "How long the last run took.", host, seconds)
    yield _gauge("last_run", "exit_code", "Exit status of the last run; 0: complete.", host, ended.exit_code)
    family = GaugeMetricFamily(
        "sysbackup_last_run_outcome", "1 for how the last run ended.", labels=("host", "outcome")
    )
    for outcome in Outcome:
        family.add_metric((ended.host, outcome), outcome == ended.outcome)
    yield family


def _of_backup(summary: Summary) -> Iterator[Metric]:
    """The last run that stored a manifest."""
    host = {"host": summary.host}
    values: tuple[tuple[str, str, float], ...] = (
        ("duration_seconds", "How long the last backup took.", summary.seconds),
        ("files", "Files in the last backup.", summary.files),
        ("snapshots", "Snapshots in the last backup.", summary.snapshots),
        ("bytes", "Bytes of all files and snapshots in the last backup.", summary.bytes),
        ("read_bytes", "Bytes of files that the last backup read.", summary.read),
        ("stored_bytes", "Bytes that the last backup newly sent to the store.", summary.stored),
        ("problems", "Sources that the last backup could not back up.", summary.problems),
        ("notes", "Paths that were picked for the last backup and were gone.", summary.notes),
        ("warnings", "Files that the last backup kept, but not as they should be.", summary.warnings),
        ("price_dollars", "What the requests of the last backup cost, in US dollars.", summary.price),
    )
    for name, meaning, value in values:
        yield _gauge("last_backup", name, meaning, host, value)
    family = GaugeMetricFamily(
        "sysbackup_last_backup_requests", "Requests that the last backup sent to the store.", labels=("host", "kind")
    )
    for kind, number in summary.requests.items():
        family.add_metric((summary.host, kind), number)
    yield family
    if summary.promise is not None:
        meaning = "Until when the last backup cannot be deleted."
        yield _gauge("last_backup", "promise_timestamp_seconds", meaning, host, summary.promise.timestamp())
    until: datetime | None = summary.next_lock_end
    if until is not None:
        meaning = "When the first of all locks ends that are known of."
        yield _gauge("next_lock_end", "timestamp_seconds", meaning, host, until.timestamp())


def _replace(path: Path, data: bytes) -> str | None:
    """Put a new file in the old one's place; why it could not be done, or None."""
    try:
        # node_exporter does not read what has yet another name (it takes *.prom), and its directory is not ours alone.
        with replacing(path, 0o600, alone=False) as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)  # node_exporter is another user; our umask is for backups
    except OSError as exc:
        return str(exc.strerror)
    return None
