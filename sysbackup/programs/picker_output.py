"""
A picker's output as paths.

Lines, or records ended by NUL where a NUL shows within the first 8 KiB. Only
the terminator is cut: a name may hold spaces, carriage returns, and, between
NULs, newlines.
"""

from collections.abc import Sequence
from operator import methodcaller

DECIDING = 8192
"""Bytes of output in which a NUL makes all of it NUL-separated; held back until then."""

LONGEST = 1 << 16
"""Bytes of a record beyond which it is no path (PATH_MAX is 4096), and not kept."""

_START = 200
_absolute = methodcaller("startswith", b"/")
_REPORTED = 100


class Records:
    """
    Cuts output, chunk by chunk, into records; the cuts of the chunks make no difference.

    Empty records are left out; the last one needs no terminator. Memory stays
    bounded: of a record longer than `LONGEST` only the start is kept, in
    `overlong`, and of those only the first hundred; `overlong_count` has all.
    """

    def __init__(self) -> None:
        self.overlong: list[bytes] = []
        self.overlong_count = 0
        self._terminator: bytes | None = None
        self._held = bytearray()
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The records that this chunk completes."""
        if self._terminator is not None:
            return self._cut(chunk)
        self._held += chunk
        if b"\0" in self._held[:DECIDING] or len(self._held) >= DECIDING:
            return self._decide()
        return []

    def finish(self) -> list[bytes]:
        """The rest: what was held back, and a last record without a terminator."""
        records = self._decide() if self._terminator is None else []
        last, self._held = bytes(self._held), bytearray()
        if len(last) > LONGEST:
            self._report(last)
        elif last and not self._skipping:
            records.append(last)
        self._skipping = False
        return records

    def _decide(self) -> list[bytes]:
        self._terminator = b"\0" if b"\0" in self._held[:DECIDING] else b"\n"
        held, self._held = bytes(self._held), bytearray()
        return self._cut(held)

    def _cut(self, chunk: bytes) -> list[bytes]:
        first, *records = chunk.split(self._terminator)
        if not records:
            self._hold(first)
            return []
        rest = records.pop()
        if self._skipping:
            self._skipping = False
        else:
            self._held += first
            records.insert(0, bytes(self._held))
            self._held.clear()
        self._hold(rest)
        # Most chunks are shorter than a record may be: then only the first of their records can be too long.
        if any(len(record) > LONGEST for record in (records if len(chunk) > LONGEST else records[:1])):
            records = self._without_overlong(records)
        return [record for record in records if record]

    def _hold(self, piece: bytes) -> None:
        """Keep the beginning of a record, as long as it may become one."""
        if self._skipping:
            return
        self._held += piece
        if len(self._held) > LONGEST:
            self._report(bytes(self._held[:_START]))
            self._held.clear()
            self._skipping = True

    def _without_overlong(self, records: list[bytes]) -> list[bytes]:
        kept = []
        for record in records:
            if len(record) > LONGEST:
                self._report(record)
            else:
                kept.append(record)
        return kept

    def _report(self, record: bytes) -> None:
        self.overlong_count += 1
        if len(self.overlong) < _REPORTED:
            self.overlong.append(record[:_START])


def all_paths(records: Sequence[bytes]) -> bool:
    """Whether nothing is wrong with any of them (`path_problem`), in a fraction of the time."""
    return all(map(_absolute, records)) and b"\0" not in b"".join(records)


def path_problem(record: bytes) -> str | None:
    """Why a record is no path that can be backed up; None where it is one."""
    if not record.startswith(b"/"):
        if record.startswith((b'"/', b"'/")):
            return "it is in quotation marks: a path is taken as it stands, without any"
        return "it is a relative path: pickers must print absolute ones, from the leading / on"
    if b"\0" in record:
        return "it holds a NUL: the output began as lines, and names between NULs came only later"
    return None
