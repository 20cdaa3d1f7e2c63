"""The catalog's connection: shared by threads under a lock, its errors in this program's own words."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sysbackup.catalog import run_notes
from sysbackup.catalog.rows import Damaged
from sysbackup.catalog.sql_errors import SqlError, damage_in
from sysbackup.errors import CatalogUnusable, SpoolError

_AT_ONCE = 512  # values in one IN (...): SQLite's oldest limit is 999
_STEP = 64


class Connection:
    """
    The database at `path`, opened in one of the ways of `catalog_file`, or by `schema.beside`.

    SQLite serialises what threads do anyway, so they take turns at one connection.
    """

    def __init__(self, path: Path, opened: Callable[[Path], sqlite3.Connection]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._noting = False
        with self._trouble():
            self._db = opened(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
            if self._noting:
                with suppress(OSError):  # the next run takes them away, or says what is wrong with the directory
                    run_notes.end(self.path)

    def begin_notes(self) -> None:
        """A run begins, whose notes lie in the schema `run`."""
        with self.held() as db:
            self._noting = True
            run_notes.begin(db, self.path)

    @contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        """The connection, held against other threads; SQLite's errors are translated."""
        with self._lock, self._trouble():
            yield self._db

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """The same; all that is read in it is of one moment, whoever writes meanwhile."""
        with self.held() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:  # an error may have ended it
                    db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The same; all that is written in it counts, or nothing."""
        with self.held() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                if db.in_transaction:  # a full disk has ended it already
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except Damaged as exc:
            raise CatalogUnusable(f"the catalog {self.path} is damaged: {exc}") from exc
        except (*SqlError, OSError) as exc:
            if not isinstance(exc, OSError) and (damage := damage_in(exc)) is not None:
                raise CatalogUnusable(f"the catalog {self.path} is damaged: {damage}") from exc
            raise SpoolError(
                f"cannot use the catalog {self.path}: {exc}. What was stored is safe; make room in its"
                " directory, or delete the file: it is only a cache"
            ) from exc


def select(db: sqlite3.Connection, query: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """
    The rows of a query with one IN ({}), for however many values.

    Statements are made for few numbers of values, so that SQLite need not take them in each time.
    """
    for start in range(0, len(values), _AT_ONCE):
        some = [*values[start : start + _AT_ONCE]]
        some += some[-1:] * (-len(some) % (_STEP if len(some) > _STEP else 8))
        # whole: a cursor that is left in the middle, where a row is damaged, would outlive the connection
        yield from db.execute(query.format(",".join("?" * len(some))), some).fetchall()
