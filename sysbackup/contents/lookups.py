"""Looking contents and files up from another process than the run's own."""

import os
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from sysbackup.catalog.lookup import Lookup
from sysbackup.catalog.sqlite_lookup import SqliteLookup
from sysbackup.model import Lock, LockMode

__all__ = ["Lookup", "LookupOrder", "lookup_order", "open_lookup"]


class LookupOrder(Struct, frozen=True, array_like=True):
    """
    Which catalog, whether it knew any `files` when the run began, and what the run may rely on.

    `until` and `now` are in seconds since 1970.
    """

    catalog: bytes
    files: bool
    mode: str
    until: float
    doubting: bool
    sampling: bool
    now: float


def lookup_order(
    catalog: Path, promise: Lock, now: datetime, *, files: bool, doubting: bool, sampling: bool
) -> LookupOrder:
    """What to look up in which catalog, for a run that began `now`."""
    until = promise.until.timestamp()
    return LookupOrder(os.fsencode(catalog), files, promise.mode.value, until, doubting, sampling, now.timestamp())


def open_lookup(order: LookupOrder) -> Lookup:
    """The look-up itself, for the thread that opens it."""
    promise = Lock(LockMode(order.mode), datetime.fromtimestamp(order.until, UTC))
    now = datetime.fromtimestamp(order.now, UTC)
    return SqliteLookup(Path(os.fsdecode(order.catalog)), promise, order.doubting, now, sampling=order.sampling)
