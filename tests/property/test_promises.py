"""
No promise is ever broken: whatever happens to files, catalogs, locks and runs.

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
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sysbackup.config import Config
from sysbackup.errors import StoreUnavailable
from sysbackup.formats import manifest
from sysbackup.model import Location, Lock, LockMode
from sysbackup.pipeline import examining
from sysbackup.pipeline.run import back_up
from sysbackup.pipeline.workplace import catalog_path
from tests import backups
from tests.clock import ManualClock
from tests.memory_store import Kept, MemoryBucket, MemoryStore
from tests.mortal import Killed, Leftover, MortalStore, remove

PACK_BELOW, IN_MEMORY = 1500, 4000
# A few contents of each class, so that files and machines share them: empty, packed, alone, streamed.
CONTENTS = [b"", *(random.Random(n).randbytes(size) for n, size in enumerate([5, 300, 400, 500, 700, 900, 1400]))]
CONTENTS += [b"log line\n" * 150, b"text " * 600, random.Random(8).randbytes(2500), random.Random(9).randbytes(6000)]

STEPS = settings(
    max_examples=int(os.environ.get("SYSBACKUP_PROMISES", "60")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.generate] if os.environ.get("NOSHRINK") else [*Phase],
)

HOSTS = st.sampled_from(["alpha", "beta"])
NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"dir/f", b"dir/g", b"dir/h"])
DATA = st.integers(0, len(CONTENTS) - 1)
SEEDS = st.integers(0, 1 << 16)
SHARES = st.sampled_from([("*",), ("*",), ("own",), ("alpha",), ("b*",)])
DOUBTS = st.sampled_from(["off", "off", "first-use", "sample"])
MODES = st.sampled_from([LockMode.GOVERNANCE, LockMode.GOVERNANCE, LockMode.COMPLIANCE, LockMode.NONE])
DAYS = st.sampled_from([7, 14, 14, 30])
NUMBERS = st.integers(0, 9)
WEEKS = st.sampled_from([0, 0, 8, 16])
PACKS = st.sampled_from([800, 2000, 6000])


@dataclass(frozen=True, slots=True)
class Place:
    """One file as a manifest names it: what must be there."""

    at: Location
    sha: str


@dataclass(slots=True)
class Promised:
    """What one run has promised."""

    until: Lock
    manifest: Kept
    places: list[Place]


class Machine:
    """One server: its tree, its configuration, its catalog, and copies of that from earlier."""

    def __init__(self, base: Path, host: str) -> None:
        self.tree = bytes(base / host)
        self.config = backups.configured(
            base / f"{host}-sysbackup", {"host": host, "pack_below": PACK_BELOW}, {"workers": 2, "uploads": 3}
        )
        self.catalog = catalog_path(self.config.cache)
        self.leftovers: list[Leftover] = []
        os.makedirs(self.tree + b"/dir")
        backups.finder(self.config, self.tree)

    def with_content(self, **content: Any) -> Config:
        """The configuration with other settings."""
        return msgspec.structs.replace(self.config, content=msgspec.structs.replace(self.config.content, **content))

    def path(self, name: bytes) -> bytes:
        return self.tree + b"/" + name

    def contents(self) -> dict[bytes, str]:
        """The hash of each file in the tree."""
        found = {}
        for folder, _, names in os.walk(self.tree):
            for name in names:
                with open(folder + b"/" + name, "rb") as file:
                    found[folder + b"/" + name] = hashlib.sha256(file.read()).hexdigest()
        return found

    def keep_catalog(self) -> Leftover:
        """A copy of the catalog as it is now."""
        leftover = Leftover(self.catalog, self.catalog.with_name(f"aside{len(self.leftovers)}"))
        self.leftovers.append(leftover)
        return leftover

    @contextmanager
    def noticed(self, name: bytes) -> Iterator[bytes]:
        """
        A change to a file that is made at least a tick of the kernel's clock after whatever came before.

        Runs here trust what they read a moment ago (see `Promises`), which is honest
        only if no change shares its ctime with a reading.
        """
        path = self.path(name)
        before = os.lstat(path).st_ctime_ns if os.path.lexists(path) else 0
        yield path
        while os.path.lexists(path) and os.lstat(path).st_ctime_ns == before:
            os.chmod(path, os.lstat(path).st_mode & 0o777)


def append(path: bytes, _: bytes, dice: random.Random) -> None:
    with open(path, "ab") as file:
        file.write(dice.randbytes(dice.randrange(1, 700)))


def write_in_secret(path: bytes, _: bytes, dice: random.Random) -> None:
    """Other bytes, as many as before, and the time of the last write put back."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.write(dice.randbytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link(path: bytes, other: bytes, _: random.Random) -> None:
    if not os.path.exists(other):
        os.link(path, other)


