"""
An examiner: looks at paths, reads what is new, and puts it where the store is to get it from.

It does the work of one batch after another, in a process of its own or, in small
runs, in a thread. What it has done is in its seat (`Sit`), which outlives it.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from sysbackup.concurrency.pointer import Pointer
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.contents.crossing import digests_to_bytes, states_to_bytes
from sysbackup.contents.lookups import open_lookup
from sysbackup.contents.stowing import Office, Stower
from sysbackup.disk.sorted_runs import SortedRuns, read
from sysbackup.disk.sorting import spooling
from sysbackup.files.owners import Owners
from sysbackup.formats.manifest_members import members
from sysbackup.pipeline.examiner_messages import Done, Examine, Merge, Merged, Sit, Stretch
from sysbackup.pipeline.found import Found
from sysbackup.pipeline.looking import Looker
from sysbackup.pipeline.merging import Merger
from sysbackup.pipeline.remembered import Remembered


class Examiner:
    """
    Does what it is told at its seat. Not for use by two threads at once. Close it at the end; `stop` hurries it.

    `alone`: it has its process to itself.
    """

    def __init__(
        self,
        sit: Sit,
        office: Office,
        berths: SharedSlots,
        entries: SharedSlots,
        pointer: Pointer,
        files: Sequence[int],
        stop: threading.Event,
        *,
        alone: bool,
    ) -> None:
        self._office = office
        self._files = files
        self._allowance = sit.allowance
        self._lookup = open_lookup(sit.lookup)
        self._memory = Remembered(self._lookup, files=sit.lookup.files)
        self._pointer = pointer
        self._looker = Looker(self._memory, Owners(), sit.lock_timeout, sit.sizes.whole, stop, pointer.at, alone=alone)
        self._cache = Path(os.fsdecode(sit.cache))
        self._records = SortedRuns(entries.view(sit.seat), files, sit.seat, self._cache, sit.state)
        self._stower = Stower(self._lookup, office, berths, sit.sizes, sit.pack)

    def close(self) -> None:
        """Let go of the catalog."""
        self._lookup.close()

    def examine(self, job: Examine) -> Done:
        """Record what lies at the paths, and stow what is new of it."""
        self._memory.rescan = job.rescan
        todo: Sequence[bytes] = job.paths.split(b"\0")
        all_found = Found(job.number)
        allowance, spare = self._allowance, None
        while todo:
            found = self._looker.look(todo, allowance, job.number)
            self._looker.finish(found)
            self._stower.stow(found.contents, spare, anew=job.anew)
            todo, spare = [path for path, _ in found.later], None
            if found.later:
                allowance = max(self._allowance, found.later[0][1])
                if allowance > self._allowance:
                    # once to read it, once for what is made of it
                    spare = self._office.room(2 * allowance)
            all_found.add(found)
        self._records.add_all(all_found.records)
        met, used = self._memory.met, self._memory.used
        self._memory.met, self._memory.used = [], []
        self._pointer.at(b"")
        return self._done(all_found, met, used)

    def set_down(self) -> Done:
        """Have all records in the file, and the open pack stored."""
        self._stower.flush()
        self._records.set_down()
        return self._done(Found(), [], [])

    def merge(self, job: Merge) -> Merged:
        """Make members of the manifest; they lie in the seat's file then."""
        merger = Merger(self._lookup.locate, believing=job.believing)
        stretches = []
        with spooling(self._cache):
            for member in members(merger.lines(read(self._files, job.runs, job.begin, job.end))):
                offset = self._records.append(member.packed)
                stretches.append(Stretch(member.first, offset, len(member.packed), member.sha, member.lines))
        return Merged(
            self._records.change(), stretches, dict(merger.counts), merger.size, merger.unchanged, merger.placeless
        )

    def _done(self, found: Found, met: Sequence[tuple[int, int]], used: Sequence[bytes]) -> Done:
        return Done(
            change=self._records.change(),
            pack=self._stower.open_slot,
            added=self._stower.take_added(),
            files=found.files,
            bytes_read=found.bytes_read,
            bytes_unchanged=found.bytes_unchanged,
            sockets=found.sockets,
            problems=[(problem.event, problem.source, problem.reason) for problem in found.problems],
            vanished=found.vanished,
            warned=found.warned,
            large=found.large,
            states=states_to_bytes(found.states),
            met=met,
            used=digests_to_bytes(used),
        )
