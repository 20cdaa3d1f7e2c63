"""Entries of the manifest, as the spool holds them until it is written."""

from collections.abc import Iterable, Iterator

from sysbackup.disk.sorting import Record
from sysbackup.formats import manifest

_UNCHANGED, _SEEN = b"u", b"-"


def spooled(path: bytes, entry: manifest.FileNode, *, unchanged: bool = False) -> Record:
    """What the spool takes of one look at a path; `unchanged` files were not opened."""
    return path, (_UNCHANGED if unchanged else _SEEN) + manifest.encode(entry)


def entry_in(record: Record) -> manifest.Entry:
    """The entry of a record."""
    return manifest.decode(record[1][1:])


def is_unchanged(record: Record) -> bool:
    """Whether it is of a file that was not opened."""
    return record[1].startswith(_UNCHANGED)


def latest(records: Iterable[Record]) -> Iterator[Record]:
    """Of sorted records with one path the one that was added last: the freshest look at that path."""
    held: Record | None = None
    for record in records:
        if held is not None and held[0] != record[0]:
            yield held
        held = record
    if held is not None:
        yield held
