"""A flag that threads and other processes see."""

import mmap
import os
from types import TracebackType
from typing import Self


class Flag:
    """A `threading.Event` without waiting that other processes see, too. Close it when all are done."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("sysbackup-flag")
            os.ftruncate(descriptor, 1)
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._map.close()
        os.close(self.descriptor)

    def is_set(self) -> bool:
        """Whether anybody has set it."""
        return self._map[0] != 0

    def set(self) -> None:
        """Set it, for all."""
        self._map[0] = 1

    def clear(self) -> None:
        """Take it back, for all."""
        self._map[0] = 0
