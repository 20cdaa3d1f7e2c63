"""What may be asked of a `MemoryCatalog`, noted nowhere: by a run's session, and beside it."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sysbackup.catalog.lookup import Stored, Unchanged
from sysbackup.catalog.questions import EMPTY
from sysbackup.errors import CatalogUnusable
from sysbackup.model import FileState, Location, Lock
from tests.support.memory_file import MemoryFile, Object, Run, day_of, in_seconds

_FRESH = timedelta(days=7)


class MemoryQuestions:
    """What a run may ask, which does not want what it is leaving."""

    def __init__(self, file: MemoryFile, run: Run) -> None:
        self._file = file
        self._run = run

    def stored(self, shas: Iterable[bytes]) -> Stored:
        with self._file.lock:
            known = {sha: holder for sha in set(shas) if (holder := self._vouched(self._holder(sha))) is not None}
            return Stored({*known}, [sha for sha, holder in known.items() if self._short(holder)])

    def unchanged(self, states: Sequence[FileState]) -> Unchanged:
        found = Unchanged({}, {}, [], [])
        with self._file.lock:
            for state in states:
                named = (state.device, state.inode)
                seen = self._file.files.get(named)
                if seen is None or seen.state != state._replace(sha=seen.state.sha):
                    continue
                holder = None if seen.state.sha == EMPTY else self._vouched(self._holder(seen.state.sha))
                if holder is None and seen.state.sha != EMPTY:
                    continue
                found.shas[named] = seen.state.sha
                if holder is not None and self._short(holder):
                    found.used.append(seen.state.sha)
                elif holder is not None:
                    found.places[named] = self._location(seen.state.sha, holder)
                if seen.day < day_of(self._run.began) - _FRESH:
                    found.met.append(named)
        return found

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        found = {}
        with self._file.lock:
            for sha in shas:
                holder = self._holder(sha, leaving=leaving)
                if holder is None:
                    continue
                lasting = all(self._run.lasts(needed) for needed, _ in self._file.needed(holder))
                if promised and not (lasting and self._run.holds(holder)):
                    raise CatalogUnusable("a manifest may not rely on an object that was to be seen to")
                found[sha] = self._location(sha, holder)
        return found

    def _location(self, sha: bytes, holder: Object) -> Location:
        _, member = self._file.contents[sha]
        return Location(holder.stored.key, holder.stored.version, member.span, holder.encoding)

    def _holder(self, sha: bytes, *, leaving: bool = False) -> Object | None:
        holder = self._file.holder(sha)
        if holder is None or leaving:
            return holder
        together = [holder, *(needed for needed, _ in self._file.needed(holder))]
        return None if any(one.number in self._run.leaving for one in together) else holder

    def _short(self, holder: Object) -> bool:
        return self._run.short(holder) or any(self._run.lapses(needed) for needed, _ in self._file.needed(holder))

    def _vouched(self, holder: Object | None) -> Object | None:
        return None if holder and holder.encoding == "chunks" and not self._run.trusts(holder) else holder


class MemoryLookup:
    """`lookup.Lookup` at a `MemoryFile`, beside a run that promises and began as this one."""

    def __init__(self, file: MemoryFile, promise: Lock, doubting: bool, now: datetime) -> None:
        self._questions = MemoryQuestions(file, Run("", in_seconds(promise), now, doubting))

    def stored(self, shas: Iterable[bytes]) -> Stored:
        return self._questions.stored(shas)

    def unchanged(self, states: Sequence[FileState]) -> Unchanged:
        return self._questions.unchanged(states)

    def locate(self, shas: Iterable[bytes]) -> dict[bytes, Location]:
        return self._questions.locate(shas, promised=True)

    def close(self) -> None:
        """Nothing: there is no file."""
