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
        loose = FIRMNESS.index(LockMode(row.mode)) < FIRMNESS.index(self.promise.mode)
        return row.until < int(self.promise.until.timestamp()) or loose or not self._trusted(row)

    def holds(self, row: ObjectRow) -> bool:
        """Whether a manifest of the run may rely on an object."""
        return self._trusted(row) and row.stored.lock.covers(self.promise)

    def _trusted(self, row: ObjectRow) -> bool:
        # what has no version id anybody who may write may replace
        named = bool(row.version) or self.promise.mode is LockMode.NONE
        return named and bool(row.checked or not self.doubting)
