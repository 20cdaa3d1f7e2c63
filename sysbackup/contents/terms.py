"""Whose run it is and until when its objects are locked: what every stage that stores something must know."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sysbackup.config.sections import Content
from sysbackup.model import Lock, LockMode, RunIdentity, working_name


@dataclass(frozen=True, slots=True)
class Terms:
    """
    The run under its working name (`model.working_name`), and its two locks.

    `promise` is for what only this run names, `contents` for what later runs
    may reuse: longer by `renewal_slack`, so that renewals are rare.
    """

    identity: RunIdentity
    promise: Lock
    contents: Lock

    @property
    def host(self) -> str:
        """Whose run it is."""
        return self.identity.host

    @property
    def run(self) -> str:
        """Its working name."""
        return self.identity.run

    @property
    def started(self) -> datetime:
        """When it started."""
        return self.identity.started

    @property
    def promised(self) -> datetime | None:
        """Until when nobody can delete what this run stores; None where nothing is locked."""
        return self.identity.promise

    def lasting(self, now: datetime) -> "Terms":
        """
        The same, with locks that end a day from `now` at the earliest.

        For a run that takes longer than what it promises: S3 refuses a lock that
        has ended already.
        """
        least = now.replace(microsecond=0) + timedelta(days=1)
        if self.promise.until >= least:
            return self
        return replace(self, promise=Lock(self.promise.mode, least))


def terms_of(settings: Content, started: datetime) -> Terms:
    """The names and locks of a run that starts now. S3's dates have whole seconds, so the promise has too."""
    until = started.replace(microsecond=0) + timedelta(days=settings.days_retained)
    promised = None if settings.lock_mode is LockMode.NONE else until
    return Terms(
        RunIdentity(settings.host, working_name(started), started, promised),
        Lock(settings.lock_mode, until),
        Lock(settings.lock_mode, until + timedelta(seconds=settings.renewal_slack)),
    )
