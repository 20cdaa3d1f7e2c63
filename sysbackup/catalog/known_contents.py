"""Which contents are stored, and where: asked in batches, by all examiners of a run."""

from collections.abc import Iterable, Sequence

from sysbackup.catalog import objects, run_notes
from sysbackup.catalog.connection import Connection
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
        self._claimed: set[bytes] = set()
        self.unfulfilled = False
        self.refuted = False

    def claim(self, shas: Iterable[bytes]) -> set[bytes]:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            wanted = set(shas) - self._claimed
            stored = self._questions.stored(db, wanted)
            run_notes.use(db, stored.used)
            wanted -= stored.shas
            self._claimed |= wanted
            return wanted

    def absent(self, shas: Iterable[bytes]) -> None:
        """See `interface.Contents`."""
        self._places.nowhere(shas)

    def use(self, shas: Iterable[bytes]) -> None:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            run_notes.use(db, shas)

    def release(self, sha: bytes) -> None:
        """See `interface.Contents`."""
        with self._connection.held():
            self._claimed.discard(sha)
            self.unfulfilled = True

    def confirm(self, stored: StoredObject, encoding: str | None, contents: Sequence[Member]) -> None:
        """See `interface.Contents`."""
        with self._connection.transaction() as db:
            self.refuted |= objects.enter(
                db, self._places, stored, encoding, contents, host=self._own, checked=True, news=True
            )
            self._claimed.difference_update(member.sha for member in contents)

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        """See `interface.Contents`."""
        with self._connection.held() as db:
            return self._questions.locate(db, shas, promised=promised, leaving=leaving)
