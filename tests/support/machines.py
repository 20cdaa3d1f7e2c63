"""Machines that share a bucket in memory: each with a host name, a tree and a catalog of its own."""

import hashlib
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import capture_logs
from structlog.typing import EventDict

from sysbackup.catalog.interface import Info
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.contents.cache_directory import catalog_path
from sysbackup.errors import AccessDenied
from sysbackup.formats import manifest
from sysbackup.formats.run_result import Summary
from sysbackup.model import Clock, Location
from sysbackup.pipeline.backup import back_up
from sysbackup.recovery.restore_report import Report
from sysbackup.store.port import ObjectStore
from tests.support import backups
from tests.support.chunking import places
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore

SMALL = [b"small %d\n" % n * 50 for n in range(100)]
MIDDLE = b"middle " * (1 << 20)


@dataclass(slots=True)
class Told:
    """One run: its summary, what it said in the log, the keys that it added to the bucket."""

    summary: Summary
    log: list[EventDict]
    stored: list[str]

    @property
    def kinds(self) -> Counter[str]:
        """How many objects of each kind it stored."""
        return Counter(key.split("/")[0] for key in self.stored)

    @property
    def requests(self) -> Counter[str]:
        """How many requests of each kind it made."""
        return Counter(self.summary.requests)

    def said(self, event: str) -> list[EventDict]:
        """The log's lines of one event."""
        return [line for line in self.log if line["event"] == event]


@dataclass
class Machine:
    """A server whose tree lies in `base`; `content` are settings of that section."""

    base: Path
    host: str
    bucket: MemoryBucket
    clock: Clock = field(default_factory=SystemClock)
    content: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tree = self.base / self.host / "tree"
        self.tree.mkdir(parents=True)
        self.config = backups.configured(self.base / self.host, {"host": self.host} | dict(self.content))
        backups.finder(self.config, self.tree)

    @property
    def catalog(self) -> Path:
        """Its catalog's file."""
        return catalog_path(self.config.cache)

    def write(self, name: str, data: bytes | bytearray | str) -> Path:
        """A file in its tree."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def with_settings(self, **content: Any) -> Config:
        """Its configuration with other settings of `[content]`."""
        return msgspec.structs.replace(self.config, content=msgspec.structs.replace(self.config.content, **content))

    def back_up(self, store: ObjectStore | None = None, *, rescan: bool = False, **content: Any) -> Told:
        """One run, with other settings of `[content]` for this once. No two runs begin in the same second."""
        if isinstance(self.clock, ManualClock):
            self.clock.turn(seconds=5)
        store = store or MemoryStore(self.bucket)
        before = self._versions()
        with capture_logs() as log:
            summary = backups.run(back_up(self.with_settings(**content), store, self.clock, rescan=rescan))
        return Told(summary, log, [key for key, version in self._versions() if (key, version) not in before])

    def _versions(self) -> dict[tuple[str, str], None]:
        kept = (k for versions in self.bucket.objects.values() for k in versions if not k.marker)
        return dict.fromkeys((k.key, k.version) for k in kept)

    def files(self, told: Told) -> dict[str, manifest.File]:
        """The files of a run's manifest by their names in the tree."""
        said = backups.nodes(backups.entries(MemoryStore(self.bucket), told.summary))
        root = bytes(self.tree) + b"/"
        return {
            os.fsdecode(path.removeprefix(root)): node for path, node in said.items() if isinstance(node, manifest.File)
        }

    def places(self, told: Told) -> dict[str, Location]:
        """Where a run's manifest says that each file's content lies."""
        return {name: file.location for name, file in self.files(told).items() if file.location is not None}

    def restored(self, told: Told) -> Report:
        """Restore a run beneath `restored/<run>`."""
        target = self.base / "restored" / told.summary.run
        return backups.restored(MemoryStore(self.bucket), told.summary, target, spool=self.base)

    def restores(self, told: Told) -> bool:
        """Whether a run's manifest brings every file back as it is in the tree now, each content locked as promised."""
        for name, file in self.files(told).items():
            if file.location is not None:
                promise = told.summary.promise
                for at in places(self.bucket, file.location):
                    kept = self.bucket.find(at.key, at.version)
                    if kept.lock is None or promise is None or kept.lock.until < promise:
                        return False
            if file.sha != hashlib.sha256((self.tree / name).read_bytes()).hexdigest():
                return False
        report = self.restored(told)
        found = {str(path.relative_to(self.tree)): path.read_bytes() for path in self.tree.rglob("*") if path.is_file()}
        back = Path(f"{self.base / 'restored' / told.summary.run}{self.tree}")
        return not report.problems and found == {name: (back / name).read_bytes() for name in self.files(told)}

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask its catalog, or change what is in it."""
        with closing(sqlite3.connect(self.catalog)) as db, db:
            return db.execute(statement, values).fetchall()

    def knows(self) -> Info:
        """What is in its catalog."""
        with SqliteCatalog(self.catalog) as catalog:
            return catalog.info()


def alike(base: Path, bucket: MemoryBucket, host: str, **content: Any) -> Machine:
    """A machine with the same tree as all that are made by this: `SMALL` contents, and one of `MIDDLE` size."""
    made = Machine(base, host, bucket, bucket.clock, content)
    for n, data in enumerate(SMALL):
        made.write(f"small{n:02}", data)
    made.write("middle", MIDDLE)
    return made


class Unreadable(MemoryStore):
    """A store whose policy lets us read the index alone, as README's for a writer does."""

    def read(self, key: str, version: str | None, start: int = 0, length: int | None = None) -> Any:
        if not key.startswith("index/"):
            raise AccessDenied(f"GetObject on {key!r} was denied")
        return super().read(key, version, start, length)


_watching: list[str] | None = None
_watched = False


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watching is not None and isinstance(arguments[0], str | bytes):
        _watching.append(os.path.basename(os.fsdecode(arguments[0])))


@contextmanager
def opens() -> Iterator[list[str]]:
    """The names, without their directories, of all that this process opens meanwhile, by whatever call of Python's."""
    global _watching, _watched  # noqa: PLW0603  # an audit hook stays for ever: there can be but one
    if not _watched:
        sys.addaudithook(_audit)
        _watched = True
    found: list[str] = []
    _watching = found
    try:
        yield found
    finally:
        _watching = None
