"""Which contents are stored, and where: asked in batches, by all examiners of a run."""

from collections.abc import Iterable, Sequence

from sysbackup.catalog import objects, run_notes
from sysbackup.catalog.connection import Connection
from sysbackup.catalog.interface import NO_NEEDS, Needs
from sysbackup.catalog.places import Places
from sysbackup.catalog.questions import Questions
from sysbackup.model import Location, Member, StoredObject


class KnownContents:
    """See `interface.Contents`."""

    def __init__(self, connection: Connection, own: str, places: Places, questions: Questions) -> None:
        self._connection = connection
        self._own = own
        self._places = places
        self._questions = questions
        self.refuted = False

    def stored(self, shas: Iterable[bytes]) -> set[bytes]:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            stored = self._questions.stored(db, shas)
            run_notes.use(db, stored.used)
            return stored.shas

    def absent(self, shas: Iterable[bytes]) -> None:
        """See `interface.Contents`."""
        self._places.nowhere(shas)

    def use(self, shas: Iterable[bytes]) -> None:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            run_notes.use(db, shas)

    def confirm(
        self, stored: StoredObject, encoding: str | None, contents: Sequence[Member], needs: Needs = NO_NEEDS
    ) -> None:
        """See `interface.Contents`."""
        with self._connection.transaction() as db:
            self.refuted |= objects.enter(
                db, self._places, stored, encoding, contents, host=self._own, checked=True, news=True, needs=needs
            )

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            return self._questions.locate(db, shas, promised=promised, leaving=leaving)
