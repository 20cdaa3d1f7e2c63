"""
Machines whose promises hypothesis tries to break: files, catalogs, locks and runs, and all that may happen to them.

Two machines back their own trees up into one bucket. Between their runs, and
in the middle of them, files change, days pass, lifecycle rules and others
delete what no lock holds, catalogs are lost, damaged and put back from old
copies, settings change, runs are killed. After each step every manifest
whose promise has not passed must restore completely.
"""

import gzip
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sysbackup.catalog import renewals
from sysbackup.contents import chunk_keeping, learning
from sysbackup.errors import StoreUnavailable
from sysbackup.formats import index, keys, manifest
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.formats.run_result import Summary
from sysbackup.model import Location, Lock, LockMode, Span
from sysbackup.pipeline import file_facts, gathering
from sysbackup.pipeline.backup import back_up
from tests.support import backups, chunking
from tests.support.clock import ManualClock
from tests.support.memory_store import Kept, MemoryBucket, MemoryStore
from tests.support.mortal import Killed, Leftover, MortalStore, remove
from tests.support.troubles import CHANGES, Troubled

PACK_BELOW = 1500
CUT = {"chunk_from": 4000, "chunk_size": 1024, "stream_pack_size": 6000}
LARGE = random.Random(10).randbytes(9000)
# A few contents of each class, so that files and machines share them: empty, packed, alone, cut.
CONTENTS = [b"", *(random.Random(n).randbytes(size) for n, size in enumerate([5, 300, 400, 500, 700, 900, 1400]))]
CONTENTS += [b"log line\n" * 150, b"text " * 600, random.Random(8).randbytes(2500), random.Random(9).randbytes(6000)]
# what is cut is met again: with bytes between its own, and in pieces
CONTENTS += [LARGE, LARGE[:5000] + b"inserted" + LARGE[5000:], chunking.cut(LARGE, 1024)[2], LARGE[:4500]]
RUBBISH = [
    b"",
    b"rubbish",
    gzip.compress(b'{"typ":"index"}\n'),
    gzip.compress(index.header("gamma", "x") + b'{"typ":"o","x":' + b"[" * 99_999 + b"]" * 99_999 + b"}\n"),
]

STEPS = 50
# Shrinking takes minutes; whoever looks for many bugs at once may leave it out.
PHASES = [phase for phase in Phase if phase is not Phase.shrink or "SYSBACKUP_UNSHRUNK" not in os.environ]

# For catalogs: their commits need not wait for a disk. What a kill leaves of one is made by `Leftover`, not the kernel.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

HOSTS = st.sampled_from(["alpha", "beta"])
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "dir/f", "dir/g", "dir/h"])
DATA = st.integers(0, len(CONTENTS) - 1)
SEEDS = st.integers(0, 1 << 16)
SHARES = st.sampled_from([("*",), ("*",), ("own",), ("alpha",), ("b*",)])
DOUBTS = st.sampled_from(["off", "off", "first-use", "sample"])
MODES = st.sampled_from([LockMode.GOVERNANCE, LockMode.GOVERNANCE, LockMode.COMPLIANCE, LockMode.NONE])
WEEKS = st.sampled_from([0, 0, 8, 16])
NUMBERS = st.integers(0, 9)

Fate = tuple[int, Callable[[], None], bool]
"""What happens at which request of a run, and whether after it took effect; see `MortalStore`."""


@dataclass(slots=True)
class Promised:
    """
    What one run has promised: its manifest, and what must be in each of these places until then.

    Or in others, as a list there says: `all_places`.
    """

    until: Lock
    manifest: Kept
    places: list[tuple[Location, str]]
    all_places: list[Location]


