"""
Hints where contents may be found: from a few bytes of a digest to a place in a piece.

No hint is believed. The piece that it leads to proves whether the content is there, so hints need no checksums,
and none is taken away when a content is forgotten or moves: until there are more of those than of others.

The hints lie in buckets by the first bits of what they go by, each one row: to write many hints
costs little, as the rows of all buckets are written once. Those of the latest pieces are kept in
memory until there are many. The pieces themselves tell them, to other processes and after a kill.
"""

import secrets
import sqlite3
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sysbackup.catalog.connection import select
from sysbackup.catalog.pieces import Piece, well_formed
from sysbackup.catalog.rows import damaged

KEY = 16
"""How many bytes of a digest tell a content from any other: nobody finds two that begin with the same 128 bits."""

_PREFIX = 6  # bytes of a digest that a hint goes by
_HINT = 11  # and what it says: the ref
_FULL = 100  # hints in a bucket on average, then there are twice as many buckets
_FEWEST = 6  # bits
_MOST = 20
_WAITING = 65_536
_SAMPLE = 64  # buckets of which the average is taken
_PAGE = 500

_STATE = struct.Struct("<qqq")


class _State(NamedTuple):
    """
    The one row of `hinted`.

    Hints go by the bytes of a digest from `start` on, which nobody outside knows: files whose
    digests all begin alike would else fill one bucket.
    """

    bits: int
    start: int
    up_to: int

    @property
    def sum(self) -> int:
        return zlib.crc32(_STATE.pack(*self))


def begin(db: sqlite3.Connection) -> None:
    """There is no hint yet."""
    _begin(db, secrets.randbelow(KEY - _PREFIX + 1))


class Hints:
    """The hints of one catalog, as one process sees them."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, int] = {}
        self._state = _State(_FEWEST, 0, -1)
        self._last = -1

    @property
    def up_to(self) -> int:
        """The last piece whose hints are written."""
        return self._state.up_to

    def refresh(self, db: sqlite3.Connection) -> None:
        """See what has been written since; each reading that is to see all of it begins with this."""
        state = _read(db)
        if state.up_to != self._state.up_to:
            self._waiting.clear()
            self._last = state.up_to
        self._state = state
        self.wait(_pieces(db, self._last))

    def wait(self, pieces: Iterable[Piece]) -> None:
        """Hints of pieces that are written down."""
        for piece in pieces:
            self._waiting.update(piece.refs(KEY))
            self._last = max(self._last, piece.number)

    def next_piece(self, db: sqlite3.Connection) -> int:
        """The number of the next piece: higher than any whose hints are written."""
        last = db.execute("SELECT max(id) FROM pieces").fetchone()[0] or 0
        return int(max(last, self._last)) + 1

    def waiting(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Where those of these contents are that were put somewhere lately: by `KEY` bytes of a digest, or more."""
        waiting = self._waiting
        return {key: ref for key in keys if (ref := waiting.get(key[:KEY])) is not None}

    def written(self, db: sqlite3.Connection, keys: Iterable[bytes], *, every: bool = False) -> dict[bytes, list[int]]:
        """Where others may be: the first hint of each, or `every` one."""
        found: dict[bytes, list[int]] = {}
        state = self._state
        if not state.up_to:
            return found
        start, end, shift = state.start, state.start + _PREFIX, 24 - state.bits
        buckets: defaultdict[int, list[bytes]] = defaultdict(list)
        for key in keys:
            buckets[int.from_bytes(key[start : start + 3], "big") >> shift].append(key)
        for bucket, hints in select(db, "SELECT bucket, hints FROM hints WHERE bucket IN ({})", list(buckets)):
            if not isinstance(hints, bytes) or bucket not in buckets:
                raise damaged("hints")
            for key in buckets[bucket]:
                at = hints.find(key[start:end])
                while at >= 0:
                    if not at % _HINT:
                        found.setdefault(key, []).append(int.from_bytes(hints[at + _PREFIX : at + _HINT], "big"))
                        if not every:
                            break
                    at = hints.find(key[start:end], at + 1)
        return found

    def settle(self, db: sqlite3.Connection, *, whole: bool = False) -> None:
        """Write down the hints that wait, in a transaction of the caller's: where they are many, or all of them."""
        if len(self._waiting) < (1 if whole else _WAITING):
            return
        start, end, bits = self._state.start, self._state.start + _PREFIX, self._state.bits
        hints = [key[start:end] + ref.to_bytes(_HINT - _PREFIX, "big") for key, ref in self._waiting.items()]
        hints.sort()
        db.executemany(
            # what || makes of two BLOBs is text, with all their bytes
            "UPDATE hints SET hints = CAST(hints || ? AS BLOB) WHERE bucket = ?",
            _by_bucket(hints, bits),
        )
        self._state = self._state._replace(up_to=self._last)
        self._waiting.clear()
        sample = db.execute("SELECT total(length(hints)) / count(*) FROM hints WHERE bucket < ?", (_SAMPLE,))
        average = (sample.fetchone()[0] or 0) / _HINT
        while average > _FULL and self._state.bits < _MOST:
            self._split(db)
            average /= 2
        _write(db, self._state)

    def _split(self, db: sqlite3.Connection) -> None:
        """Twice as many buckets."""
        bits = self._state.bits + 1
        # from the last to the first, so that what is written has been read
        for bucket in range((1 << bits - 1) - 1, -1, -1):
            row = db.execute("SELECT hints FROM hints WHERE bucket = ?", (bucket,)).fetchone() or (b"",)
            if not isinstance(row[0], bytes):
                raise damaged("hints")
            both = sorted([row[0][at : at + _HINT] for at in range(0, len(row[0]), _HINT)])
            middle = bisect_left(both, (2 * bucket + 1 << 24 - bits).to_bytes(3, "big"))
            db.executemany(
                "INSERT OR REPLACE INTO hints (bucket, hints) VALUES (?, ?)",
                [(2 * bucket, b"".join(both[:middle])), (2 * bucket + 1, b"".join(both[middle:]))],
            )
        self._state = self._state._replace(bits=bits)

    def catch_up(self, db: sqlite3.Connection) -> None:
        """Give hints of all that has none yet, in a transaction of the caller's: much, where all are made anew."""
        self._state = _read(db)
        self._waiting.clear()
        self._last = self._state.up_to
        while some := _pieces(db, self._last, _PAGE):
            self.wait(some)
            self.settle(db)

    def tidy(self, db: sqlite3.Connection) -> None:
        """At a run's end: what waits is written; all is made anew where some were lost, or most lead nowhere by now."""
        self.refresh(db)
        self.settle(db, whole=True)
        hints = db.execute("SELECT total(length(hints)) FROM hints").fetchone()[0] / _HINT
        contents = db.execute("SELECT total(count) FROM pieces").fetchone()[0]
        if not contents <= hints <= 2 * contents + _FULL:
            _begin(db, self._state.start)
            self.catch_up(db)
            self.settle(db, whole=True)


