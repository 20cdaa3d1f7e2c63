"""
How far a run is, and how long it may still take, judged by what the last one held.

No count alone is a measure. A run that finds nothing changed looks at files, and
their bytes cost it nothing: one image of a terabyte would be most of its bytes and
a millisecond of its time. A run that reads and stores is paced by bytes, for no
file is read before there is room for what is still to be sent. So work is counted
in bytes that are read, a look at a file counting as a few thousand of them, and of
the bytes still to come that share is expected to be read which has been until now.
The share begins as it was in the last run, which soon counts for little: after a
first run that read everything the second one knows better within moments.

What lies ahead is only what the last run held more than this one has seen. A tree
that grew has passed that before its end, and then nobody can tell how much is left.
"""

from dataclasses import dataclass
from math import exp

from sysbackup.formats.run_result import Counts

_FILE = 16 << 10
"""Bytes that are read in about the time that a look at a file takes: 30 µs from memory, milliseconds from a disk."""

_BELIEF = 0.01
"""The last run's share of bytes that had to be read counts as much as so much of this run's own."""

_PACE = 30.0
"""Seconds, and a quarter of all that have passed, over which the speed is taken; the last run's counts as so many."""

_SOON = 5.0
"""Seconds that must have been seen of a run before its speed says anything."""

_FARTHEST = 100 * 86400.0
"""Seconds beyond which what comes out is no estimate: hardly anything moves."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What the last run worked through, in how many seconds; none of it is negative. `rescan`: it read every file."""

    counts: Counts
    seconds: float
    rescan: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """
    How far it is: `percent`, 0 to 99, and `seconds_left`; None where nothing is known.

    `beyond`: it has worked through all that the last run held, and goes on.
    """

    percent: int | None = None
    seconds_left: float | None = None
    beyond: bool = False


class Forecast:
    """The outlook of one run, whose `rescan` says whether it reads every file. Its percentage never falls."""

    def __init__(self, last: Yardstick | None, *, rescan: bool = False) -> None:
        self._last = last.counts if last is not None else Counts()
        alike = last is not None and last.rescan == rescan
        belief = _BELIEF * self._last.bytes if alike else 0.0
        self._believed_bytes = belief
        self._believed_read = belief * self._last.read / self._last.bytes if self._last.bytes else 0.0
        self._rescan = rescan
        self._percent = 0
        # Work and seconds of late, what is longer ago counting less.
        self._time = min(last.seconds, _PACE) if alike and last is not None else 0.0
        self._work = _work(self._last) * self._time / last.seconds if self._time and last is not None else 0.0
        self._begun = self._at = 0.0
        self._seen = 0.0

    def look(self, done: Counts, now: float, *, gathered: bool) -> Outlook:
        """The outlook at `now` (a monotonic clock's seconds), with so much `done`; `gathered`: no more will come."""
        self._learn(_work(done), now)
        if not self._last.files and not self._last.snapshots:
            return Outlook()
        if gathered:
            self._percent = 99
            return Outlook(99)
        rest = self._rest(done)
        ready = int(100 * _work(done) / (_work(done) + rest)) if rest else 100 if _work(done) else 0
        self._percent = max(self._percent, min(ready, 99))
        if ready >= 99 and self._beyond(done):
            return Outlook(self._percent, beyond=True)
        return Outlook(self._percent, self._left(rest))

    def _rest(self, done: Counts) -> float:
        """The work that is still to come, by what the last run held."""
        last = self._last
        files = _FILE * max(0, last.files - done.files)
        return files + self._to_read(done) * max(0, last.bytes - done.bytes) + max(0, last.snapshots - done.snapshots)

    def _to_read(self, done: Counts) -> float:
        """The share of files' bytes that have to be read, 0 to 1."""
        seen = done.bytes + self._believed_bytes
        return 1.0 if self._rescan or not seen else (done.read + self._believed_read) / seen

    def _beyond(self, done: Counts) -> bool:
        last = self._last
        return done.files > last.files or done.bytes > last.bytes or done.snapshots > last.snapshots

    def _learn(self, work: float, now: float) -> None:
        """Take note of the speed. What comes before the first file is no part of it."""
        if not self._seen:
            self._begun = self._at = now
            self._seen = work
        elif (passed := now - self._at) > 0:
            faded = exp(-passed / (_PACE + (now - self._begun) / 4))
            self._work = self._work * faded + max(0.0, work - self._seen)
            self._time = self._time * faded + passed
            self._at, self._seen = now, max(self._seen, work)  # a file that changed is read again: that is no news

    def _left(self, rest: float) -> float | None:
        if self._time < _SOON or not self._work or not rest:
            return None
        left = rest * self._time / self._work
        return left if left <= _FARTHEST else None


def _work(counts: Counts) -> float:
    return float(_FILE * counts.files + counts.read + counts.snapshots)
