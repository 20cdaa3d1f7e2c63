"""What is known of files and directories before they are looked at."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from sysbackup.contents.lookups import Lookup
from sysbackup.model import FileState, Location

_RECORDED_AT_MOST = 50_000  # directories remembered as recorded; beyond that some are written twice and merged

Contents = Mapping[tuple[int, int], bytes]
"""Hashes of files by (device, inode)."""

Locations = Mapping[tuple[int, int], Location]
"""Where their contents lie."""


class Memory(Protocol):
    """What is known of files and directories before they are looked at."""

    @property
    def knows_files(self) -> bool:
        """Whether any file may be known."""
        ...

    def unchanged(self, states: Sequence[FileState]) -> tuple[Contents, Locations]:
        """The hashes of those files that need not be read, and where some of their contents lie."""
        ...

    def first_seen(self, path: bytes) -> bool:
        """Whether nobody has recorded this directory yet; who asks is going to."""
        ...

    def not_recorded(self, path: bytes) -> None:
        """The directory could not be recorded after all."""
        ...


class Remembered:
    """The `Memory` of an examiner: of the catalog, and of what was recorded before. Keeps what is to be noted of it."""

    def __init__(self, lookup: Lookup, *, files: bool) -> None:
        self._lookup = lookup
        self._files = files
        self._recorded: set[bytes] = set()
        self.rescan = False
        self.met: list[tuple[int, int]] = []
        self.used: list[bytes] = []

    @property
    def knows_files(self) -> bool:
        """See `Memory`."""
        return self._files and not self.rescan

    def unchanged(self, states: Sequence[FileState]) -> tuple[Contents, Locations]:
        """See `Memory`."""
        if not self.knows_files:
            return {}, {}
        found = self._lookup.unchanged(states)
        self.met += found.met
        self.used += found.used
        return found.shas, found.places

    def first_seen(self, path: bytes) -> bool:
        """See `Memory`."""
        if path in self._recorded:
            return False
        if len(self._recorded) >= _RECORDED_AT_MOST:
            self._recorded.clear()
        self._recorded.add(path)
        return True

    def not_recorded(self, path: bytes) -> None:
        """See `Memory`."""
        self._recorded.discard(path)
