"""Whose run it is and until when its objects are locked: what every stage that stores something must know."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sysbackup.config.sections import Content
from sysbackup.model import Lock, LockMode, working_name


@dataclass(frozen=True, slots=True)
class Naming:
    """
    The run's host, working name (`model.working_name`) and start, and its two locks.

    `promise` is for what only this run names, `contents` for what later runs
    may reuse: longer by `renewal_slack`, so that renewals are rare.
    """

    host: str
    run: str
    started: datetime
    promise: Lock
    contents: Lock

    @property
    def promised(self) -> datetime | None:
        """Until when nobody can delete what this run stores; None where nothing is locked."""
        return None if self.promise.mode is LockMode.NONE else self.promise.until

    def lasting(self, now: datetime) -> "Naming":
        """
        The same, with locks that end a day from `now` at the earliest.

        For a run that takes longer than what it promises: S3 refuses a lock that
        has ended already.
        """
        least = now.replace(microsecond=0) + timedelta(days=1)
        if self.promise.until >= least:
            return self
        return replace(self, promise=Lock(self.promise.mode, least))


def naming(settings: Content, started: datetime) -> Naming:
    """The names and locks of a run that starts now. S3's dates have whole seconds, so the promise has too."""
    until = started.replace(microsecond=0) + timedelta(days=settings.days_retained)
    return Naming(
        settings.host,
        working_name(started),
        started,
        Lock(settings.lock_mode, until),
        Lock(settings.lock_mode, until + timedelta(seconds=settings.renewal_slack)),
    )
