"""Channels between stages: bounded, and closable, since finished is not the same as empty."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """
    Carries items from senders to receivers in order; at most `size` wait in between.

    Each item reaches one receiver. The sender closes it after its last item, on
    success only: a stage that fails leaves it open, and the task group cancels
    whoever waits. Iterating ends when the channel is closed and empty.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._closed = False
        self._change = asyncio.Condition()

    async def send(self, item: T) -> None:
        """Hand one item on; waits while the channel is full."""
        async with self._change:
            assert not self._closed, "nothing may be sent on a closed channel"
            await self._change.wait_for(lambda: len(self._items) < self._size)
            self._items.append(item)
            self._change.notify_all()

    async def close(self) -> None:
        """No more items will come."""
        async with self._change:
            self._closed = True
            self._change.notify_all()

    async def until(self, enough: Callable[[Collection[T]], bool]) -> bool:
        """Wait until `enough` is true of what waits here, or nothing more will come; returns whether it is."""
        async with self._change:
            await self._change.wait_for(lambda: self._closed or enough(self._items))
            return enough(self._items)

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            async with self._change:
                await self._change.wait_for(lambda: self._items or self._closed)
                if not self._items:
                    return
                item = self._items.popleft()
                self._change.notify_all()
            yield item
