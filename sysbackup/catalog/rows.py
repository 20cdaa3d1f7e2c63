"""
Rows that prove themselves: each has a checksum over all that a run relies on in it.

A disk, or memory, may change any byte of a database without a word, and SQLite
has no checksums of its own: a key that reads `contejt/...` is as good as any to
it. CRC-32 is enough against accidents; who can write to the catalog on purpose
is root here anyway.

The checksum of a row with contents begins with the key and version of their object.
SQLite gives the number of a row that is lost to the next one: what lay in the
lost object must not be taken for a part of the new one.
"""

import zlib
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sysbackup.catalog.interface import KnownObject
from sysbackup.errors import CatalogUnusable
from sysbackup.model import Lock, LockMode, StoredObject


class Damaged(CatalogUnusable):
    """A row is not as it was written; `Connection` says of which file."""


def identity(key: str, version: str) -> int:
    """What the checksums of an object's contents begin with."""
    return zlib.crc32(f"{key}\0{version}".encode())


class ObjectRow(NamedTuple):
    """A row of `objects` but for what is no more than a note of ours."""

    number: int
    key: str
    version: str
    size: int
    mode: str
    until: int
    encoding: str | None
    host: str
    checked: int

    @property
    def sum(self) -> int:
        """Its checksum."""
        return zlib.crc32(repr(tuple(self)).encode("utf-8", "surrogatepass"))

    @property
    def identity(self) -> int:
        """What the checksums of its contents begin with."""
        return identity(self.key, self.version)

    @property
    def stored(self) -> StoredObject:
        """The object itself."""
        lock = Lock(LockMode(self.mode), datetime.fromtimestamp(self.until, UTC))
        return StoredObject(self.key, self.version or None, self.size, lock, fresh=False)

    @property
    def known(self) -> KnownObject:
        """The same for those who know of no rows."""
        return KnownObject(self.number, self.stored, self.encoding, self.host, bool(self.checked))


OBJECT = "id, key, version, size, mode, until, encoding, host, checked, objects.sum"
"""The columns that `proven_object` takes, in a query over `objects`."""


def proven_object(*columns: Any) -> ObjectRow:
    """The row that these `OBJECT` columns are. `CatalogUnusable` where they do not fit their checksum."""
    row = ObjectRow(*columns[:-1])
    if row.sum != columns[-1]:
        raise damaged("objects")
    return row


def proven_text(value: Any) -> str:
    """Text of a table without checksums, where false text does no harm but other things would."""
    if not isinstance(value, str):
        raise damaged("indexes")
    return value


def damaged(table: str) -> Damaged:
    """The error for a row that is not as it was written."""
    return Damaged(f"a row of its table {table} is not what was written there")
