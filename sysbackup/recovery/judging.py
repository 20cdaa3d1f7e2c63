"""
Which manifest is believed: what a bucket shows of a run, and what is odd about that.

A manifest's key is written once, locked, and a secret until then. So a delete
marker over it hides nothing here, and where a key has several versions, somebody
wrote the later ones afterwards: the oldest is the genuine one. What can be seen
to be wrong otherwise is told of.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sysbackup.errors import RestoreError
from sysbackup.formats import keys
from sysbackup.model import names_manifest, run_started, worked_under
from sysbackup.store.port import Version

_NAMED = 8  # how many runs or hosts a message lists before it ends in an ellipsis

# By how much a machine's clock may be ahead of the store's, which alone nobody can set.
_AHEAD = timedelta(minutes=15)
# How long after its start a manifest may be stored: a first backup over a slow line takes days.
_LATE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """
    One run: whose, and where its manifest lies.

    `versions` are all that lie under the manifest's key, the oldest first, but
    for delete markers. The first is the genuine one and is `used`, unless another
    was chosen; equal ones are the same, put again because an answer was lost.
    `hidden` tells that a delete marker lies on top. `claimants` are the names of
    all manifests of what must be one run, where these are several: only one is its
    own. Each of these is the work of somebody else than sysbackup.
    """

    host: str
    run: str
    key: str
    versions: tuple[Version, ...]
    used: Version
    hidden: bool = False
    claimants: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """The id of the manifest's version."""
        return self.used.version

    @property
    def size(self) -> int:
        """The manifest's bytes."""
        return self.used.size

    @property
    def stored(self) -> datetime:
        """When the manifest was stored, by the store's clock."""
        return self.used.modified

    @property
    def started(self) -> datetime:
        """When the run began, as its name says."""
        return run_started(self.run)

    @property
    def distinct(self) -> tuple[Version, ...]:
        """The versions without those that equal an older one."""
        found: dict[object, Version] = {}
        for version in self.versions:
            found.setdefault((version.size, version.etag) if version.etag else version.version, version)
        return tuple(found.values())

    @property
    def rivals(self) -> int:
        """How many versions stand beside the genuine one and are not equal to it."""
        return sum(not version.equals(self.versions[0]) for version in self.versions)

    @property
    def disputed(self) -> bool:
        """Whether somebody may want to choose another version, or another name."""
        return bool(self.rivals or self.claimants)

    @property
    def future(self) -> bool:
        """Whether it was stored before it began, as its name has it."""
        return self.started - self.stored > _AHEAD  # their sum may be beyond what a datetime can hold

    @property
    def late(self) -> bool:
        """Whether it was stored longer after its start than runs take."""
        return self.stored - self.started > _LATE

    def but(self, version: str) -> "StoredRun":
        """The same with that version chosen. `RestoreError` where the key has none of that id."""
        for found in self.versions:
            if found.version == version:
                return replace(self, used=found)
        known = some([str(v.version) for v in self.distinct])
        raise RestoreError(f"the manifest of run {self.run} of {self.host} has no version {version!r}; it has: {known}")

    @property
    def oddity(self) -> str | None:
        """What people must know where the bucket shows more than the one version there should be, or another time."""
        return "; ".join(self._oddities()) or None

    def _oddities(self) -> Iterator[str]:
        if not self.used.equals(self.versions[0]):
            yield (
                f"version {self.version} of the manifest {self.key} was chosen; the oldest, {self.versions[0].version},"
                " is the genuine one as far as can be known"
            )
        elif self.rivals:
            yield (
                f"the manifest {self.key} has been written over {self.rivals} time(s) by something that is"
                f" not sysbackup; the oldest version, {self.version}, is the genuine one and is used"
            )
        elif self.hidden:
            yield f"a delete marker hides the manifest {self.key}; its version {self.version} is there and is used"
        if self.claimants:
            yield (
                f"there are {len(self.claimants)} manifests of this run, {some(self.claimants)}, and only one is its"
                f" own: that which {self.host} named at the end of the run, in its log and its history"
            )
        if self.future:
            yield (
                f"its name says that the run began at {self.started:%Y-%m-%d %H:%M} UTC, but the manifest was stored"
                f" before that, at {self.stored:%Y-%m-%d %H:%M} UTC: the clock of {self.host} was wrong, or it is false"
            )
        if self.late:
            yield (
                f"its name says that the run began at {self.started:%Y-%m-%d %H:%M} UTC, but the manifest was stored"
                f" only {(self.stored - self.started).days} days later, at {self.stored:%Y-%m-%d %H:%M} UTC: the run"
                " took long, or somebody wrote it afterwards"
            )


def genuine(versions: Sequence[Version]) -> Iterator[StoredRun]:
    """The run behind all versions of one key, newest first; none where the key is not a manifest's."""
    real = tuple(v for v in reversed(versions) if not v.marker)
    parts = keys.manifest_parts(versions[0].key) if real else None
    if parts is not None and names_manifest(parts[1]):
        yield StoredRun(*parts, real[0].key, real, real[0], versions[0].marker)


def disputed(found: Iterable[StoredRun]) -> list[StoredRun]:
    """The same runs by their names, knowing of each other where several claim to be one."""
    ordered = sorted(found, key=lambda r: (r.run, r.host))
    claims: dict[tuple[str, str | None], list[str]] = {}
    for run in ordered:
        claims.setdefault((run.host, worked_under(run.run)), []).append(run.run)
    shared = {claim: tuple(names) for claim, names in claims.items() if len(names) > 1 and claim[1] is not None}
    return [
        replace(run, claimants=claimants) if (claimants := shared.get((run.host, worked_under(run.run)))) else run
        for run in ordered
    ]


def some(names: Sequence[str]) -> str:
    """A few names as a message lists them."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
