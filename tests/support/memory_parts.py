"""The parts of a session of a `MemoryCatalog`: what may be told to it and asked of it."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from sysbackup.catalog.interface import NO_NEEDS, Due, KnownObject, Named, Needs
from sysbackup.formats import keys
from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Location, Lock, Member, StoredObject
from tests.support.memory_file import MemoryFile, News, Object, Published, Run, Seen, day_of, second
from tests.support.memory_lookup import MemoryQuestions


class MemoryContents:
    """See `interface.Contents`."""

    def __init__(self, file: MemoryFile, run: Run) -> None:
        self._file = file
        self._run = run
        self._questions = MemoryQuestions(file, run)
        self.refuted = False

    def stored(self, shas: Iterable[bytes]) -> set[bytes]:
        with self._file.lock:
            stored = self._questions.stored(shas)
            self.use(stored.used)
            return stored.shas

    def absent(self, shas: Iterable[bytes]) -> None:
        """Nothing is looked for here."""

    def use(self, shas: Iterable[bytes]) -> None:
        with self._file.lock:
            self._run.used |= {*shas}

    def confirm(
        self, stored: StoredObject, encoding: str | None, contents: Sequence[Member], needs: Needs = NO_NEEDS
    ) -> None:
        with self._file.lock:
            self.refuted |= self._file.enter(
                stored,
                encoding,
                contents,
                host=self._run.host,
                checked=True,
                news=News.WAITING,
                needs=needs,
                made=self._run.made,
            )

    def locate(self, shas: Iterable[bytes], *, leaving: bool = True, promised: bool = False) -> dict[bytes, Location]:
        return self._questions.locate(shas, leaving=leaving, promised=promised)


class MemoryFiles:
    """See `interface.Files`."""

    def __init__(self, file: MemoryFile, run: Run) -> None:
        self._file = file
        self._run = run
        self._questions = MemoryQuestions(file, run)
        self._met: set[tuple[int, int]] = set()

    def unchanged(self, states: Sequence[FileState]) -> dict[tuple[int, int], bytes]:
        with self._file.lock:
            found = self._questions.unchanged(states)
            self._run.used |= {*found.used}
            self._met |= {*found.met}
        return found.shas

    def any(self) -> bool:
        with self._file.lock:
            return bool(self._file.files)

    def met(self, files: Iterable[tuple[int, int]]) -> None:
        with self._file.lock:
            self._met |= {*files}

    def remember(self, states: Sequence[FileState]) -> None:
        with self._file.lock:
            today = day_of(self._run.began)
            self._file.files |= {(state.device, state.inode): Seen(state, today) for state in states}

    def note_met(self) -> None:
        """The run has come to its end: what it met is set down."""
        for named in self._met & self._file.files.keys():
            self._file.files[named].day = day_of(self._run.began)
        self._met.clear()


class MemoryRenewals:
    """See `interface.Renewals`."""

    def __init__(self, file: MemoryFile, run: Run) -> None:
        self._file = file
        self._run = run
        self._due: Counter[int] = Counter()  # by number, how many of its bytes are used

    def collect(self) -> int:
        with self._file.lock:
            self._due = Counter()
            for sha in self._run.used:
                if (holder := self._file.holder(sha)) is None:
                    continue
                if self._run.short(holder):
                    _, member = self._file.contents[sha]
                    self._due[holder.number] += member.span.length if member.span else holder.stored.size
                for found, size in self._file.needed(holder):
                    if self._run.lapses(found):
                        self._due[found.number] += size
            return len(self._due)

    def due(self) -> Iterator[list[Due]]:
        for number in sorted(self._due):
            with self._file.lock:
                known = self._file.objects.get(number)
                if known is None:
                    continue
                ends = [member.span.end for member in self._file.members(number) if member.span]
                told = (known.stored, known.encoding, known.host, known.checked, number in self._run.leaving)
                page = [Due(number, *told, self._due[number], max(ends, default=known.stored.size))]
            yield page  # of one: nobody may count on more

    def renewed(self, number: int, lock: Lock, *, checked: bool) -> None:
        with self._file.lock:
            known = self._file.objects.get(number)
            if known is None:
                return
            before, known.lock = known.lock, lock
            proven, known.checked = known.checked, known.checked or checked
            if before.until < known.lock.until or (known.checked > proven and keys.is_stream_pack(known.stored.key)):
                known.news = News.WAITING

    def leave(self, number: int) -> None:
        with self._file.lock:
            self._run.leaving.add(number)

    def forget(self, numbers: Iterable[int]) -> None:
        gone = set(numbers)
        with self._file.lock:
            self._file.forget(lambda o: o.number in gone)

    def forget_host(self, host: str) -> None:
        with self._file.lock:
            self._file.forget(lambda o: o.host == host and not o.checked)

    def reencoded(self, number: int, encoding: str | None) -> None:
        with self._file.lock:
            if number in self._file.objects:
                self._file.objects[number].encoding = encoding

    def vouch(self, *, believing: bool) -> None:
        with self._file.lock:
            for number in self._run.made & self._file.objects.keys():
                known = self._file.objects[number]
                if not known.checked and (believing or all(o.checked for o, _ in self._file.needed(known))):
                    known.checked, known.news = True, News.WAITING

    def members(self, number: int) -> list[Member]:
        with self._file.lock:
            return self._file.members(number)


class MemoryIndexes:
    """See `interface.Indexes`."""

    def __init__(self, file: MemoryFile, run: Run) -> None:
        self._file = file
        self._run = run

    def learn(self, host: str, said: Iterable[Indexed], now: datetime, *, doubting: bool = False) -> int:
        with self._file.lock:
            # first all of it: where that breaks off, none of it is learnt
            return sum([self._learn(host, found, now, doubting=doubting) for found in [*said]])

    def _learn(self, host: str, found: Indexed, now: datetime, *, doubting: bool) -> int:
        known = self._file.find(found.stored.key, found.stored.version)
        if found.encoding == "chunks" and not found.sealed:
            return 0
        if known is not None and doubting and not found.sealed:
            return 0
        ours = known is not None and known.checked
        told = () if ours and not found.sealed else found.contents
        new = sum(member.sha not in self._file.contents for member in told)
        moved = [member for member in told if self._moves(member.sha, found, known, now)]
        if moved or known is not None or found.sealed:
            teller = host if doubting else found.teller or host
            needs = {(key, version): size for key, version, size in found.needs}
            self._file.enter(
                found.stored, found.encoding, moved, host=teller, checked=found.sealed, news=News.NO, needs=needs
            )
        return new

    def _moves(self, sha: bytes, found: Indexed, known: Object | None, now: datetime) -> bool:
        """Whether a content is taken to lie in what was found (`known` already, or not) from now on."""
        holder = self._file.holder(sha)
        if holder is None or (found.sealed and (holder is known or not holder.checked)):
            return True
        return holder.lock.until < second(now) and holder.lock.until < second(found.stored.lock.until)

    def last_read(self) -> dict[str, str]:
        with self._file.lock:
            return {host: index.key for host, index in self._file.indexes.items()}

    def read_up_to(self, keys: Mapping[str, str]) -> None:
        with self._file.lock:
            for host, key in keys.items():
                if host not in self._file.indexes or self._file.indexes[host].key < key:
                    self._file.indexes[host] = Published(key, None)

    def still_locked(self, now: datetime) -> str | None:
        with self._file.lock:
            own = self._file.indexes.get(self._run.host)
            return None if own is None or own.until is None or own.until <= second(now) else own.key

    def restrict(self, allowed: Callable[[str], bool]) -> list[str]:
        with self._file.lock:
            hosts = {o.host for o in self._file.objects.values()} | self._file.indexes.keys()
            dropped = sorted(host for host in hosts if not allowed(host))
            if dropped:
                self._file.forget(lambda o: o.host in dropped)
                self._file.indexes = {host: i for host, i in self._file.indexes.items() if host not in dropped}
                self.forget_unproven()
            return dropped

    def unproven(self) -> bool:
        with self._file.lock:
            return not all(o.checked for o in self._file.objects.values())

    def forget_unproven(self) -> None:
        with self._file.lock:
            self._file.forget(lambda o: not o.checked)
            self._file.indexes = {host: i for host, i in self._file.indexes.items() if host == self._run.host}

    def begin_publishing(self) -> int:
        with self._file.lock:
            telling = {number for number, _ in self._file.contents.values()}
            news = [o for o in self._file.objects.values() if o.news is not News.NO]
            for known in news:
                known.news = News.CHOSEN if known.number in telling else News.NO
            return sum(o.news is News.CHOSEN for o in news)

    def news(self) -> Iterator[Indexed]:
        for known in [*self._file.objects.values()]:
            with self._file.lock:
                if known.number not in self._file.objects or known.news is not News.CHOSEN:
                    continue
                teller = None if known.checked else known.host
                needs = tuple((o.stored.key, o.stored.version or "", size) for o, size in self._file.needed(known))
                held = tuple(self._file.members(known.number))
                told = Indexed(known.stored, known.encoding, held, teller, needs=needs)
            yield told

    def published(self, key: str, until: datetime | None) -> None:
        with self._file.lock:
            for known in self._file.objects.values():
                known.news = News.NO if known.news is News.CHOSEN else known.news
            self._file.indexes[self._run.host] = Published(key, None if until is None else second(until))


class MemoryPresence:
    """See `interface.Presence`."""

    def __init__(self, file: MemoryFile) -> None:
        self._file = file
        self._met: set[Named] = set()
        self._known: set[int] = set()

    def turned_to(self) -> str:
        return self._file.turned_to

    def turn_to(self, key: str) -> None:
        self._file.turned_to = key

    def any_known(self, prefix: str) -> bool:
        with self._file.lock:
            return any(o.stored.key.startswith(prefix) for o in self._file.objects.values())

    def begin(self) -> None:
        self._met = set()
        with self._file.lock:
            self._known = {*self._file.objects}

    def meet(self, found: Iterable[Named]) -> None:
        self._met |= {*found}

    def unmet(self, after: str, before: str) -> Iterator[list[KnownObject]]:
        for known in [*self._file.objects.values()]:
            with self._file.lock:
                stored = known.stored
                met = (stored.key, stored.version or "") in self._met
                there = known.number in self._file.objects and known.number in self._known
                if met or not there or not after < stored.key < before:
                    continue
                page = [known.known]
            yield page

    def one_of_each_host(self, now: datetime, most: int) -> list[str]:
        with self._file.lock:
            known = [*self._file.objects.values()]
        hosts = sorted({o.host for o in known})
        keys = []
        for host in random.sample(hosts, min(most, len(hosts))):
            there = [o.stored.key for o in known if o.host == host and o.lock.until > second(now)]
            keys += random.sample(there, min(1, len(there)))
        return keys
