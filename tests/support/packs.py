"""Packs that are made in memory of a test's own."""

import mmap

from sysbackup.formats.pack import PackWriter

# More than any test fills: what is not written to takes no memory.
_ROOM = 256 << 20


def pack_writer() -> PackWriter:
    """A writer whose pack lies in fresh memory, which goes when the pack does."""
    return PackWriter(memoryview(mmap.mmap(-1, _ROOM)))
