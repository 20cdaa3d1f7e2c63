"""A look at the catalog from another process than the run's: read-only, and cheap to open."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from sysbackup.catalog import schema
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.lookup import Stored, Unchanged
from sysbackup.catalog.places import Places
from sysbackup.catalog.questions import Questions
from sysbackup.catalog.reliance import Reliance
from sysbackup.model import FileState, Location, Lock


class SqliteLookup:
    """
    See `lookup.Lookup`: at the catalog at `path`, which a run that began `now` keeps open.

    The run's terms are those of its session (`Catalog.begin`). They can be sent to another
    process, this cannot: to open it is to be done there. With `sampling` a manifest may
    rely on what nobody has compared with its hash: only a sample is, before that.
    """

    def __init__(self, path: Path, promise: Lock, doubting: bool, now: datetime, *, sampling: bool = False) -> None:
        self._connection = Connection(path, schema.beside)
        places = Places()
        self._questions = Questions(places, Reliance(promise, doubting), now, noted=False)
        self._placing = Questions(places, Reliance(promise, doubting and not sampling), now, noted=False)

    def stored(self, shas: Iterable[bytes]) -> Stored:
        """See `lookup.Lookup`."""
        with self._connection.snapshot() as db:
            return self._questions.stored(db, shas)

    def unchanged(self, states: Sequence[FileState]) -> Unchanged:
        """See `lookup.Lookup`."""
        with self._connection.snapshot() as db:
            return self._questions.unchanged(db, states)

    def locate(self, shas: Iterable[bytes]) -> dict[bytes, Location]:
        """See `lookup.Lookup`."""
        with self._connection.snapshot() as db:
            return self._placing.locate(db, shas, promised=True)

    def close(self) -> None:
        """See `lookup.Lookup`."""
        self._connection.close()