def _by_bucket(hints: list[bytes], bits: int) -> Iterator[tuple[bytes, int]]:
    """Sorted hints, together with the bucket that they go to."""
    at = 0
    while at < len(hints):
        bucket = int.from_bytes(hints[at][:3], "big") >> (24 - bits)
        last = ((bucket + 1 << 24 - bits) - 1).to_bytes(3, "big") + b"\xff" * _HINT
        end = bisect_right(hints, last, at)
        yield b"".join(hints[at:end]), bucket
        at = end


def _pieces(db: sqlite3.Connection, after: int, most: int = -1) -> list[Piece]:
    """The pieces from there on, unproven: nobody believes a hint."""
    found = db.execute(
        "SELECT id, object, count, members FROM pieces WHERE id > ? ORDER BY id LIMIT ?", (after, most)
    ).fetchall()
    return [well_formed(*columns) for columns in found]


def _begin(db: sqlite3.Connection, start: int) -> None:
    db.execute("DELETE FROM hints")
    db.executemany("INSERT INTO hints (bucket, hints) VALUES (?, x'')", ((bucket,) for bucket in range(1 << _FEWEST)))
    _write(db, _State(_FEWEST, start, 0))


def _read(db: sqlite3.Connection) -> _State:
    row = db.execute("SELECT bits, start, up_to, sum FROM hinted").fetchone()
    try:
        state = _State(*row[:3])
        if state.sum == row[3]:
            return state
    except (TypeError, struct.error):
        pass
    raise damaged("hinted")


def _write(db: sqlite3.Connection, state: _State) -> None:
    db.execute("DELETE FROM hinted")
    db.execute("INSERT INTO hinted (bits, start, up_to, sum) VALUES (?, ?, ?, ?)", (*state, state.sum))
