"""
What can be asked of a catalog, and told to it, in values.

`Catalog.begin` gives a run its session, in five ports; other processes have a `lookup`. The catalog in
SQLite passes the same tests as the twin in memory (`tests/support/memory_catalog.py`).

All methods may be called by any thread; none blocks for long. They raise `SpoolError` where the disk is
full or the file cannot be written, and `CatalogUnusable` where it, or a row that is needed, is damaged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Location, Lock, Member, StoredObject

Named = tuple[str, str]
"""Key and version id of an object; the latter "" on stores without versions."""

Needs = Mapping[Named, int]
"""Of a list of chunks: the objects in which these lie, and how many of their bytes."""
NO_NEEDS: Needs = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class KnownObject:
    """One object that is known. `host` told of it; `checked`: it is ours, or was compared with its hashes."""

    number: int
    stored: StoredObject
    encoding: str | None
    host: str
    checked: bool


@dataclass(frozen=True, slots=True)
class Due(KnownObject):
    """
    An object that is reused although its lock ends too early, or nobody has checked it.

    `leaving`: its living contents were to be stored anew, and some could not be
    read again, so it must stay after all. `used` is how many of the bytes that its
    contents take (`holds`: without a pack's list) the run refers to.
    """

    leaving: bool
    used: int
    holds: int


@dataclass(frozen=True, slots=True)
class Info:
    """What is in a catalog; `stored` in bytes, `locks` from the first to the last end."""

    objects: int
    contents: int
    files: int
    stored: int
    locks: tuple[datetime, datetime] | None
    hosts: dict[str, int]
    unpublished: int
    bucket: str | None


class Contents(Protocol):
    """
    Which contents are stored, and where.

    What the run reuses although its lock ends too early, or nobody has proven it, is noted as used (`Renewals`).
    """

    refuted: bool
    """Whether what was said of an object turned out to be false when we stored it: the run may have counted on that."""

    def stored(self, shas: Iterable[bytes]) -> set[bytes]:
        """Those of the contents that are stored, and are to stay where they are; noted as used."""
        ...

    def absent(self, shas: Iterable[bytes]) -> None:
        """These are stored nowhere, by the word of a `Lookup`: who confirms them need not look. Never waits."""
        ...

    def use(self, shas: Iterable[bytes]) -> None:
        """Note these contents as used: by the word of a `Lookup`."""
        ...

    def confirm(
        self, stored: StoredObject, encoding: str | None, contents: Sequence[Member], needs: Needs = NO_NEEDS
    ) -> None:
        """The store has confirmed an object with these contents; a list that `needs` what is not known is `refuted`."""
        ...

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        """
        Where the contents lie, each row proven; those that are not stored are missing from the answer.

        Without `leaving`, so are those that are to be stored anew. With `promised`
        (a manifest is written from it) their objects must be locked for as long as
        the run promises, named by a version where it promises anything, and compared
        where that is asked for: `CatalogUnusable` where one is not, or a row is damaged.
        """
        ...


class Files(Protocol):
    """What files looked like when they were read."""

    def unchanged(self, states: Sequence[FileState]) -> dict[tuple[int, int], bytes]:
        """By (device, inode), the contents of files that are as they were, where these are stored; noted as used."""
        ...

    def any(self) -> bool:
        """Whether any file is known."""
        ...

    def met(self, files: Iterable[tuple[int, int]]) -> None:
        """Note that these files, by (device, inode), are still there: by the word of a `Lookup`."""
        ...

    def remember(self, states: Sequence[FileState]) -> None:
        """What files looked like when they were read; the same inodes' earlier states are forgotten."""
        ...


class Renewals(Protocol):
    """Which reused objects the run must see to before it may promise what they hold."""

    def collect(self) -> int:
        """Set down which objects are due now, and how many they are; `due` then pages through them."""
        ...

    def due(self) -> Iterator[list[Due]]:
        """The objects that `collect` found, in pages."""
        ...

    def renewed(self, number: int, lock: Lock, *, checked: bool) -> None:
        """The store has confirmed that an object has this lock; `checked` if its contents were compared as well."""
        ...

    def leave(self, number: int) -> None:
        """What an object holds is to be stored anew from now on; until that has happened, it still counts as stored."""
        ...

    def forget(self, numbers: Iterable[int]) -> None:
        """These objects are gone, or not to be relied on any more: nothing they held counts as stored."""
        ...

    def forget_host(self, host: str) -> None:
        """Nothing that came from a host's index, and that nobody has checked, counts as stored any more."""
        ...

    def reencoded(self, number: int, encoding: str | None) -> None:
        """What stands for an object's contents turned out to be encoded like this."""
        ...

    def vouch(self, *, believing: bool) -> None:
        """The run's own lists are true where what they need was compared with its hash; `believing`, all of them."""
        ...

    def members(self, number: int) -> list[Member]:
        """The contents of one object that are known, by offset; none where it was forgotten meanwhile."""
        ...


class Indexes(Protocol):
    """What is learnt from indexes, and what is to be published in one."""

    def learn(self, host: str, said: Iterable[Indexed], now: datetime, *, doubting: bool = False) -> int:
        """
        Take in what an index of `host` says; returns how many contents were new.

        Known contents stay where they are, unless the lock of their object has
        ended and the new one's ends later. An object known already gets the later
        of both locks, but not with `doubting`: then another host's word changes
        nothing about it. What is in an object that we stored or checked ourselves,
        no other host can tell us. Where it passes on another host's word (`teller`), it
        is that host's, but with `doubting`.
        """
        ...

    def last_read(self) -> dict[str, str]:
        """By host, the key of the last index that was read."""
        ...

    def read_up_to(self, keys: Mapping[str, str]) -> None:
        """These indexes, by host, and those before them need not be read again."""
        ...

    def still_locked(self, now: datetime) -> str | None:
        """The key of an index that this host published and that must still be there; None if there is none."""
        ...

    def restrict(self, allowed: Callable[[str], bool]) -> list[str]:
        """
        Forget what came from hosts that are not allowed any more; returns their names.

        Others may have passed it on: what nobody has checked is forgotten too, other hosts' indexes count as unread.
        """
        ...

    def unproven(self) -> bool:
        """Whether anything known is a word that nobody has compared with the bytes."""
        ...

    def forget_unproven(self) -> None:
        """Forget what nobody has compared with the bytes, and count the indexes of other hosts as unread."""
        ...

    def begin_publishing(self) -> int:
        """Choose what the next index is to hold; returns how many objects that is."""
        ...

    def news(self) -> Iterator[Indexed]:
        """What `begin_publishing` chose."""
        ...

    def published(self, key: str, until: datetime | None) -> None:
        """The store has confirmed an index with what `begin_publishing` chose; what came since is yet to be."""
        ...


class Presence(Protocol):
    """Which objects must be in the bucket if what is known is so, and where the last look at them ended."""

    def turned_to(self) -> str:
        """The key behind which the next look begins; "" at the beginning."""
        ...

    def turn_to(self, key: str) -> None:
        """The next look begins behind this key."""
        ...

    def any_known(self, prefix: str) -> bool:
        """Whether any object under a prefix is known."""
        ...

    def begin(self) -> None:
        """A look at what is known now: nothing of it has been met yet."""
        ...

    def meet(self, found: Iterable[Named]) -> None:
        """These objects are in the bucket."""
        ...

    def unmet(self, after: str, before: str) -> Iterator[list[KnownObject]]:
        """Those objects with keys in (`after`, `before`) that were not met, some at a time."""
        ...

    def one_of_each_host(self, now: datetime, most: int) -> list[str]:
        """The keys of some objects that must still be there, one of each host at the most, chosen by chance."""
        ...


class Session(Protocol):
    """What one run knows and finds out."""

    @property
    def contents(self) -> Contents: ...
    @property
    def files(self) -> Files: ...
    @property
    def renewals(self) -> Renewals: ...
    @property
    def indexes(self) -> Indexes: ...
    @property
    def presence(self) -> Presence: ...

    def tidy(self, now: datetime) -> None:
        """At a run's end: forget files not met for 60 days, and objects whose locks ended 60 days ago."""
        ...

    def next_lock_end(self, now: datetime) -> datetime | None:
        """The first end of a lock that is still in force; None where nothing is locked."""
        ...


class Catalog(Protocol):
    """What is known to be stored: a cache that can always be thrown away."""

    def begin(self, bucket: str, host: str, promise: Lock, now: datetime, *, doubting: bool = False) -> Session:
        """
        A run of `host` into `bucket` (with its store's address) begins that promises until `promise`.

        With `doubting`, reused contents of other hosts that nobody has checked are noted as used too. What the
        session before it has noted is forgotten: that one has ended. `CatalogUnusable` where this is another bucket's.
        """
        ...

    def info(self) -> Info:
        """Counts over the whole catalog."""
        ...

    def close(self) -> None:
        """Close it; what is being written is written first."""
        ...