class Promises(RuleBasedStateMachine):
    """The story of two machines and one bucket."""

    def __init__(self) -> None:
        super().__init__()
        self._base = Path(tempfile.mkdtemp(prefix="promises-"))
        self._caches = Path(tempfile.mkdtemp(prefix="promises-", dir=QUICK))
        self._clock = ManualClock()
        self._bucket = MemoryBucket(self._clock, multipart_locks=False)
        self._machines = {
            host: Troubled(self._base, host, self._bucket, pack_below=PACK_BELOW, **CUT) for host in ("alpha", "beta")
        }
        for host, machine in self._machines.items():
            machine.config = msgspec.structs.replace(machine.config, cache=self._caches / host)
        self._promised: dict[str, Promised] = {}

    def teardown(self) -> None:
        shutil.rmtree(self._base)
        shutil.rmtree(self._caches)

    @initialize(seed=SEEDS)
    def beginning(self, seed: int) -> None:
        """Both begin with the same contents: what the one has stored the other relies on."""
        contents = random.Random(seed).choices(CONTENTS, k=5)
        for host, machine in self._machines.items():
            for name, content in zip(("a", "b", "c", "d", "dir/f"), contents, strict=True):
                machine.put(name, content, in_place=True)
            self.backup(host)
            assert machine.catalog.exists()

    # ---- files

    @rule(host=HOSTS, name=NAMES, data=DATA, in_place=st.booleans())
    def write(self, host: str, name: str, data: int, in_place: bool) -> None:
        self._machines[host].put(name, CONTENTS[data], in_place=in_place)

    @rule(host=HOSTS, name=NAMES, other=NAMES, how=st.sampled_from([*CHANGES]), seed=SEEDS, at_once=st.booleans())
    def change(self, host: str, name: str, other: str, how: str, seed: int, at_once: bool) -> None:
        """One of the ways in which files change; perhaps the next run comes before any other change."""
        self._machines[host].change(name, other, how, random.Random(seed))
        if at_once:
            self._run(host)

    # ---- time, and what others do to the bucket

    @rule(
        days=st.sampled_from([0.2, 3, 6, 7.5, 10, 15, 22, 30, 90]),
        expired=st.sampled_from([None, None, "", "content/", "packs/", "index/"]),
    )
    def wait(self, days: float, expired: str | None) -> None:
        """Days pass, and lifecycle rules delete what no lock holds any more, all of it or under one prefix."""
        self._clock.turn(days=days)
        if expired is not None:
            self._bucket.expire(expired)

    @rule(seed=SEEDS)
    def vanish(self, seed: int) -> None:
        """One version that no lock holds is deleted."""
        self._delete_one(random.Random(seed))

    @rule(seed=SEEDS)
    def hide(self, seed: int) -> None:
        """A delete marker is put over a key; that needs no lock to end."""
        if self._bucket.objects:
            self._bucket.hide(random.Random(seed).choice(sorted(self._bucket.objects)))

    @rule(seed=SEEDS, host=st.sampled_from(["alpha", "beta", "gamma"]))
    def plant_rubbish(self, seed: int, host: str) -> None:
        """Something that is no index lies among the indexes."""
        key = keys.index_key(host, f"{self._clock.now():%Y%m%dT%H%M%SZ}-zzzz")
        self._bucket.add(key, random.Random(seed).choice(RUBBISH))

    # ---- catalogs

    @rule(host=HOSTS)
    def lose_catalog(self, host: str) -> None:
        remove(self._machines[host].catalog)

    @rule(host=HOSTS)
    def copy_catalog(self, host: str) -> None:
        if self._machines[host].catalog.exists():
            self._machines[host].copy_catalog()

    @rule(host=HOSTS, seed=SEEDS)
    def put_back_catalog(self, host: str, seed: int) -> None:
        """The machine's disk is put back to an earlier state, but for its files."""
        if leftovers := self._machines[host].leftovers:
            random.Random(seed).choice(leftovers).put_back()

    @rule(host=HOSTS, seed=SEEDS, pages=st.integers(1, 12))
    def damage_catalog(self, host: str, seed: int, pages: int) -> None:
        if self._machines[host].catalog.exists():
            self._machines[host].damage_catalog(pages, random.Random(seed))

    # ---- runs

    @rule(host=HOSTS)
    def backup(self, host: str) -> None:
        self._run(host)

    @rule(
        host=HOSTS,
        rescan=st.booleans(),
        share=SHARES,
        doubt=DOUBTS,
        days=st.sampled_from([7, 14, 14, 30]),
        mode=MODES,
        pack=st.sampled_from([800, 2000, 6000]),
    )
    def backup_with_other_settings(
        self, host: str, rescan: bool, share: tuple[str, ...], doubt: str, days: int, mode: LockMode, pack: int
    ) -> None:
        self._run(
            host, rescan=rescan, share=share, verify_shared=doubt, days_retained=days, lock_mode=mode, pack_size=pack
        )

    @rule(host=HOSTS, number=NUMBERS, after=st.booleans(), mode=MODES, days=WEEKS, seed=SEEDS)
    def backup_and_be_killed(self, host: str, number: int, after: bool, mode: LockMode, days: float, seed: int) -> None:
        """SIGKILL: the catalog stays as it was at that moment."""
        self._keep_busy(host, days, seed)
        leftover: list[Leftover] = []

        def die() -> None:
            leftover.append(self._machines[host].copy_catalog())
            raise Killed

        try:
            self._run(host, (number, die, after), lock_mode=mode)
        except Killed:
            leftover[0].put_back()

    @rule(host=HOSTS, number=NUMBERS, after=st.booleans(), days=WEEKS, seed=SEEDS)
    def backup_and_lose_the_store(self, host: str, number: int, after: bool, days: float, seed: int) -> None:
        self._keep_busy(host, days, seed)

        def fail() -> None:
            raise StoreUnavailable("made to fail by the test")

        try:
            self._run(host, (number, fail, after))
        except StoreUnavailable:
            return

    @rule(host=HOSTS, number=NUMBERS, days=st.sampled_from([1, 5, 9, 13]), after=st.booleans(), seed=SEEDS)
    def backup_for_days(self, host: str, number: int, days: int, after: bool, seed: int) -> None:
        """Time passes during the run, locks end meanwhile, and something that none holds any more is deleted."""
        dice = random.Random(seed)

        def idle() -> None:
            self._clock.turn(days=days)
            for _ in range(3):
                self._delete_one(dice, keep="manifests/")

        self._run(host, (number, idle, after))

    @rule(host=HOSTS, number=NUMBERS, name=NAMES, days=WEEKS, seed=SEEDS)
    def backup_while_a_file_goes(self, host: str, number: int, name: str, days: float, seed: int) -> None:
        self._keep_busy(host, days, seed)
        going = self._machines[host].tree / name
        self._run(host, (number, lambda: going.unlink(missing_ok=True), False), going=bytes(going))

    def _keep_busy(self, host: str, days: float, seed: int) -> None:
        """Give a run something to do: contents of all classes to store, and perhaps locks to renew."""
        dice = random.Random(seed)
        self._clock.turn(days=days)
        for n, size in enumerate((50, 600, 2000, 4500)):
            self._machines[host].put(f"new{n}", dice.randbytes(size), in_place=True)

    def _run(
        self,
        host: str,
        fate: Fate | None = None,
        *,
        rescan: bool = False,
        going: bytes | None = None,
        **content: Any,
    ) -> None:
        """One run; what it promises is what the tree held when it began, but for `going`, which may be missing."""
        machine = self._machines[host]
        config = machine.with_settings(**content)
        self._clock.turn(seconds=5)
        expected = machine.contents()
        mode, started = config.content.lock_mode, self._clock.now()
        store: Any = self._store()
        if fate is not None:
            store = MortalStore(store, fate[0], fate[1], after=fate[2])
        try:
            summary = backups.run(back_up(config, store, self._clock, rescan=rescan))
        finally:
            if mode is not LockMode.NONE:  # which promises nothing
                self._take_down(expected, mode, started, going)
        self._judge(summary, expected, mode, fate, going)

    def _store(self) -> MemoryStore:
        """What a run sends its requests to."""
        return MemoryStore(self._bucket)

    def _judge(
        self, summary: Summary, expected: dict[bytes, str], mode: LockMode, fate: Fate | None, going: bytes | None
    ) -> None:
        """What a run that has ended well must have said."""
        # a store that is lost after the manifest was put cannot say any more what stands under its key
        assert fate is not None or summary.unseen is None, summary.unseen
        assert going is not None or not summary.first_problems, summary.first_problems
        assert summary.manifest in self._promised or mode is LockMode.NONE

    def _take_down(self, expected: dict[bytes, str], mode: LockMode, started: datetime, going: bytes | None) -> None:
        """Note which manifests are new in the bucket, and compare them with the files."""
        for key, versions in self._bucket.objects.items():
            kept = next((k for k in versions if not k.marker and k.modified >= started), None)
            if kept is None or not key.startswith("manifests/"):
                continue
            reader = ManifestReader()
            header, *entries = reader.feed(kept.body)
            reader.finish()
            assert isinstance(header, manifest.RunHeader)
            self._promise(key, Lock(mode, header.promise), kept, compared(entries, expected, going))

    def _promise(self, key: str, until: Lock, kept: Kept, places: list[tuple[Location, str]]) -> None:
        """A manifest was stored."""
        all_places = [at for place, _ in places for at in chunking.places(self._bucket, place)]
        self._promised[key] = Promised(until, kept, places, all_places)

    def _delete_one(self, dice: random.Random, keep: str = "nothing") -> None:
        loose = [
            kept
            for key in sorted(self._bucket.objects)
            for kept in self._bucket.objects[key]
            if not self._bucket._is_locked(kept) and not key.startswith(keep)
        ]
        if loose:
            gone = dice.choice(loose)
            self._bucket.delete(gone.key, gone.version)

    # ---- what must hold

    @invariant()
    def every_promise_is_kept(self) -> None:
        now = self._clock.now()
        for promised in self._promised.values():
            if promised.until.until > now:
                self._check(promised.manifest.key, promised.manifest.version, promised.until)
                for at in promised.all_places:
                    self._check(at.key, at.version, promised.until)
                for at, sha in promised.places:
                    assert decoded(self._bucket, at) == sha

    def _check(self, key: str, version: str | None, promise: Lock) -> Kept:
        """A version is there and locked as promised."""
        assert version is not None
        kept = self._bucket.find(key, version)
        assert kept.lock is not None, key
        assert kept.lock.covers(promise), (key, kept.lock, promise)
        return kept


