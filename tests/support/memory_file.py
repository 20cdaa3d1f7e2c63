"""What a `MemoryCatalog` knows, in plain dicts: objects, their contents, files and indexes; and what a run notes."""

import enum
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sysbackup.catalog.interface import KnownObject
from sysbackup.model import FileState, Lock, LockMode, Member, StoredObject

# From the least firm to the firmest.
FIRMNESS = (LockMode.NONE, LockMode.GOVERNANCE, LockMode.COMPLIANCE)


class News(enum.Enum):
    """Whether an object is yet to be published: it is not, it is, or it was chosen for the index being written."""

    NO = enum.auto()
    WAITING = enum.auto()
    CHOSEN = enum.auto()


@dataclass(slots=True)
class Object:
    number: int
    stored: StoredObject
    encoding: str | None
    host: str
    checked: bool
    news: News
    needs: dict[int, int] = field(default_factory=dict)

    @property
    def lock(self) -> Lock:
        return self.stored.lock

    @lock.setter
    def lock(self, lock: Lock) -> None:
        self.stored = replace(self.stored, lock=in_seconds(lock))

    def locked(self, now: datetime) -> bool:
        """Whether its lock is in force."""
        return self.lock.mode is not LockMode.NONE and self.lock.until > second(now)

    @property
    def known(self) -> KnownObject:
        return KnownObject(self.number, self.stored, self.encoding, self.host, self.checked)


@dataclass(slots=True)
class Published:
    """The last index of a host that was read or published, and when its lock ends, where it is our own."""

    key: str
    until: datetime | None


@dataclass(slots=True)
class Seen:
    """What a file looked like, and on which day a run that came to its end met it last."""

    state: FileState
    day: datetime


@dataclass
class MemoryFile:
    """
    What outlives a `MemoryCatalog`, and would be in its file; a killed run leaves it as it is.

    A content lies in one object: `contents` has that one's number. No number is given twice.
    """

    bucket: str | None = None
    objects: dict[int, Object] = field(default_factory=dict)
    contents: dict[bytes, tuple[int, Member]] = field(default_factory=dict)
    files: dict[tuple[int, int], Seen] = field(default_factory=dict)
    indexes: dict[str, Published] = field(default_factory=dict)
    turned_to: str = ""
    numbers: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def find(self, key: str, version: str | None) -> Object | None:
        """The object of that name; None where it is not known."""
        named = (o for o in self.objects.values() if (o.stored.key, o.stored.version) == (key, version or None))
        return next(named, None)

    def holder(self, sha: bytes) -> Object | None:
        """The object in which a content lies; None where it is not stored."""
        return self.objects[self.contents[sha][0]] if sha in self.contents else None

    def members(self, number: int) -> list[Member]:
        """The contents of an object, by offset."""
        found = [member for holder, member in self.contents.values() if holder == number]
        return sorted(found, key=lambda member: member.span or ())

    def forget(self, gone: Callable[[Object], bool]) -> None:
        """Those objects are not known any more, nor is what they held."""
        while forgotten := [o.number for o in self.objects.values() if gone(o)]:
            for number in forgotten:
                del self.objects[number]
                for member in self.members(number):
                    del self.contents[member.sha]
            gone = self._lacks

    def needed(self, known: Object) -> list[tuple[Object, int]]:
        """The objects that a list of chunks needs, as long as it holds a content; and how many of their bytes."""
        if known.encoding != "chunks" or not self.members(known.number):
            return []
        return [(self.objects[number], size) for number, size in sorted(known.needs.items())]

    def _lacks(self, known: Object) -> bool:
        listed = known.encoding == "chunks" and bool(self.members(known.number))
        return listed and not known.needs.keys() <= self.objects.keys()

    def enter(
        self,
        stored: StoredObject,
        encoding: str | None,
        contents: Sequence[Member],
        *,
        host: str,
        checked: bool,
        news: News,
        needs: Mapping[tuple[str, str], int] | None = None,
        made: set[int] | None = None,
    ) -> bool:
        """
        An object and contents of it; returns whether what others had said is in it turned out not to be.

        Or whether it `needs` what is not known: then nothing of it is taken. `made` gets the number of a list
        that is no truer than what it needs.
        """
        wanted = {found.number: size for named, size in (needs or {}).items() if (found := self.find(*named))}
        if len(wanted) < len(needs or {}):
            return True
        ours = checked
        if news is not News.NO:
            checked = checked and all(self.objects[number].checked for number in wanted)
        known, refuted = self.find(stored.key, stored.version), False
        if checked and known is not None and not known.checked:
            told = {(member.sha, member.span) for member in self.members(known.number)}
            refuted = not told <= {(member.sha, member.span) for member in contents}
            self.forget(lambda o: o is known)
            known = None
        if known is None:
            self.numbers += 1
            stored = replace(stored, version=stored.version or None, lock=in_seconds(stored.lock), fresh=False)
            known = self.objects[self.numbers] = Object(self.numbers, stored, encoding, host, checked, news)
        else:
            known.lock = _both(known.lock, stored.lock)
            if news is not News.NO:
                known.news = news
        if ours and not checked and made is not None:
            made.add(known.number)
        if any(self.contents.get(member.sha) != (known.number, member) for member in contents):
            known.needs = wanted
        self.contents |= {member.sha: (known.number, member) for member in contents}
        return refuted


@dataclass
class Run:
    """What one run promises and notes; gone with it."""

    host: str
    promise: Lock
    began: datetime
    doubting: bool
    used: set[bytes] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    made: set[int] = field(default_factory=set)

    def short(self, known: Object) -> bool:
        """Whether an object has to be seen to before the run may rely on it."""
        return self.lapses(known) or not self.trusts(known)

    def lapses(self, known: Object) -> bool:
        """Whether that is for its lock."""
        firm = FIRMNESS.index(known.lock.mode) >= FIRMNESS.index(self.promise.mode)
        return known.lock.until < self.promise.until or not firm or not self._named(known)

    def holds(self, known: Object) -> bool:
        """Whether a manifest may rely on an object: with `lock_mode = none`, whatever becomes of its lock."""
        return self.lasts(known) and self.trusts(known)

    def lasts(self, known: Object) -> bool:
        """Whether its lock does for that."""
        return known.lock.covers(self.promise) and self._named(known)

    def trusts(self, known: Object) -> bool:
        """Whether what is said of it is to be believed."""
        return known.checked or not self.doubting

    def _named(self, known: Object) -> bool:
        return known.stored.version is not None or self.promise.mode is LockMode.NONE


def second(moment: datetime) -> datetime:
    """Stores round the ends of locks to seconds."""
    return moment.replace(microsecond=0)


def day_of(moment: datetime) -> datetime:
    """When the day of that moment began."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def in_seconds(lock: Lock) -> Lock:
    return replace(lock, until=second(lock.until))


def _both(first: Lock, second: Lock) -> Lock:
    """Of two things said of one lock both are true: the later end, the firmer mode. `none` says nothing of an end."""
    if (first.mode is LockMode.NONE) is not (second.mode is LockMode.NONE):
        return second if first.mode is LockMode.NONE else first
    return Lock(max(first.mode, second.mode, key=FIRMNESS.index), max(first.until, second.until))
