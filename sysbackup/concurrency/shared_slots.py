"""
Memory that processes share: slots, mapped once by each side and used again and again.

Bytes that cross from one process to another by a pipe or a socket are copied twice,
and wake both sides every 64 KiB. In a slot they stay where they were made; what
crosses is its number. Memory is used for what was written to, not for what a slot may hold.
"""

import mmap
import os
from contextlib import suppress
from types import TracebackType
from typing import Self

_PAGE = mmap.PAGESIZE


class SharedSlots:
    """
    `number` slots of up to `size` bytes each. Close it when all views are let go of.

    The process that makes them gives none for `descriptor`; others, which were
    handed that descriptor, map what is there. Nothing here says whose turn a
    slot is: that is agreed upon in messages.
    """

    def __init__(self, number: int, size: int, descriptor: int | None = None) -> None:
        self.number = number
        self.size = -(-size // _PAGE) * _PAGE
        if descriptor is None:
            descriptor = os.memfd_create("sysbackup-slots")
            os.ftruncate(descriptor, self.number * self.size)
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, self.number * self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the memory. What still has a view keeps it mapped for as long as it has."""
        with suppress(BufferError):  # a body that is still being sent: the mapping goes with it
            self._map.close()
        os.close(self.descriptor)

    def view(self, slot: int, length: int | None = None) -> memoryview:
        """The bytes of a slot, or the first `length` of them."""
        begin = slot * self.size
        return memoryview(self._map)[begin : begin + (self.size if length is None else min(length, self.size))]

    def trim(self, slot: int, keep: int = 0) -> None:
        """Give back the memory behind the first `keep` bytes of a slot (madvise(2), MADV_REMOVE)."""
        begin = -(-keep // _PAGE) * _PAGE
        if begin < self.size:
            with suppress(OSError):  # a kernel that cannot, or may not: the memory is kept, and used again
                self._map.madvise(mmap.MADV_REMOVE, slot * self.size + begin, self.size - begin)
