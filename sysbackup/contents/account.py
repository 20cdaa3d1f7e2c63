"""What a run's content store tells of its work; the pipeline's tally listens."""

from typing import Protocol

from sysbackup.model import Problem, StoredObject


class Account(Protocol):
    """Who keeps count. For the event loop's thread alone."""

    sending: int
    """Objects on their way that the store has not confirmed."""
    renewed: int
    """Objects that got a later lock."""

    def stored(self, stored: StoredObject, contents: int = 1, *, plain: int) -> None:
        """The store has confirmed an object with so many contents of `plain` bytes."""
        ...

    def problem(self, problem: Problem) -> None:
        """Something that was relied on is not as it should be."""
        ...
