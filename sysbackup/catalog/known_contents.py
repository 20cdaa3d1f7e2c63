"""Which contents are stored, and where: asked in batches, by all examiners of a run."""

from collections.abc import Iterable, Sequence

from sysbackup.catalog import objects
from sysbackup.catalog.connection import Connection, select
from sysbackup.catalog.reliance import Reliance
from sysbackup.catalog.rows import CONTENT, OBJECT, ObjectRow, damaged, proven_object, proven_span
from sysbackup.model import Location, Member, StoredObject


class KnownContents:
    """See `interface.Contents`."""

    def __init__(self, connection: Connection, own: str, reliance: Reliance) -> None:
        self._connection = connection
        self._own = own
        self._reliance = reliance
        self._claim = (
            f"SELECT sha, {reliance.short} FROM contents JOIN objects ON id = object WHERE sha IN ({{}})"
            " AND object NOT IN (SELECT object FROM run.leaving)"
        )
        self._claimed: set[bytes] = set()
        self.unfulfilled = False
        self.refuted = False

    def claim(self, shas: Iterable[bytes]) -> set[bytes]:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            wanted = set(shas) - self._claimed
            used = []
            for sha, short in select(db, self._claim, list(wanted)):
                wanted.discard(sha)
                if short:
                    used.append((sha,))
            db.executemany("INSERT OR IGNORE INTO run.used VALUES (?)", used)
            self._claimed |= wanted
            return wanted

    def release(self, sha: bytes) -> None:
        """See `interface.Contents`."""
        with self._connection.held():
            self._claimed.discard(sha)
            self.unfulfilled = True

    def confirm(self, stored: StoredObject, encoding: str | None, contents: Sequence[Member]) -> None:
        """See `interface.Contents`."""
        with self._connection.transaction() as db:
            refuted = objects.enter(db, stored, encoding, contents, host=self._own, checked=True, news=True)
            self.refuted |= refuted
            self._claimed.difference_update(member.sha for member in contents)

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        """See `interface.Contents`."""
        kept = "" if leaving else " AND object NOT IN (SELECT object FROM run.leaving)"
        found = {}
        holders: dict[int, tuple[ObjectRow, int]] = {}
        with self._connection.held() as db:
            rows = select(
                db,
                f"SELECT {CONTENT}, {OBJECT} FROM contents JOIN objects ON id = object WHERE sha IN ({{}}){kept}",
                list(set(shas)),
            )
            for columns in rows:
                if columns[1] not in holders:
                    row = proven_object(*columns[6:])
                    if promised and not self._reliance.holds(row):
                        raise damaged("used")
                    holders[columns[1]] = row, row.identity
                row, identity = holders[columns[1]]
                span = proven_span(identity, *columns[:6])
                found[columns[0]] = Location(row.key, row.version or None, span, row.encoding)
        return found
