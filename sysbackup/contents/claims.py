"""
Claims: which contents somebody is storing at this moment, so that nobody else does.

Examiners look contents up by connections of their own, and ask here about those that
they did not find. Between their look and their question another may have
stored one: so what was confirmed lately is known here, for as long as a look that
did not see it may be under way.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Contents confirmed lately that are remembered: a look that takes longer than that is asked to be made again.
_LATELY = 200_000


class Claims:
    """Who stores what. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._claimed: set[bytes] = set()
        self._lately: deque[tuple[int, frozenset[bytes]]] = deque()
        self._kept = 0
        self._now = 0
        self._forgotten = 0
        self._looking: Counter[int] = Counter()
        self.unfulfilled = False
        """Whether a claim was given back: others may have counted on it."""
        self.abandoned = False
        """Whether one was whose file may not be looked at again."""

    @property
    def now(self) -> int:
        """When a look begins that begins now."""
        return self._now

    @contextmanager
    def looking(self) -> Iterator[int]:
        """While somebody looks contents up and claims what is not found; gives when it began, for `claim`."""
        begun = self._now
        self._looking[begun] += 1
        try:
            yield begun
        finally:
            self._looking[begun] -= 1
            if not self._looking[begun]:
                del self._looking[begun]
            self._forget()

    def certain(self, begun: int) -> bool:
        """Whether all is still known here that a look may have missed that began then."""
        return begun >= self._forgotten

    def claim(self, shas: Iterable[bytes], begun: int) -> set[bytes]:
        """
        Those of the contents that the caller is to store: nobody else does, or did since `begun`.

        Whoever claims a content must say that it is `stored`, or `release` it.
        """
        wanted = {sha for sha in shas if sha not in self._claimed}
        for when, stored in self._lately:
            if when > begun:
                wanted -= stored
        self._claimed |= wanted
        return wanted

    def claimed(self, shas: Iterable[bytes]) -> set[bytes]:
        """Those that somebody is storing."""
        return {sha for sha in shas if sha in self._claimed}

    def stored(self, stored: frozenset[bytes]) -> None:
        """The catalog knows these from now on."""
        self._claimed -= stored
        self._now += 1
        self._lately.append((self._now, stored))
        self._kept += len(stored)
        self._forget()

    def release(self, shas: Iterable[bytes]) -> None:
        """Give claims back unfulfilled."""
        given = set(shas) & self._claimed
        self._claimed -= given
        self.unfulfilled |= bool(given)

    def _forget(self) -> None:
        oldest = min(self._looking, default=self._now)
        while self._lately and (self._lately[0][0] <= oldest or self._kept > _LATELY):
            when, stored = self._lately.popleft()
            self._kept -= len(stored)
            self._forgotten = max(self._forgotten, when)
