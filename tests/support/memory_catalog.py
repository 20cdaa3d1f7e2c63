"""
The catalog port in memory: plain dicts, and every answer worked out from them when it is asked for.

The reference that the catalog in SQLite is held against: it passes the same tests, and
random calls get the same answers from both. Slow, where that makes it easier to read.
"""

from collections import Counter
from datetime import datetime, timedelta

from sysbackup.catalog.interface import Info
from sysbackup.errors import CatalogUnusable
from sysbackup.model import Lock
from tests.support.memory_file import MemoryFile, News, Run, day_of, in_seconds
from tests.support.memory_parts import MemoryContents, MemoryFiles, MemoryIndexes, MemoryPresence, MemoryRenewals

_KEPT = timedelta(days=60)


class MemoryCatalog:
    """`interface.Catalog` over a `MemoryFile`; opened with the same one again, it knows what it knew."""

    def __init__(self, file: MemoryFile | None = None) -> None:
        self.file = file or MemoryFile()

    def begin(self, bucket: str, host: str, promise: Lock, now: datetime, *, doubting: bool = False) -> "MemorySession":
        with self.file.lock:
            self.file.bucket = self.file.bucket or bucket
            if self.file.bucket != bucket:
                raise CatalogUnusable(f"it is about the bucket {self.file.bucket}, not about {bucket}")
            for known in self.file.objects.values():
                known.news = News.NO if known.news is News.NO else News.WAITING
        return MemorySession(self.file, Run(host, in_seconds(promise), now, doubting))

    def info(self) -> Info:
        with self.file.lock:
            known = [*self.file.objects.values()]
            ends = [o.lock.until for o in known]
            return Info(
                len(known),
                len(self.file.contents),
                len(self.file.files),
                sum(o.stored.size for o in known),
                (min(ends), max(ends)) if ends else None,
                dict(Counter(o.host for o in known)),
                sum(o.news is not News.NO for o in known),
                self.file.bucket,
            )

    def close(self) -> None:
        """Nothing: what is written is written."""


class MemorySession:
    """What one run knows and finds out; see `interface.Session`."""

    def __init__(self, file: MemoryFile, run: Run) -> None:
        self._file = file
        self._run = run
        self.contents = MemoryContents(file, run)
        self.files = MemoryFiles(file, run)
        self.renewals = MemoryRenewals(file, run)
        self.indexes = MemoryIndexes(file, run)
        self.presence = MemoryPresence(file)

    def tidy(self, now: datetime) -> None:
        with self._file.lock:
            self.files.note_met()
            first = day_of(now) - _KEPT
            self._file.files = {named: seen for named, seen in self._file.files.items() if seen.day >= first}
            self._file.forget(lambda o: o.lock.until < first)
            self._run.used.clear()
            self._run.leaving.clear()
            self._run.made.clear()

    def next_lock_end(self, now: datetime) -> datetime | None:
        with self._file.lock:
            return min((o.lock.until for o in self._file.objects.values() if o.locked(now)), default=None)
