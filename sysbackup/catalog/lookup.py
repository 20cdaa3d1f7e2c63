"""
What processes beside the run's own may ask of its catalog.

They write nothing: what is to be noted of their questions they hand to the run, whose session takes it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sysbackup.model import FileState, Location


class Stored(NamedTuple):
    """Which contents are stored, and those of them that are to be noted as used (`Contents.use`)."""

    shas: set[bytes]
    used: list[bytes]


class Unchanged(NamedTuple):
    """
    The contents of unchanged files by (device, inode), and what is to be noted of them.

    `places` are of those that a manifest may rely on as they are, for as long as nothing that was
    stored is lost: where the contents lie. `used` is for `Contents.use`; `met` for `Files.met`:
    files that have not been noted as met for days.
    """

    shas: dict[tuple[int, int], bytes]
    places: dict[tuple[int, int], Location]
    used: list[bytes]
    met: list[tuple[int, int]]


class Lookup(Protocol):
    """
    A look at the catalog of a run that goes on, for one thread; it sees what the run has written so far.

    It does not know which objects are to be stored anew (`Renewals.leave`): what lies in
    them counts as stored. Raises what a session does.
    """

    def stored(self, shas: Iterable[bytes]) -> Stored:
        """Those of the contents that are stored; nothing is claimed."""
        ...

    def unchanged(self, states: Sequence[FileState]) -> Unchanged:
        """Those files that are as they were and whose content is stored; see `Files.unchanged`."""
        ...

    def locate(self, shas: Iterable[bytes]) -> dict[bytes, Location]:
        """Where the contents lie, for a manifest: see `Contents.locate` with `promised`."""
        ...

    def close(self) -> None:
        """Let go of the catalog."""
        ...
