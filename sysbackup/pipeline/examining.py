"""
Examining: paths are looked at, and what is found is kept.

The work on files runs in threads, one job for a batch of paths: per-file
hops between loop and thread would cost more than the files do.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sysbackup.contents.content_store import ContentStore
from sysbackup.contents.keeping import Chosen
from sysbackup.disk.sorting import Sorter
from sysbackup.files.owners import Owners
from sysbackup.model import FileState
from sysbackup.pipeline.looking import Found, Looker, hash_all

_RECORDED_AT_MOST = 50_000  # directories remembered as recorded; beyond that some are written twice and merged

# Looking at files is short system calls one after another: two threads that do it at the same time hand the
# interpreter's lock to and fro at each of them (measured: 5.7 s of processor for 117,000 unchanged files, 4.0 s with
# one thread). So they take turns, while hashing and compressing go on beside them. Where the turn takes longer than
# this, the disk or the network is what they wait for, and waiting goes well together.
_PATIENCE = 0.05  # seconds


class Remembered:
    """What the looker asks for, of the content store and of this run; `rescan`: every file is read."""

    def __init__(self, contents: ContentStore, *, rescan: bool) -> None:
        self._contents = contents
        self._rescan = rescan
        self._recorded: set[bytes] = set()
        self._lock = threading.Lock()

    def unchanged(self, states: Sequence[FileState]) -> Mapping[tuple[int, int], bytes]:
        """See `looking.Memory`."""
        return {} if self._rescan else self._contents.unchanged(states)

    def first_seen(self, path: bytes) -> bool:
        """See `looking.Memory`."""
        with self._lock:
            if path in self._recorded:
                return False
            if len(self._recorded) >= _RECORDED_AT_MOST:
                self._recorded.clear()
            self._recorded.add(path)
            return True

    def not_recorded(self, path: bytes) -> None:
        """See `looking.Memory`."""
        with self._lock:
            self._recorded.discard(path)


@dataclass(frozen=True, slots=True)
class Examined:
    """What one job found, and what of it is to be stored. Entries of the manifest are in the spool already."""

    found: Found
    chosen: Chosen


class Examiner:
    """The work of one job; one examiner serves all threads of a run."""

    def __init__(
        self,
        contents: ContentStore,
        spool: Sorter,
        owners: Owners,
        lock_timeout: float,
        stop: threading.Event,
        *,
        rescan: bool = False,
    ) -> None:
        self._contents = contents
        self._spool = spool
        self._looker = Looker(Remembered(contents, rescan=rescan), owners, lock_timeout, stop)
        self._turn = threading.Lock()

    def examine(self, paths: Sequence[bytes], allowance: int) -> Examined:
        """Record what lies at the paths and read the files among it, about `allowance` bytes of them."""
        turn = self._turn.acquire(timeout=_PATIENCE)
        try:
            found = self._looker.look(paths, allowance)
        finally:
            if turn:
                self._turn.release()
        hash_all(found)
        chosen = self._contents.choose(found.contents)
        self._contents.remember(found.states)
        self._spool.add_all(found.records)
        found.records.clear()
        return Examined(found, chosen)
