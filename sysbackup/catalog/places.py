"""Where contents lie: found by their digests, proven by the pieces and objects that hold them."""

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from sysbackup.catalog import pieces
from sysbackup.catalog.connection import select
from sysbackup.catalog.hints import KEY, Hints
from sysbackup.catalog.needs import is_list
from sysbackup.catalog.pieces import GONE, PIECE, PLACES, Piece, proven_piece
from sysbackup.catalog.rows import OBJECT, ObjectRow, proven_object
from sysbackup.model import Member

_DIGEST = 32
_EVERY = 16  # contents of which one is looked for first
_LAST = (1 << PLACES) - 1

Place = tuple[bytes, ObjectRow, Piece, int]
"""Where a content lies: its digest, the object, a piece of that, and the ref to that place in it."""


class Places:
    """The places of all contents of one catalog, as one process sees them."""

    def __init__(self) -> None:
        self.hints = Hints()
        self._nowhere: set[bytes] = set()

    def find(self, db: sqlite3.Connection, keys: Collection[bytes]) -> dict[bytes, Place]:
        """
        Where these contents lie, by their digests or the first `KEY` bytes of them; what lies nowhere is missing.

        `CatalogUnusable` where a row that is needed is not as it was written.
        """
        if not keys:
            return {}
        hints, opened = self.hints, _Opened(db)
        hints.refresh(db)
        found = opened.at(hints.waiting(keys))
        left = [key for key in keys if key not in found]
        if len(left) > 2 * _EVERY:
            # What is asked for together was often stored together: in the pieces where some of it lies.
            found |= opened.at_any(hints.written(db, left[::_EVERY]))
            found |= opened.nearby(left)
            left = [key for key in left if key not in found]
        hinted = hints.written(db, left)
        found |= opened.at_any(hinted)
        if stale := hinted.keys() - found.keys():  # what these were lies elsewhere by now, or begins like them
            found |= opened.at_any(hints.written(db, stale, every=True))
        return found

    def nowhere(self, shas: Iterable[bytes]) -> None:
        """These contents were looked for and not found: they need not be looked for when they are put somewhere."""
        self._nowhere.update(shas)

    def put(
        self,
        db: sqlite3.Connection,
        row: ObjectRow,
        contents: Collection[Member],
        needs: Sequence[tuple[int, int]] = (),
    ) -> None:
        """
        Contents lie in an object from now on, and nowhere else; in a transaction of the caller's.

        `needs` are those of a list of chunks, by number.
        """
        new = {member.sha: member for member in contents}
        self.hints.refresh(db)
        moved = []
        for sha, holder, piece, ref in self.find(db, new.keys() - self._nowhere).values():
            if holder.number == row.number and piece.member(ref) == new[sha]:
                del new[sha]
            else:
                moved.append(ref)
        self._take_out(db, moved)
        made = pieces.made(row, new.values(), self.hints.next_piece(db))
        if new and needs:
            made += pieces.needing(row, needs, self.hints.next_piece(db) + len(made))
        pieces.write(db, row, made)
        self._nowhere.difference_update(new)
        self.hints.wait(made)
        self.hints.settle(db)

    def _take_out(self, db: sqlite3.Connection, refs: Iterable[int]) -> None:
        by_piece: defaultdict[int, list[int]] = defaultdict(list)
        for ref in refs:
            by_piece[ref >> PLACES].append(ref)
        known, holders = _proven(db, by_piece)
        for number, gone in by_piece.items():
            rest = known[number].without(gone)
            if rest.held:
                pieces.write(db, holders[rest.object], [rest])
            else:
                db.execute("DELETE FROM pieces WHERE id = ?", (number,))
                if is_list(holders[rest.object]):  # it is of no use any more, and needs nothing
                    db.execute("DELETE FROM pieces WHERE object = ?", (rest.object,))


class _Opened:
    """The pieces that one search has read, each proven once."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._pieces: dict[int, tuple[ObjectRow, Piece, bytes, int]] = {}

    def at(self, hints: dict[bytes, int]) -> dict[bytes, Place]:
        """What lies where it may, of contents by as much of their digests as is known."""
        opened = self._open({ref >> PLACES for ref in hints.values()})
        found = {}
        for key, ref in hints.items():
            if (at := opened.get(ref >> PLACES)) is None:
                continue
            holder, piece, members, size = at
            start = 1 + (ref & _LAST) * size
            if members.startswith(key, start) and (sha := members[start : start + _DIGEST]) != GONE:
                found[key] = sha, holder, piece, ref
        return found

    def at_any(self, hints: dict[bytes, list[int]]) -> dict[bytes, Place]:
        """The same of contents that may lie in one of several places."""
        found: dict[bytes, Place] = {}
        for turn in range(max(map(len, hints.values()), default=0)):
            found |= self.at({key: refs[turn] for key, refs in hints.items() if turn < len(refs) and key not in found})
        return found

    def nearby(self, keys: Iterable[bytes]) -> dict[bytes, Place]:
        """Those of these contents that lie in a piece that has been read."""
        refs: dict[bytes, int] = {}
        for _, piece, _, _ in self._pieces.values():
            refs.update(piece.refs(KEY))
        found = {}
        for key in keys:
            if (ref := refs.get(key[:KEY])) is not None:
                holder, piece, members, size = self._pieces[ref >> PLACES]
                start = 1 + (ref & _LAST) * size
                sha = members[start : start + _DIGEST]
                if sha.startswith(key):
                    found[key] = sha, holder, piece, ref
        return found

    def _open(self, numbers: set[int]) -> dict[int, tuple[ObjectRow, Piece, bytes, int]]:
        known, holders = _proven(self._db, numbers - self._pieces.keys())
        for number, piece in known.items():
            self._pieces[number] = holders[piece.object], piece, piece.members, piece.size
        return self._pieces


def _proven(db: sqlite3.Connection, numbers: Collection[int]) -> tuple[dict[int, Piece], dict[int, ObjectRow]]:
    """Pieces by their numbers, and the objects that they are of; what is of no object is of no use to anybody."""
    rows = list(select(db, f"SELECT {PIECE} FROM pieces WHERE pieces.id IN ({{}})", list(numbers)))
    wanted = list({columns[1] for columns in rows})
    holders = {}
    for columns in select(db, f"SELECT {OBJECT} FROM objects WHERE id IN ({{}})", wanted):
        row = proven_object(*columns)
        holders[row.number] = row
    identities = {number: row.identity for number, row in holders.items()}
    found = (proven_piece(identities[c[1]], *c) for c in rows if c[1] in identities)
    return {piece.number: piece for piece in found}, holders
