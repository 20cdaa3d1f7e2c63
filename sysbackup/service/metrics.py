"""
How backups go, as Prometheus is told: https://prometheus.io/docs/practices/naming/.

What is said of the last backup is said of the last one that exists: a run that
fails touches neither the time of the last success nor what that one held.
"""

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sysbackup import __version__
from sysbackup.config import Config
from sysbackup.errors import SpoolError
from sysbackup.pipeline.report import Ended, Summary
from sysbackup.service import history
from sysbackup.service.history import Past

log = structlog.get_logger()

OUTCOMES = ("complete", "incomplete", "failed", "stopped")

WRITE_WITHIN = 10.0
"""Seconds that writing the textfile may take before it is left alone: a file system may hang."""


class Metrics(Collector):
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
        self._latest: Ended | None = None
        self._seen: object = None
        self._running = False
        self._writing: asyncio.Future[str | None] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def configure(self, config: Config) -> None:
        """Take these settings from now on."""
        self._config = config

    def began(self) -> None:
        """A run goes on."""
        self._running = True

    def ended(self, ended: Ended) -> None:
        """A run has ended."""
        self._running = False
        self._counts[ended.host, ended.outcome] += 1
        self._latest = ended
        self._past = self._past.after(ended)

    async def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        await self._look()
        return generate_latest(self._registry)

    async def write(self) -> None:
        """Replace the textfile, where there is to be one. What goes wrong is a warning."""
        path = self._config.metrics.textfile
        if path is None:
            return
        reason: str | None = "an earlier attempt to write it still hangs"
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(asyncio.to_thread(_replace, path, await self.exposition()))
            await asyncio.wait((self._writing,), timeout=WRITE_WITHIN)
            reason = self._writing.result() if self._writing.done() else f"not done after {WRITE_WITHIN:.0f} s"
        if reason is not None:
            log.warning("metrics.unwritten", path=str(path), reason=reason)

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        yield _gauge("build", "info", "Which sysbackup this is.", {"version": __version__}, 1)
        host = self._config.content.host
        yield _gauge("run", "in_progress", "1 while a run goes on.", {"host": host}, self._running)
        if self._past.last is not None:
            yield from _of_run(self._past.last)
        if self._past.complete is not None:
            yield _time("last_success", "End of the last run without any problem.", self._past.complete)
        if self._past.stored is not None and self._past.stored.summary is not None:
            yield _time("last_backup", "End of the last run that stored a manifest.", self._past.stored)
            yield from _of_backup(self._past.stored.summary)
        if self._counting:
            yield self._counted(host)

    def _counted(self, host: str) -> Metric:
        family = CounterMetricFamily(
            "sysbackup_runs", "Runs that ended since the daemon started.", labels=("host", "outcome")
        )
        # All outcomes from the beginning: what is not there yet cannot be seen to increase.
        for key in sorted({*self._counts, *((host, outcome) for outcome in OUTCOMES)}):
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
        self._seen = seen
        try:
            found, runs = await asyncio.to_thread(history.recall_past, self._config)
        except SpoolError as exc:
            log.warning("metrics.outdated", reason=str(exc))
            return
        self._past = found
        if self._latest is not None and self._latest not in runs:
            self._past = self._past.after(self._latest)


def _gauge(subject: str, what: str, meaning: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"sysbackup_{subject}_{what}", meaning, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _time(subject: str, meaning: str, ended: Ended) -> Metric:
    return _gauge(subject, "timestamp_seconds", meaning, {"host": ended.host}, ended.finished.timestamp())


def _of_run(ended: Ended) -> Iterator[Metric]:
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
    for outcome in OUTCOMES:
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
        ("warnings", "Files that the last backup kept, but not as they should be.", summary.warnings),
        ("price_dollars", "What the requests of the last backup cost, in US dollars.", summary.price),
        ("promise_timestamp_seconds", "Until when the last backup cannot be deleted.", summary.promise.timestamp()),
    )
    for name, meaning, value in values:
        yield _gauge("last_backup", name, meaning, host, value)
    family = GaugeMetricFamily(
        "sysbackup_last_backup_requests", "Requests that the last backup sent to the store.", labels=("host", "kind")
    )
    for kind, number in summary.requests.items():
        family.add_metric((summary.host, kind), number)
    yield family
    until: datetime | None = summary.next_lock_end
    if until is not None:
        meaning = "When the first of all locks ends that are known of."
        yield _gauge("next_lock_end", "timestamp_seconds", meaning, host, until.timestamp())


def _replace(path: Path, data: bytes) -> str | None:
    """Put a new file in the old one's place; why it could not be done, or None."""
    # Neither does node_exporter read it (it takes *.prom), nor can it have been put there by anybody else.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)  # node_exporter is another user; our umask is for backups
            os.replace(fresh, path)
        finally:
            with suppress(OSError):
                os.unlink(fresh)
    except OSError as exc:
        return str(exc.strerror)
    return None