CHANGES: dict[str, Callable[[bytes, bytes, random.Random], None]] = {
    "append": append,
    "write in secret": write_in_secret,
    "delete": lambda path, _, __: os.unlink(path),
    "rename": lambda path, other, _: os.rename(path, other),
    "link": link,
    "touch": lambda path, _, dice: os.utime(path, dice.choice([None, (1, 1)])),
    "chmod": lambda path, _, dice: os.chmod(path, dice.choice([0o600, 0o644, 0o755])),
}


class Promises(RuleBasedStateMachine):
    """The story of two machines and one bucket."""

    def __init__(self) -> None:
        super().__init__()
        self._base = Path(tempfile.mkdtemp(prefix="promises-"))
        self._machines = {host: Machine(self._base, host) for host in ("alpha", "beta")}
        self._clock = ManualClock()
        self._bucket = MemoryBucket(self._clock, multipart_locks=False)
        self._promised: dict[str, Promised] = {}

    def teardown(self) -> None:
        shutil.rmtree(self._base)

    @initialize(seed=SEEDS)
    def beginning(self, seed: int) -> None:
        dice = random.Random(seed)
        for host, machine in self._machines.items():
            for name in (b"a", b"b", b"c", b"dir/f"):
                self.write(host, name, dice.randrange(len(CONTENTS)), in_place=True)
            self.backup(host)
            assert machine.catalog.exists()

    # ---- files

    @rule(host=HOSTS, name=NAMES, data=DATA, in_place=st.booleans())
    def write(self, host: str, name: bytes, data: int, in_place: bool) -> None:
        with self._machines[host].noticed(name) as path:
            with open(path if in_place else path + b".new", "wb") as file:
                file.write(CONTENTS[data])
            if not in_place:
                os.rename(path + b".new", path)

    @rule(host=HOSTS, name=NAMES, other=NAMES, change=st.sampled_from([*CHANGES]), seed=SEEDS)
    def change(self, host: str, name: bytes, other: bytes, change: str, seed: int) -> None:
        machine = self._machines[host]
        if os.path.exists(machine.path(name)):
            with machine.noticed(name) as path:
                CHANGES[change](path, machine.path(other), random.Random(seed))

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
        if keys := sorted(self._bucket.objects):
            self._bucket.hide(random.Random(seed).choice(keys))

    @rule(seed=SEEDS, host=st.sampled_from(["alpha", "beta", "gamma"]))
    def plant_rubbish(self, seed: int, host: str) -> None:
        """Something that is no index lies among the indexes."""
        body = random.Random(seed).choice([b"", b"rubbish", gzip.compress(b"[" * 100_000), gzip.compress(b'{"typ":"index"}\n')])
        self._bucket.add(f"index/{host}/{self._clock.now():%Y%m%dT%H%M%SZ}-zzzz.jsonl.gz", body)

    # ---- catalogs

    @rule(host=HOSTS)
    def lose_catalog(self, host: str) -> None:
        remove(self._machines[host].catalog)

    @rule(host=HOSTS)
    def copy_catalog(self, host: str) -> None:
        if self._machines[host].catalog.exists():
            self._machines[host].keep_catalog()

    @rule(host=HOSTS, seed=SEEDS)
    def put_back_catalog(self, host: str, seed: int) -> None:
        """The machine's disk is put back to an earlier state, but for its files."""
        if leftovers := self._machines[host].leftovers:
            random.Random(seed).choice(leftovers).put_back()

    @rule(host=HOSTS, seed=SEEDS, pages=st.integers(1, 12))
    def damage_catalog(self, host: str, seed: int, pages: int) -> None:
        """Whole pages are overwritten, as by a disk gone bad: with noise, with zeros, or cut off."""
        dice = random.Random(seed)
        path = self._machines[host].catalog
        if path.exists() and (size := path.stat().st_size):
            if dice.random() < 0.3:
                os.truncate(path, dice.randrange(size))
                return
            with path.open("r+b") as file:
                for _ in range(pages):
                    file.seek(dice.randrange(size) // 4096 * 4096)
                    file.write(dice.randbytes(4096) if dice.random() < 0.7 else bytes(4096))

    # ---- runs

    @rule(host=HOSTS)
    def backup(self, host: str) -> None:
        self._run(host)

    @rule(host=HOSTS, rescan=st.booleans(), share=SHARES, doubt=DOUBTS, days=DAYS, mode=MODES, pack=PACKS)
    def backup_with_other_settings(
        self, host: str, rescan: bool, share: tuple[str, ...], doubt: str, days: int, mode: LockMode, pack: int
    ) -> None:
        self._run(
            host,
            rescan=rescan,
            share=share,
            verify_shared=doubt,
            days_retained=days,
            lock_mode=mode,
            pack_size=pack,
        )

    @rule(host=HOSTS, number=NUMBERS, after=st.booleans(), mode=MODES, days=WEEKS, seed=SEEDS)
    def backup_and_be_killed(
        self, host: str, number: int, after: bool, mode: LockMode, days: float, seed: int
    ) -> None:
        """SIGKILL: the catalog stays as it was at that moment."""
        machine = self._machines[host]
        self._keep_busy(host, days, seed)
        leftover: list[Leftover] = []

        def die() -> None:
            leftover.append(machine.keep_catalog())
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
    def backup_while_a_file_goes(self, host: str, number: int, name: bytes, days: float, seed: int) -> None:
        machine = self._machines[host]
        self._keep_busy(host, days, seed)

        def unlink() -> None:
            if os.path.exists(machine.path(name)):
                os.unlink(machine.path(name))

        self._run(host, (number, unlink, False), going=machine.path(name))

    def _keep_busy(self, host: str, days: float, seed: int) -> None:
        """Give a run something to do: contents of all classes to store, and perhaps locks to renew."""
        dice = random.Random(seed)
        self._clock.turn(days=days)
        for name, size in ((b"new1", 50), (b"new2", 600), (b"new3", 2000), (b"new4", 4500)):
            with self._machines[host].noticed(name) as path, open(path, "wb") as file:
                file.write(dice.randbytes(size))

    def _run(
        self,
        host: str,
        fate: tuple[int, Callable[[], None], bool] | None = None,
        *,
        rescan: bool = False,
        going: bytes | None = None,
        **content: Any,
    ) -> None:
        """One run; what it stored a manifest of is what the tree held when it began, or else `going` is missing."""
        machine = self._machines[host]
        config = machine.with_content(**content)
        self._clock.turn(seconds=2)
        expected = machine.contents()
        mode, started = config.content.lock_mode, self._clock.now()
        store: Any = MemoryStore(self._bucket)
        if fate is not None:
            store = MortalStore(store, fate[0], fate[1], after=fate[2])
        try:
            summary = backups.run(back_up(config, store, "bucket", self._clock, rescan=rescan))
        finally:
            if mode is not LockMode.NONE:
                self._take_down(expected, mode, started, going)
        assert going is not None or not summary.problems, summary.first_problems
        assert summary.manifest in self._promised or mode is LockMode.NONE

    def _take_down(self, expected: dict[bytes, str], mode: LockMode, started: datetime, going: bytes | None) -> None:
        """Note which manifests are new in the bucket, and compare them with the files."""
        for key, versions in self._bucket.objects.items():
            kept = next((k for k in versions if not k.marker and k.modified >= started), None)
            if kept is None or not key.startswith("manifests/"):
                continue
            reader = manifest.ManifestReader()
            entries = [*reader.feed(kept.body)]
            reader.finish()
            header = entries[0]
            assert isinstance(header, manifest.RunHeader)
            files = {e.path_bytes: e for e in entries if isinstance(e, manifest.File)}
            assert {path: file.sha for path, file in files.items() if path != going} == {
                path: sha for path, sha in expected.items() if path != going
            }
            places = [Place(e.location, e.sha) for e in files.values() if e.location is not None]
            assert all(e.location is not None or not e.size for e in files.values())
            self._promised[key] = Promised(Lock(mode, header.promise), kept, places)

    def _delete_one(self, dice: random.Random, keep: str | None = None) -> None:
        loose = [
            kept
            for key in sorted(self._bucket.objects)
            for kept in self._bucket.objects[key]
            if not self._bucket._is_locked(kept) and not (keep and key.startswith(keep))
        ]
        if loose:
            gone = dice.choice(loose)
            self._bucket.delete(gone.key, gone.version)

    # ---- what must hold

    @invariant()
    def every_promise_is_kept(self) -> None:
        now = self._clock.now()
        for promised in self._promised.values():
            if promised.until.until <= now:
                continue
            self._check(promised.manifest.key, promised.manifest.version, promised.until)
            for place in promised.places:
                kept = self._check(place.at.key, place.at.version, promised.until)
                assert decoded(kept, place.at) == place.sha

    def _check(self, key: str, version: str | None, promise: Lock) -> Kept:
        """A version is there and locked as promised."""
        assert version is not None
        kept = self._bucket.find(key, version)
        assert kept.lock is not None, key
        assert kept.lock.covers(promise), (key, kept.lock, promise)
        return kept


_decoded: dict[tuple[str, int | None], str] = {}


def decoded(kept: Kept, at: Location) -> str:
    """The hash of the content at a place, worked out once: a version's bytes never change."""
    known = (kept.version, at.offset)
    if known not in _decoded:
        body = kept.body
        if at.offset is not None and at.length is not None:
            body = body[at.offset : at.offset + at.length]
        _decoded[known] = hashlib.sha256(zlib.decompress(body, 31) if at.encoding else body).hexdigest()
    return _decoded[known]


def test_every_manifest_restores_until_its_promise_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over thousands of random steps, see the module's first lines."""
    monkeypatch.setattr(examining, "IN_MEMORY", IN_MEMORY)
    # Files are trusted at once, not 2 s later: `Machine.noticed` sees to what those are for.
    monkeypatch.setattr(examining, "_SETTLED", 0)
    structlog.configure(processors=[_drop])
    _decoded.clear()
    try:
        run_state_machine_as_test(Promises, settings=STEPS)
    finally:
        structlog.reset_defaults()


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent
