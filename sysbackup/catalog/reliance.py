"""What a run may rely on, by what it promises."""

from dataclasses import dataclass

from sysbackup.catalog.rows import ObjectRow
from sysbackup.model import Lock, LockMode

FIRMNESS = (LockMode.NONE, LockMode.GOVERNANCE, LockMode.COMPLIANCE)
"""From the least firm to the firmest: COMPLIANCE cannot be lifted, GOVERNANCE by few."""


@dataclass(frozen=True, slots=True)
class Reliance:
    """
    The rule of one run, which promises until `promise`.

    With `doubting`, what nobody has compared with its hash is not relied on.
    """

    promise: Lock
    doubting: bool

    def short(self, row: ObjectRow) -> bool:
        """Whether the run must see to an object before it may rely on it."""
        return self.lapses(row) or not self.trusts(row)

    def lapses(self, row: ObjectRow) -> bool:
        """Whether that is for its lock: all that counts of what a list needs, since its maker has proven that."""
        loose = FIRMNESS.index(LockMode(row.mode)) < FIRMNESS.index(self.promise.mode)
        return row.until < int(self.promise.until.timestamp()) or loose or not self._named(row)

    def holds(self, row: ObjectRow) -> bool:
        """Whether a manifest of the run may rely on an object."""
        return self.lasts(row) and self.trusts(row)

    def lasts(self, row: ObjectRow) -> bool:
        """Whether its lock does for that."""
        return self._named(row) and row.stored.lock.covers(self.promise)

    def trusts(self, row: ObjectRow) -> bool:
        """Whether an object holds what it is said to hold, as far as this run is concerned."""
        return bool(row.checked or not self.doubting)

    def _named(self, row: ObjectRow) -> bool:
        # what has no version id anybody who may write may replace
        return bool(row.version) or self.promise.mode is LockMode.NONE
