"""Reading what a bucket holds, and bringing it back."""

import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from sysbackup.api.configured import Configured
from sysbackup.api.connecting import open_store
from sysbackup.config.sections import Config
from sysbackup.formats.manifest import Entry, File, Snapshot
from sysbackup.recovery import outlines, single_files, snapshots, stored_runs
from sysbackup.recovery.judging import StoredRun
from sysbackup.recovery.outlines import Outline
from sysbackup.recovery.restore_report import Options, Report, RestoreWatcher
from sysbackup.recovery.restoring import restore
from sysbackup.recovery.selecting import Selection
from sysbackup.recovery.stored_runs import Found
from sysbackup.store.port import ObjectStore

LATEST = stored_runs.LATEST


def spool_of(config: Config) -> Path:
    """Where sorted lists wait: the cache, or the temporary directory of whoever cannot write there."""
    if os.access(config.cache, os.W_OK | os.X_OK):
        return config.cache
    return Path(tempfile.gettempdir())


class Restorer(Configured):
    """
    Lists backups and restores them::

        restorer = sysbackup.Restorer()
        restorer.load_config("/etc/backup")
        for run in restorer.runs_now():
            print(run.host, run.run)
        report = restorer.restore_now("latest", "/mnt/restored", ["/etc", "/home"])
        print(report.counts.files, report.problems)
    """

    @asynccontextmanager
    async def backups(self) -> AsyncIterator["Backups"]:
        """What is in the bucket; the connection stands for as long as the context."""
        async with open_store(self.config) as store:
            yield Backups(store)

    def runs_now(self, host: str | None = None) -> list[StoredRun]:
        """`Backups.runs` for scripts, to be called where no event loop runs."""

        async def work() -> list[StoredRun]:
            async with self.backups() as backups:
                return await backups.runs(host)

        return uvloop.run(work())

    def restore_now(
        self,
        name: str,
        target: str | os.PathLike[str],
        paths: Sequence[str | bytes | os.PathLike[str]] = (),
        *,
        host: str | None = None,
        options: Options | None = None,
    ) -> Report:
        """`Backups.find` and `Backups.restore` for scripts, to be called where no event loop runs."""

        async def work() -> Report:
            async with self.backups() as backups:
                found = await backups.find(name, host or self.config.content.host)
                chosen = options or Options(spool=spool_of(self.config))
                return await backups.restore(found.run, target, paths, chosen)

        return uvloop.run(work())


class Backups:
    """The backups in one bucket, of all hosts. `store` counts what the looking costs."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    async def runs(self, host: str | None = None) -> list[StoredRun]:
        """All runs, or those of one host, by host and start; see `StoredRun` for what is odd about one."""
        return await stored_runs.runs(self.store, host)

    async def outlines(self, runs: Sequence[StoredRun]) -> list[Outline]:
        """What these runs' manifests say of themselves: promise, counts, problems; one small read or two for each."""
        return await outlines.outlines(self.store, runs)

    async def find(self, name: str = LATEST, host: str | None = None, version: str | None = None) -> Found:
        """
        The run of that name, or with enough of its beginning; `latest` is the newest.

        `version` chooses between manifests where a name has several. `NoSuchRun`,
        `UsageError` where the name means several runs, `FormatError` and `StoreError`.
        """
        return await stored_runs.find(self.store, name, host, version)

    def entries(self, run: StoredRun) -> AsyncGenerator[Entry, None]:
        """
        All that a run's manifest says, in its order.

        Whether it is whole is known at its end alone (`FormatError`): nothing may be
        done on the word of an entry before that.
        """
        return stored_runs.entries(self.store, run)

    def batches(self, run: StoredRun, only: Selection | None = None) -> AsyncGenerator[list[Entry], None]:
        """
        The same, some entries at a time.

        With `only` those that are selected, and others: of a large backup a few small reads bring them.
        """
        return stored_runs.batches(self.store, run, only=None if only is None else only.stretches())

    async def restore(
        self,
        run: StoredRun,
        target: str | bytes | os.PathLike[str],
        paths: Sequence[str | bytes | os.PathLike[str]] = (),
        options: Options | None = None,
        watcher: RestoreWatcher | None = None,
    ) -> Report:
        """
        Put files back beneath `target`: all of them, or these absolute paths and what lies beneath them.

        What could not be restored is in the report; `RestoreError` where nothing could.
        Lists that are too long for memory wait in `options.spool` (`spool_of` says where it is best).
        """
        wanted = [os.fsencode(path) for path in paths]
        return await restore(self.store, run, wanted, os.fsencode(target), options, watcher)

    async def file(self, run: StoredRun, path: str | bytes | os.PathLike[str]) -> File:
        """What a run's manifest says of the regular file of that absolute path. `RestoreError` where it has none."""
        return await single_files.find_file(self.store, run, os.fsencode(path))

    def file_content(self, file: File) -> AsyncGenerator[bytes, None]:
        """Its bytes; of a large file the last of them come only when the hash of all is right."""
        return single_files.content(self.store, file)

    async def snapshot(self, run: StoredRun, name: str) -> Snapshot:
        """What a run's manifest says of the snapshot of that name. `RestoreError` where it has none."""
        return await snapshots.find_snapshot(self.store, run, name)

    def snapshot_data(self, snapshot: Snapshot) -> AsyncGenerator[bytes, None]:
        """Its bytes; the last of them come only when the hash of all is right."""
        return snapshots.data(self.store, snapshot)

    async def is_whole(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot's bytes are those that were backed up, without handing any out."""
        return await snapshots.is_whole(self.store, snapshot)
