"""
Everything that can end a command, in one tree.

What went wrong with one source is not here: that is a `Problem`, a value that
reaches the manifest and the report. An exception of this tree ends the whole
command, and each class knows its exit code::

    SysbackupError                1   the run failed; no manifest was written
      UsageError                  2   the command was called wrongly
      ConfigError                78   the configuration cannot be used
      BusyError                  75   another run is in progress
      DaemonUnreachable          69   no daemon runs, or it does not answer
      SpoolError                  1   the spool or the catalog cannot be written
        CatalogUnusable           1   the catalog is damaged: a run builds it anew and goes on
      FormatError                 1   bytes from the bucket are not what they claim
      RestoreError                1   nothing could be restored at all
        NoSuchRun                 1   the bucket holds no run of that name
      ProgramError                1   a program could not be run to its end
      StoreError                  1   the store failed
        AccessDenied             77   the store, or AWS, denies access
        BucketUnusable           78   no such bucket, or one without Object Lock
        ObjectGone                1   the object or version does not exist
        LockNotKept               1   the store does not keep locks
        StoreUnavailable          1   the store does not answer

The message of each says what happened, to which file or object, and what to
do. It never holds a secret.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar


class SysbackupError(Exception):
    """A command ends here; `str()` of it is for the person at the terminal."""

    exit_code: ClassVar[int] = 1


class UsageError(SysbackupError):
    """The command was called with something it cannot take."""

    exit_code = 2


class ConfigError(SysbackupError):
    """The configuration cannot be used; `mistakes` has one sentence for each thing to mend."""

    exit_code = 78

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes: tuple[str, ...] = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class BusyError(SysbackupError):
    """Another run holds the lock of this catalog."""

    exit_code = 75


class DaemonUnreachable(SysbackupError):
    """No daemon runs here, or it does not answer, or not to us."""

    exit_code = 69


class SpoolError(SysbackupError):
    """The cache directory cannot take what a run must set down: full, read-only, damaged."""


class CatalogUnusable(SpoolError):
    """The catalog is damaged, or it is about another bucket: it must be set aside and built anew."""


class FormatError(SysbackupError):
    """A manifest, pack or index is damaged, incomplete, or written by something else."""


class RestoreError(SysbackupError):
    """A restore could not begin, or could not go on at all."""


class NoSuchRun(RestoreError):
    """The bucket holds no run of that name, of that host."""


class ProgramError(SysbackupError):
    """A picker, snapshotter or restore command could not be started or did not end well."""


class StoreError(SysbackupError):
    """The store answered with an error that trying again did not mend."""


class AccessDenied(StoreError):
    """S3 or STS denies access, or the credentials are wrong, expired or missing a right."""

    exit_code = 77


class BucketUnusable(StoreError):
    """The bucket does not exist or cannot hold locked objects."""

    exit_code = 78


class ObjectGone(StoreError):
    """The object, or the named version of it, does not exist (any more)."""


class LockNotKept(StoreError):
    """The store took an object but did not keep, or let us set, its lock."""


class StoreUnavailable(StoreError):
    """The store could not be reached, or went on refusing for lack of capacity, for `give_up_after`."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a group holds, those of groups in it too, in order; what is no group stands for itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def foremost(error: BaseException) -> BaseException:
    """The one error of a group that people are to see: ours before others, the first before the rest."""
    found = list(leaves(error))
    return next((leaf for leaf in found if isinstance(leaf, SysbackupError)), found[0])


def expected(error: BaseException) -> list[SysbackupError] | None:
    """The errors for people that this is, or is a group of; None where anything else is among them."""
    found = list(leaves(error))
    ours = [leaf for leaf in found if isinstance(leaf, SysbackupError)]
    return ours if len(ours) == len(found) else None
