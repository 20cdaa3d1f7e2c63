"""The entries of a run until its manifest is written: a file for each seat, and what was acknowledged of it."""

import tempfile
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.disk.sorted_runs import Change, SortedRun, SortedRuns, State, stretch
from sysbackup.disk.sorting import Record, spooling
from sysbackup.formats.manifest_members import ManifestMember
from sysbackup.pipeline.examiner_messages import Stretch

# What a seat's slot holds before it is sorted into its file: some 20,000 entries.
SLOT = 6 << 20


class EntrySpool:
    """
    Takes the entries of all seats. `seats` of them are examiners', one more is the run's own.

    The files have no names: they vanish with the process, whatever becomes of it.
    """

    def __init__(self, directory: Path, seats: int) -> None:
        self.directory = directory
        self.own = seats
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self.states = [State() for _ in range(seats + 1)]
        try:
            self.slots = self._stack.enter_context(SharedSlots(seats + 1, SLOT))
            with spooling(directory):
                files = (tempfile.TemporaryFile(dir=directory, buffering=0) for _ in range(seats + 1))  # noqa: SIM115
                self.files = [self._stack.enter_context(file).fileno() for file in files]
        except BaseException:
            self._stack.close()
            raise
        self._records = SortedRuns(self.slots.view(self.own), self.files, self.own, directory, State())

    def close(self) -> None:
        """Free memory and disk."""
        del self._records
        self._stack.close()

    def add(self, record: Record) -> None:
        """Take an entry of the run's own; may be called by several threads."""
        with self._lock:
            self._records.add_all([record])
            self.changed(self.own, self._records.change())

    def set_down(self) -> None:
        """Have the run's own entries in its file."""
        with self._lock:
            self._records.set_down()
            self.changed(self.own, self._records.change())

    def changed(self, seat: int, change: Change) -> None:
        """A seat's examiner has acknowledged this."""
        self.states[seat] = change.applied(self.states[seat])

    def runs(self) -> list[tuple[int, SortedRun]]:
        """All that was set down, each with its seat."""
        return [(seat, run) for seat, state in enumerate(self.states) for run in state.runs]

    def members(self, seat: int, stretches: Iterable[Stretch]) -> list[ManifestMember]:
        """Members of the manifest, from a seat's file. `SpoolError` where they are not what was written there."""
        file = self.files[seat]
        return [
            ManifestMember(each.first, stretch(file, each.offset, each.length, each.sha), each.sha, each.lines)
            for each in stretches
        ]
