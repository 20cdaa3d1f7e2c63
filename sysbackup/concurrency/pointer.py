"""What a process works on at this moment, for another one to see should it not go on."""

import struct

from sysbackup.concurrency.shared_slots import SharedSlots

_LENGTH = struct.Struct("<I")
SIZE = 16 << 10


class Pointer:
    """A cell of shared memory (a slot of `SIZE`) with the name of something; written and read without a lock."""

    def __init__(self, cells: SharedSlots, cell: int) -> None:
        self._memory = cells.view(cell)

    def at(self, name: bytes) -> None:
        """This it is now."""
        length = min(len(name), SIZE - _LENGTH.size)
        self._memory[_LENGTH.size : _LENGTH.size + length] = name[:length]
        _LENGTH.pack_into(self._memory, 0, length)

    def read(self) -> bytes:
        """What it was when this was asked; nonsense where it changes at the same time."""
        (length,) = _LENGTH.unpack_from(self._memory)
        return bytes(self._memory[_LENGTH.size : _LENGTH.size + length])
