"""Putting a manifest together: a header, members in a row, the table of these, and the end."""

from collections.abc import Iterator

import msgspec

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, manifest
from sysbackup.formats.manifest import End, RunHeader
from sysbackup.formats.manifest_members import ManifestMember
from sysbackup.formats.manifest_table import Place, Root, Table, packed_table, place


class ManifestWriter:
    """
    Makes the stream: `begin`, `add` for each member in order, `end`. Send on what these return.

    It holds the packed table, and nothing else of what was added.
    """

    def __init__(self, header: RunHeader) -> None:
        self._header = header
        self._table = Table()
        self._offset = 0
        self._last: Place = (-1, b"")

    def begin(self) -> bytes:
        """The first line, in a member of its own."""
        packed = gzipping.compress(manifest.encode(self._header) + b"\n")
        self._offset = len(packed)
        return packed

    def add(self, member: ManifestMember) -> bytes:
        """Take the next member. `FormatError` where it is not behind the one before."""
        here = place(member.of, member.first)
        if here < self._last or (member.first and here == self._last):
            raise FormatError("the members of a manifest were put together in the wrong order")
        self._last = here
        self._table.add(member, self._offset)
        self._offset += len(member.packed)
        return member.packed

    def end(self, end: End) -> Iterator[bytes]:
        """The table, and the last two lines in a member of their own."""
        root: Root | None = None
        for span, level, member in packed_table(self._table, self._offset):
            yield member.packed
            root = Root(
                format=self._header.format,
                host=self._header.host,
                run=self._header.run,
                offset=span.offset,
                length=span.length,
                sha=member.sha.hex(),
                level=level,
            )
        yield gzipping.compress(msgspec.json.encode(root) + b"\n" + manifest.encode(end) + b"\n")
