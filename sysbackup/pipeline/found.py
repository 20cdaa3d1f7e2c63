"""What looks at some paths found."""

from dataclasses import dataclass, field
from typing import NamedTuple

from sysbackup.disk.sorting import Record
from sysbackup.files.folders import missing
from sysbackup.files.reading import Reading
from sysbackup.formats import manifest
from sysbackup.model import FileState, Problem
from sysbackup.pipeline.file_facts import moves, unreadable


class Unhashed(NamedTuple):
    """
    A file that was read, and yet to be hashed: `begun` (ns since 1970) is when its reading began.

    `entry` None: there is nothing special about it (`PlainFiles`).
    """

    path: bytes
    entry: manifest.File | None
    reading: Reading
    begun: int


@dataclass(slots=True)
class Found:
    """
    What one look at some paths found.

    `unhashed` are the files that were read, until `Looker.finish` makes of them entries and
    `contents`, by hash, each once, whether they are stored or not. `later` has the
    files that did not fit the allowance, with their sizes, `large` the paths of files
    too large for memory, `vanished` those of what was gone when it was to be read.
    `number` says which look it was: of two at one path the later one counts.
    """

    number: int = 0
    records: list[Record] = field(default_factory=list)
    unhashed: list[Unhashed] = field(default_factory=list)
    contents: dict[bytes, bytes] = field(default_factory=dict)
    states: list[FileState] = field(default_factory=list)
    later: list[tuple[bytes, int]] = field(default_factory=list)
    large: list[bytes] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    vanished: list[bytes] = field(default_factory=list)
    warned: list[tuple[bytes, str]] = field(default_factory=list)
    files: int = 0
    bytes_read: int = 0
    bytes_unchanged: int = 0
    sockets: int = 0

    def settle(self, path: bytes, exc: Exception) -> bool:
        """Note what an error at a path means; False where another look may find more."""
        if not moves(exc):
            self.problems.append(unreadable(path, exc))
        elif missing(path):
            self.vanished.append(path)
        else:
            return False
        return True

    def add(self, found: "Found") -> None:
        """Add what a further look found; what it has read is dealt with."""
        self.records += found.records
        self.states += found.states
        self.large += found.large
        self.problems += found.problems
        self.vanished += found.vanished
        self.warned += found.warned
        self.files += found.files
        self.bytes_read += found.bytes_read
        self.bytes_unchanged += found.bytes_unchanged
        self.sockets += found.sockets