def compared(
    entries: Iterable[manifest.Entry], expected: dict[bytes, str], going: bytes | None
) -> list[tuple[Location, str]]:
    """Where the contents of a manifest's files lie, and their hashes, which must be those that were expected."""
    files = {e.path_bytes: e for e in entries if isinstance(e, manifest.File)}
    assert {path: file.sha for path, file in files.items() if path != going} == {
        path: sha for path, sha in expected.items() if path != going
    }
    assert all(file.location is not None or not file.size for file in files.values())
    return [(file.location, file.sha) for file in files.values() if file.location is not None]


_decoded: dict[tuple[str | None, Span | None], str] = {}


def decoded(bucket: MemoryBucket, at: Location) -> str:
    """The hash of the content at a place, worked out once: a version's bytes never change."""
    known = (at.version, at.span)
    if known not in _decoded:
        _decoded[known] = hashlib.sha256(chunking.content(bucket, at)).hexdigest()
    return _decoded[known]


def tell_stories(kind: type[Promises], examples: int, beginning: int = 0) -> None:
    """
    So many examples of up to 50 steps each, with the bounds of a run so low that few small files reach them.

    In CI the same ones each time for the same `beginning`; others elsewhere.
    """
    steps = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        print_blob=True,
        phases=PHASES,
    )
    with pytest.MonkeyPatch.context() as patch:
        for module, name, bound in (
            (gathering, "PUBLISH_EVERY", 0.005),
            (chunk_keeping, "drawn", partial(next, (bytes(12) + n.to_bytes(4, "big") for n in count()))),
            (renewals, "_PAGE", 3),
            (learning, "_BATCH", 3),
            (learning, "_SKIPPED_AT_MOST", 3),
        ):
            patch.setattr(module, name, bound)
        # Files are trusted at once, not 2 s later: `Troubled.noticed` sees to what those are for.
        patch.setattr(file_facts, "_SETTLED", 0)
        structlog.configure(processors=[_drop])
        _decoded.clear()
        try:
            run_state_machine_as_test(seed(beginning)(kind) if "CI" in os.environ else kind, settings=steps)
        finally:
            structlog.reset_defaults()


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent
