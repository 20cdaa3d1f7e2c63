"""What could not be restored, and why: counted, and told to people."""

import errno

from sysbackup.errors import RestoreError
from sysbackup.files.target_tree import InTheWay
from sysbackup.recovery.restore_report import Outcome

_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def refused(outcome: Outcome, path: bytes, exc: Exception) -> None:
    """Count an entry that was not restored. `RestoreError` where nothing after it can go better."""
    if isinstance(exc, InTheWay):
        outcome.block(path, str(exc))
    else:
        outcome.fail(path, reason(exc))


def reason(exc: Exception) -> str:
    """
    What went wrong with one entry, for people.

    `RestoreError` where nothing after it can go better: a full or read-only disk.
    """
    if not isinstance(exc, OSError):
        return str(exc)
    said = exc.strerror or str(exc)
    if exc.errno in _HOPELESS:
        raise RestoreError(
            f"the target cannot be written any more: {said}. What was restored so far is whole and stays:"
            " make room, then restore again, which passes over what is there and right"
        ) from exc
    return said
