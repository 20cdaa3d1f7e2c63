"""The budget of bytes in flight: what a run holds in memory between reading and the store's confirmation."""

import asyncio
from collections import deque
from contextlib import suppress


class Hold:
    """A share of the budget, given back in part or whole; `release` more than once does nothing."""

    def __init__(self, budget: "Budget", size: int) -> None:
        self._budget = budget
        self._size = size

    @property
    def size(self) -> int:
        """How many bytes it stands for now."""
        return self._size

    def shrink(self, size: int) -> None:
        """Keep `size` bytes at the most, give the rest back."""
        if size < self._size:
            self._budget.give(self._size - size)
            self._size = size

    def absorb(self, other: "Hold") -> None:
        """Take over what `other` holds."""
        self._size += other.size
        other.forget()

    def forget(self) -> None:
        """Hold nothing any more; what was held is someone else's now."""
        self._size = 0

    def split(self, size: int) -> "Hold":
        """Part of this hold as one of its own, for what is released on its own."""
        size = min(size, self._size)
        self._size -= size
        return Hold(self._budget, size)

    def release(self) -> None:
        """Give all of it back."""
        self.shrink(0)


class Budget:
    """
    Grants `total` bytes, first come first served, so that a large request is not starved by small ones.

    `reserve` bytes may be held for long by one who waits for others; so no
    request is granted more than the rest of the total, and one that is larger
    gets that: one thing at a time is always possible, however small the budget.
    """

    def __init__(self, total: int, reserve: int = 0) -> None:
        self.total = total
        self._most = total - reserve
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes granted and not given back."""
        return self.total - self._free

    async def take(self, size: int) -> Hold:
        """Wait until `size` bytes are free, and hold them."""
        size = min(size, self._most)
        if self._waiting or self._free < size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give(size)
                else:
                    with suppress(ValueError):  # already passed over by another's grant
                        self._waiting.remove((size, turn))
                    self._grant()
                raise
        else:
            self._free -= size
        return Hold(self, size)

    def give(self, size: int) -> None:
        """Return bytes to the budget; for `Hold`."""
        self._free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
