"""Two catalogs, in SQLite and in memory, that are told the same and asked the same say the same."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sysbackup.catalog import connection, hints, pieces, places, presence, renewals
from sysbackup.catalog.interface import Catalog, KnownObject, Session
from sysbackup.catalog.lookup import Lookup
from sysbackup.catalog.questions import EMPTY
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.catalog.sqlite_lookup import SqliteLookup
from sysbackup.errors import CatalogUnusable
from sysbackup.formats import chunk_list, keys
from sysbackup.formats.index import Indexed
from sysbackup.model import FileState, Lock, LockMode, Member, Span, StoredObject
from tests.support.catalogs import NOW, sha
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_file import MemoryFile
from tests.support.memory_lookup import MemoryLookup

EXAMPLES = int(os.environ.get("SYSBACKUP_TWINS", "250"))
STEPS = 30

QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # no commit need wait for a disk

# Few of each, so that what is told and asked meets what is known.
NAMES = st.integers(0, 5)
SOME = st.lists(NAMES, max_size=6)
HOSTS = st.sampled_from(["alpha", "beta", "gamma"])
MODES = st.sampled_from([LockMode.GOVERNANCE, LockMode.GOVERNANCE, LockMode.COMPLIANCE, LockMode.NONE])
# Runs begin days apart, at midnight, and every lock ends near a moment that counts: one second makes the difference.
MIDNIGHT = NOW.replace(hour=0, minute=0)
DAYS = st.sampled_from([-10, 0, 10, 20, 60])
SECONDS = st.sampled_from([-1.0, 0.0, 0.5])
# A run notes that it met a file where the last note is a week old: these are further apart.
PASSING = st.sampled_from([0, 10, 20, 60])
ENCODINGS = st.sampled_from([None, "gzip"])
INDEXES = st.integers(0, 3)
CHOICES = st.integers(0, 9)

Locks = tuple[LockMode, int, float]
LOCKS = st.tuples(MODES, DAYS, SECONDS)
FILES = st.lists(
    st.builds(
        FileState,
        st.integers(1, 2),
        st.integers(1, 3),
        st.integers(3, 4),
        st.just(5),
        st.integers(6, 7),
        st.one_of(NAMES.map(sha), st.just(EMPTY)),
    ),
    max_size=4,
)

T = TypeVar("T")
Some = TypeVar("Some", bound=KnownObject)


@dataclass(frozen=True)
class Told:
    """
    An object as one word has it; another may have another lock for it, or other contents at other places (`shift`).

    A pack, but for the number 3, which is that of a content object; where it `needs` packs, a list of chunks in these.
    """

    number: int
    version: str | None
    locks: Locks
    said: str | None
    names: list[int]
    shift: int
    packs: list[tuple[int, str]]

    def stored(self, now: datetime) -> StoredObject:
        return StoredObject(self.key, self.version, 1000 + self.number, lock_of(self.locks, now))

    @property
    def key(self) -> str:
        return keys.content_key(sha(self.alone)) if self.number == 3 else pack_key(self.number)

    @property
    def encoding(self) -> str | None:
        return chunk_list.NAME if self.needs else self.said

    @property
    def needs(self) -> dict[tuple[str, str], int]:
        named = self.packs if self.number == 3 else []
        return {(pack_key(number), version): 10 + at for at, (number, version) in enumerate(named)}

    @property
    def alone(self) -> int:
        return next(iter(self.names), 0)

    @property
    def contents(self) -> list[Member]:
        if self.number == 3:
            return [Member(sha(self.alone), 70)]
        return [Member(sha(n), 250, Span(100 * n + self.shift, 100)) for n in dict.fromkeys(self.names)]


OBJECTS = st.builds(
    Told,
    st.integers(0, 3),
    st.sampled_from([None, "1", "2"]),
    LOCKS,
    ENCODINGS,
    SOME,
    st.sampled_from([0, 1000]),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "1", "2"])), max_size=3),
)


def pack_key(number: int) -> str:
    return keys.pack_key(sha(f"pack {number}"))


def lock_of(locks: Locks, now: datetime) -> Lock:
    """A lock that ends so many days and seconds from now."""
    mode, days, seconds = locks
    return Lock(mode, now + timedelta(days=days, seconds=seconds))


def same_numbers(pages: Iterable[list[Some]]) -> tuple[list[Some], list[int]]:
    """What is told of objects, and apart from it what this catalog calls them."""
    found = [one for page in pages for one in page]
    return [replace(one, number=0) for one in found], [one.number for one in found]


def attempted(call: Callable[[], object]) -> object:
    """What a call returns, or that the catalog is not to be used."""
    try:
        return call()
    except CatalogUnusable:
        return CatalogUnusable


def in_sets(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """An answer whose lists have no order that matters."""
    return tuple({*part} if isinstance(part, list) else part for part in answer)


class Twins(RuleBasedStateMachine):
    """One story, told to both."""

    def __init__(self) -> None:
        super().__init__()
        self._base = Path(tempfile.mkdtemp(prefix="twins-", dir=QUICK))
        self._file = MemoryFile()
        self._now = MIDNIGHT
        self._catalogs: list[Catalog] = []
        self._runs: list[Session] = []
        self._terms: tuple[Lock, bool, datetime]
        self._packs: list[tuple[str, str]] = []

    def teardown(self) -> None:
        for catalog in self._catalogs:
            catalog.close()
        shutil.rmtree(self._base)

    def _opened(self) -> list[Catalog]:
        return [SqliteCatalog(self._base / "catalog.sqlite"), MemoryCatalog(self._file)]

    def _begun(self, locks: Locks, host: str, *, doubting: bool) -> None:
        promise = lock_of(locks, self._now)
        self._terms = promise, doubting, self._now
        self._runs = [c.begin("bucket", host, promise, self._now, doubting=doubting) for c in self._catalogs]

    def _both(self, call: Callable[[Session], T]) -> T:
        """The one answer of both."""
        by_sqlite, by_memory = map(call, self._runs)
        assert by_sqlite == by_memory
        return by_sqlite

    def _each(self, call: Callable[[Session, int], T], numbers: list[list[int]], choice: int) -> T | None:
        """The same of a call about one object, which each calls by a number of its own; None where there is none."""
        if not numbers[0]:
            return None
        chosen = [own[choice % len(own)] for own in numbers]
        by_sqlite, by_memory = (call(run, number) for run, number in zip(self._runs, chosen, strict=True))
        assert by_sqlite == by_memory
        return by_sqlite

    def _objects(self, ask: Callable[[Session], Iterable[list[Some]]]) -> tuple[list[Some], list[list[int]]]:
        """The objects of the one answer of both, and the numbers that each has for them."""
        by_sqlite, by_memory = (same_numbers(ask(run)) for run in self._runs)
        assert by_sqlite[0] == by_memory[0]
        return by_sqlite[0], [by_sqlite[1], by_memory[1]]

    # ---- runs

    @initialize(locks=LOCKS, doubting=st.booleans())
    def a_first_run_begins(self, locks: Locks, *, doubting: bool) -> None:
        self._catalogs = self._opened()
        self._begun(locks, "alpha", doubting=doubting)

    @rule(locks=LOCKS, host=st.sampled_from(["alpha", "alpha", "beta"]), doubting=st.booleans(), days=PASSING)
    def a_run_begins(self, locks: Locks, host: str, *, doubting: bool, days: int) -> None:
        self._now += timedelta(days=days)
        self._begun(locks, host, doubting=doubting)

    @rule(locks=LOCKS, days=PASSING, killed=st.booleans())
    def it_is_opened_again(self, locks: Locks, days: int, *, killed: bool) -> None:
        self._now += timedelta(days=days)
        before = self._catalogs
        if not killed:
            for catalog in before:
                catalog.close()
        self._catalogs = self._opened()
        self._begun(locks, "alpha", doubting=False)
        if killed:
            for catalog in before:
                catalog.close()

    @rule()
    def another_bucket(self) -> None:
        for catalog in self._catalogs:
            with pytest.raises(CatalogUnusable):
                catalog.begin("elsewhere", "alpha", Lock(LockMode.NONE, self._now), self._now)

    @rule()
    def a_run_ends(self) -> None:
        self._both(lambda run: run.tidy(self._now))

    # ---- contents and files

    @rule(names=SOME)
    def asked(self, names: list[int]) -> None:
        self._both(lambda run: run.contents.stored(map(sha, names)))

    @rule(
        version=st.sampled_from(["1", "2"]),
        locks=LOCKS,
        name=NAMES,
        choices=st.lists(CHOICES, min_size=1, max_size=3),
        published=st.booleans(),
    )
    def listed(self, version: str, locks: Locks, name: int, choices: list[int], *, published: bool) -> None:
        """A list of chunks in packs that were stored, and that may be known still."""
        if not self._packs:
            return
        needs = {self._packs[choice % len(self._packs)]: 10 + choice for choice in choices}
        stored = StoredObject(keys.content_key(sha(name)), version, 1003, lock_of(locks, self._now))
        held = [Member(sha(name), 70)]
        if published:
            told = Indexed(stored, chunk_list.NAME, tuple(held), None, True, tuple((*n, s) for n, s in needs.items()))
            self._both(lambda run: run.indexes.learn("alpha", [told], self._now))
        else:
            self._both(lambda run: run.contents.confirm(stored, chunk_list.NAME, held, needs))

    @rule(told=OBJECTS)
    def confirmed(self, told: Told) -> None:
        if told.number != 3:
            self._packs = [*self._packs[-3:], (told.key, told.version or "")]
        self._both(lambda run: run.contents.confirm(told.stored(self._now), told.encoding, told.contents, told.needs))

    @rule(names=SOME, leaving=st.booleans())
    def promised(self, names: list[int], *, leaving: bool) -> None:
        def located(run: Session) -> object:
            return run.contents.locate(map(sha, names), leaving=leaving, promised=True)

        self._both(lambda run: attempted(lambda: located(run)))

    @rule(states=FILES)
    def remembered(self, states: list[FileState]) -> None:
        self._both(lambda run: run.files.remember(states))

    @rule(states=FILES)
    def met(self, states: list[FileState]) -> None:
        self._both(lambda run: run.files.unchanged(states))

    # ---- beside the run

    def _beside(self, ask: Callable[[Lookup], T]) -> T:
        """The one answer that both give to another process."""
        lookups: list[Lookup] = [
            SqliteLookup(self._base / "catalog.sqlite", *self._terms),
            MemoryLookup(self._file, *self._terms),
        ]
        with ExitStack() as stack:
            for lookup in lookups:
                stack.callback(lookup.close)
            by_sqlite, by_memory = map(ask, lookups)
        assert by_sqlite == by_memory
        return by_sqlite

    @rule(names=SOME)
    def asked_beside(self, names: list[int]) -> None:
        _, used = self._beside(lambda lookup: in_sets(lookup.stored(map(sha, names))))
        self._both(lambda run: run.contents.use(used))

    @rule(names=SOME)
    def absent_after_a_look(self, names: list[int]) -> None:
        """What a look did not find is not looked for again when it is confirmed."""
        with closing(SqliteLookup(self._base / "catalog.sqlite", *self._terms)) as lookup:
            stored = lookup.stored(map(sha, names)).shas
        absent = {sha(n) for n in names} - stored
        self._both(lambda run: run.contents.absent(absent))
        assert self._both(lambda run: run.contents.stored(absent)) == set()

    @rule(states=FILES)
    def met_beside(self, states: list[FileState]) -> None:
        shas, places, used, met = self._beside(lambda lookup: in_sets(lookup.unchanged(states)))
        assert {(s.device, s.inode) for s in states} >= shas.keys() >= places.keys() | met
        self._both(lambda run: run.contents.use(used))
        self._both(lambda run: run.files.met(met))

    @rule(names=SOME)
    def promised_beside(self, names: list[int]) -> None:
        self._beside(lambda lookup: attempted(lambda: lookup.locate(map(sha, names))))

    # ---- what is due

    def _due(self, names: list[int]) -> list[list[int]]:
        """The numbers of the objects that are due, once these contents are reused, too."""
        self._both(lambda run: run.contents.stored(map(sha, names)))
        self._both(lambda run: run.renewals.collect())
        _, numbers = self._objects(lambda run: run.renewals.due())
        return numbers

    @rule(names=SOME, choice=CHOICES, locks=LOCKS, checked=st.booleans())
    def renewed(self, names: list[int], choice: int, locks: Locks, *, checked: bool) -> None:
        lock = lock_of(locks, self._now)
        self._each(lambda run, number: run.renewals.renewed(number, lock, checked=checked), self._due(names), choice)

    @rule(names=SOME, choice=CHOICES)
    def left(self, names: list[int], choice: int) -> None:
        self._each(lambda run, number: run.renewals.leave(number), self._due(names), choice)

    @rule(names=SOME, choice=CHOICES, encoding=ENCODINGS)
    def reencoded(self, names: list[int], choice: int, encoding: str | None) -> None:
        self._each(lambda run, number: run.renewals.reencoded(number, encoding), self._due(names), choice)

    @rule(names=SOME, choice=CHOICES)
    def lost(self, names: list[int], choice: int) -> None:
        due = self._due(names)
        self._each(lambda run, number: run.renewals.forget([number, number]), due, choice)
        self._each(lambda run, number: run.renewals.reencoded(number, None), due, choice)
        self._objects(lambda run: run.renewals.due())

    # ---- indexes

    @rule(
        host=HOSTS,
        said=st.lists(st.tuples(OBJECTS, st.one_of(st.none(), HOSTS), st.booleans()), max_size=3),
        doubting=st.booleans(),
    )
    def learnt(
        self,
        host: str,
        said: list[tuple[Told, str | None, bool]],
        *,
        doubting: bool,
    ) -> None:
        objects = [
            Indexed(
                told.stored(self._now),
                told.encoding,
                tuple(told.contents),
                teller,
                sealed and host == "alpha",
                tuple((*named, size) for named, size in told.needs.items()),
            )
            for told, teller, sealed in said
        ]
        stored = [(told.key, told.version or "") for told, _, _ in said if told.number != 3]
        self._packs = [*self._packs, *stored][-4:]
        self._both(lambda run: run.indexes.learn(host, objects, self._now, doubting=doubting))

    @rule(hosts=st.dictionaries(HOSTS, INDEXES, max_size=2))
    def read(self, hosts: dict[str, int]) -> None:
        self._both(lambda run: run.indexes.read_up_to({host: f"index/{host}/{n}" for host, n in hosts.items()}))

    @rule(hosts=st.sets(HOSTS, min_size=1))
    def restricted(self, hosts: set[str]) -> None:
        self._both(lambda run: run.indexes.restrict(hosts.__contains__))

    @rule(believing=st.booleans())
    def vouched(self, *, believing: bool) -> None:
        self._both(lambda run: run.renewals.vouch(believing=believing))

    @rule(host=HOSTS)
    def host_forgotten(self, host: str) -> None:
        self._both(lambda run: run.renewals.forget_host(host))

    @rule()
    def unproven_forgotten(self) -> None:
        self._both(lambda run: run.indexes.forget_unproven())

    @rule(told=OBJECTS, number=INDEXES, locks=st.one_of(st.none(), LOCKS), confirmed=st.booleans())
    def published(
        self,
        told: Told,
        number: int,
        locks: Locks | None,
        *,
        confirmed: bool,
    ) -> None:
        self._both(lambda run: run.indexes.begin_publishing())
        self.confirmed(told)  # what comes meanwhile
        self._both(lambda run: [*run.indexes.news()])
        if confirmed:
            until = None if locks is None else lock_of(locks, self._now).until
            self._both(lambda run: run.indexes.published(f"index/alpha/{number}", until))

    # ---- the bucket

    @rule(
        found=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "1", "2"])), max_size=5),
        stretch=st.sampled_from([("", "\U0010ffff"), ("packs/", "packs/~"), ("content/", "packs/8")]),
        choice=CHOICES,
        forgetting=st.booleans(),
    )
    def looked_for(
        self, found: list[tuple[int, str]], stretch: tuple[str, str], choice: int, *, forgetting: bool
    ) -> None:
        self._both(lambda run: run.presence.begin())
        self._both(lambda run: run.presence.meet((pack_key(n), version) for n, version in found))
        _, numbers = self._objects(lambda run: run.presence.unmet(*stretch))
        self._each(lambda run, number: run.renewals.members(number), numbers, choice)
        if forgetting:
            self._each(lambda run, number: run.renewals.forget([number]), numbers, choice)
            self._objects(lambda run: run.presence.unmet(*stretch))

    @rule(key=st.sampled_from(["", "content/1", "packs/2"]))
    def turned(self, key: str) -> None:
        self._both(lambda run: run.presence.turn_to(key))

    @rule()
    def sampled(self) -> None:
        hosts = self._catalogs[1].info().hosts

        def of(run: Session) -> int:
            found = run.presence.one_of_each_host(self._now, len(hosts))
            assert all(run.presence.any_known(key[:-1]) for key in found)
            return len(found)

        self._both(of)
        assert {len(run.presence.one_of_each_host(self._now, 0)) for run in self._runs} == {0}

    # ---- whatever was said before

    @invariant()
    def they_say_the_same(self) -> None:
        infos = [catalog.info() for catalog in self._catalogs]
        assert infos[1:] == infos[:-1]
        everything = [sha(n) for n in range(6)]
        moments: list[datetime] = [self._now + timedelta(seconds=s) for s in (-1, 0, 0.5, 1)]
        for ask in _QUESTIONS:
            self._both(ask)
        self._both(lambda run: [run.contents.locate(everything, leaving=leaving) for leaving in (True, False)])
        self._both(lambda run: [(run.next_lock_end(now), run.indexes.still_locked(now)) for now in moments])


_QUESTIONS: list[Callable[[Session], object]] = [
    lambda run: run.contents.refuted,
    lambda run: (run.indexes.last_read(), run.indexes.unproven()),
    lambda run: run.presence.turned_to(),
    lambda run: [run.presence.any_known(prefix) for prefix in ("content/", "packs/", "packs/8")],
]


def test_they_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they were told; in CI the same stories each time, others elsewhere."""
    # so that few values are more than fit into a page, or into a statement
    monkeypatch.setattr(connection, "_AT_ONCE", 3)
    monkeypatch.setattr(presence, "_AT_ONCE", 2)
    monkeypatch.setattr(renewals, "_PAGE", 2)
    # and a piece or a bucket, and hints are written, made more of, and made anew, time and again
    monkeypatch.setattr(pieces, "_EACH", 2)
    monkeypatch.setattr(places, "_EVERY", 1)
    for name, value in {"_FEWEST": 0, "_FULL": 1, "_MOST": 4, "_WAITING": 3, "_PAGE": 2}.items():
        monkeypatch.setattr(hints, name, value)
    steps = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=[*HealthCheck]
    )
    run_state_machine_as_test(seed(0)(Twins) if "CI" in os.environ else Twins, settings=steps)
