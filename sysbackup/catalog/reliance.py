"""What a run may rely on, by what it promises: as a question to the database, and of one row."""

from dataclasses import dataclass

from sysbackup.catalog.rows import ObjectRow
from sysbackup.model import Lock, LockMode

# Modes that keep at least what each mode promises (S3: COMPLIANCE cannot be lifted, GOVERNANCE by few).
_AS_FIRM = {
    LockMode.COMPLIANCE: "('COMPLIANCE')",
    LockMode.GOVERNANCE: "('COMPLIANCE', 'GOVERNANCE')",
    LockMode.NONE: "('COMPLIANCE', 'GOVERNANCE', 'none')",
}


@dataclass(frozen=True, slots=True)
class Reliance:
    """
    The rule of one run, which promises until `promise`.

    With `doubting`, what nobody has compared with its hash is not relied on.
    """

    promise: Lock
    doubting: bool

    @property
    def short(self) -> str:
        """SQL that is true of objects that the run must see to before it may rely on them."""
        until = int(self.promise.until.timestamp())
        short = f"(until < {until} OR mode NOT IN {_AS_FIRM[self.promise.mode]}"
        short += " OR checked = 0" if self.doubting else ""
        # what has no version id anybody who may write may replace
        return short + (")" if self.promise.mode is LockMode.NONE else " OR version = '')")

    def holds(self, row: ObjectRow) -> bool:
        """Whether a manifest of the run may rely on an object."""
        named = bool(row.version) or self.promise.mode is LockMode.NONE
        return named and bool(row.checked or not self.doubting) and row.stored.lock.covers(self.promise)
