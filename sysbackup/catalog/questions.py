"""Which contents are stored and where, which files are unchanged: asked of a connection, noted nowhere."""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from sysbackup.catalog import blocks
from sysbackup.catalog.connection import select
from sysbackup.catalog.hints import KEY
from sysbackup.catalog.lookup import Stored, Unchanged
from sysbackup.catalog.needs import is_list, needed
from sysbackup.catalog.places import Place, Places
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.rows import damaged
from sysbackup.model import FileState, Location

EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")  # SHA-256 of nothing

DAY = 86_400
_new = tuple.__new__  # a third of the time that its own constructor takes
_FRESH = 7  # days after which it is to be noted that a file was met


class Questions:
    """
    What a run that relies on what `reliance` says, and began `now`, may ask.

    What lies in objects of `run.leaving` is left out, where a run's notes are at hand (`noted`).
    """

    def __init__(self, places: Places, reliance: Reliance, now: datetime, *, noted: bool) -> None:
        self.today = int(now.timestamp()) // DAY
        self._places = places
        self._reliance = reliance
        self._noted = noted

    def stored(self, db: sqlite3.Connection, shas: Iterable[bytes]) -> Stored:
        """See `Lookup`."""
        wanted = set(shas)
        found = self._places.find(db, wanted)
        if self._noted:
            self._places.nowhere(wanted - found.keys())
        short = self._staying(db, self._vouched(found))
        staying = {sha: holder.number for sha, (_, holder, _, _) in found.items() if holder.number in short}
        return Stored({*staying}, [sha for sha, number in staying.items() if short[number]])

    def unchanged(self, db: sqlite3.Connection, states: Sequence[FileState]) -> Unchanged:
        """See `Lookup`."""
        found = Unchanged({}, {}, [], [])
        same = list(blocks.alike(states, db))
        places = self._vouched(self._places.find(db, {key for _, key, _ in same} - {EMPTY[:KEY]}))
        short = self._staying(db, places)
        nothing, oldest = EMPTY[:KEY], self.today - _FRESH
        for state, key, seen in same:
            named = state[:2]
            if key == nothing:  # of which nothing is stored, whatever another host says
                sha = EMPTY
            elif (place := places.get(key)) is not None and (needy := short.get(place[1].number)) is not None:
                sha = place[0]
                if needy:
                    found.used.append(sha)
                else:
                    found.places[named] = _location(place)
            else:
                continue
            found.shas[named] = sha
            if seen < oldest:
                found.met.append(named)
        return found

    def locate(
        self, db: sqlite3.Connection, shas: Iterable[bytes], *, promised: bool, leaving: bool = True
    ) -> dict[bytes, Location]:
        """See `Contents`."""
        found = self._places.find(db, set(shas))
        if not leaving:
            staying = self._staying(db, found)
            found = {sha: place for sha, place in found.items() if place[1].number in staying}
        holders = {holder.number: holder for _, holder, _, _ in found.values()}
        needs = (row for holder in holders.values() for row, _ in needed(db, holder))
        if promised and not (
            all(map(self._reliance.holds, holders.values())) and all(map(self._reliance.lasts, needs))
        ):
            raise damaged("used")
        return {place[0]: _location(place) for place in found.values()}

    def _staying(self, db: sqlite3.Connection, found: dict[bytes, Place]) -> dict[int, bool]:
        """Of the objects that hold these contents, but for those that the run leaves: whether they must be seen to."""
        holders = {holder.number: holder for _, holder, _, _ in found.values()}
        lists = [holder for holder in holders.values() if is_list(holder)]
        needs = {holder.number: [row for row, _ in needed(db, holder)] for holder in lists}
        if self._noted:
            query = "SELECT object FROM run.leaving WHERE object IN ({})"
            asked = {*holders, *(row.number for rows in needs.values() for row in rows)}
            left = {number for (number,) in select(db, query, list(asked))}
            for number in [n for n in holders if n in left or any(row.number in left for row in needs.get(n, ()))]:
                del holders[number]
        return {
            number: self._reliance.short(holder) or any(map(self._reliance.lapses, needs.get(number, ())))
            for number, holder in holders.items()
        }

    def _vouched(self, found: dict[bytes, Place]) -> dict[bytes, Place]:
        """The same without lists for which nobody can vouch: what they need was not proven when they were made."""
        return {sha: place for sha, place in found.items() if not is_list(place[1]) or self._reliance.trusts(place[1])}


def _location(place: Place) -> Location:
    _, holder, piece, ref = place
    return _new(Location, (holder.key, holder.version or None, piece.span(ref), holder.encoding))
