"""
Manifests that somebody else writes in a machine's name, with all the rights that a machine has.

He may list everything and put any version of any key at any moment, and delete
markers; he cannot delete what is locked, or change the store's clock.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.contents import shipping
from sysbackup.errors import AccessDenied, StoreError, StoreUnavailable, UsageError
from sysbackup.formats import keys, manifest
from sysbackup.formats.manifest import End, RunHeader
from sysbackup.formats.run_result import Summary
from sysbackup.model import Lock, StoredObject, worked_under
from sysbackup.pipeline.backup import back_up
from sysbackup.recovery import stored_runs
from sysbackup.recovery.outlines import outlines
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body, ObjectStore, Upload, Version
from tests.support import backups, memory_store
from tests.support.clock import START, ManualClock
from tests.support.failing import FailingStore, at
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.proxy import Fault, proxying
from tests.support.recovering import written
from tests.support.servers import Bucket, InMemory, OnServer

DATA = {"hosts": b"127.0.0.1 localhost\n", "large": b"no pack for me\n" * 90_000}

Attack = Callable[[str], Awaitable[None]]


class Watched(Delegating):
    """A store whose keys somebody sees just before they are written: no attacker can be quicker."""

    def __init__(self, store: ObjectStore, attack: Attack) -> None:
        super().__init__(store)
        self._attack = attack

    async def put(
        self,
        key: str,
        body: Body,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        sha256: bytes | None = None,
    ) -> StoredObject:
        await self._attack(key)
        return await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA, once: bool = False
    ) -> AsyncIterator[Upload]:
        async with super().upload(key, lock, metadata=metadata, once=once) as upload:
            await self._attack(key)  # under way, an upload's key is seen by whoever may list uploads
            yield upload


class Machine:
    """A machine with a few files, its bucket, and what an attacker puts there."""

    def __init__(self, base: Path, bucket: Bucket) -> None:
        self.base = base
        self.bucket = bucket
        self.tree = base / "tree"
        self.tree.mkdir()
        for name, data in DATA.items():
            (self.tree / name).write_bytes(data)
        self.config: Config = backups.configured(base)
        backups.finder(self.config, self.tree)

    async def back_up(self, attack: Attack | None = None) -> Summary:
        async with self.bucket.store() as store:
            watched = store if attack is None else Watched(store, attack)
            return await back_up(self.config, watched, SystemClock())

    async def restores(self, name: str, version: str | None = None) -> bool:
        """Whether that name brings the tree back."""
        target = self.base / "back" / hashlib.sha256(f"{name} {version}".encode()).hexdigest()
        async with self.bucket.store() as store:
            found = await stored_runs.find_run(store, name, "alpha", version)
            report = await restore(store, found, (), bytes(target), Options(spool=self.base))
        back = {p.name: p.read_bytes() for p in target.rglob("*") if p.is_file()}
        return not report.problems and back == DATA

    async def run(self, name: str) -> stored_runs.StoredRun:
        async with self.bucket.store() as store:
            return await stored_runs.find_run(store, name, "alpha")

    async def plant(self, run: str) -> str:
        """Put a manifest of nothing under a name, as true to form as any; its version."""
        return await self.bucket.plant(keys.manifest_key("alpha", run), false(run))


def named_in(key: str) -> str:
    """The name of the run that a key shows to everybody."""
    return key.rpartition("/")[2].partition(".")[0]


def false(run: str) -> bytes:
    """The manifest of an empty backup."""
    now = SystemClock().now()
    header = RunHeader(format=manifest.FORMAT, host="alpha", run=run, started=now, promise=now, tool="sysbackup 0.1.0")
    return written([header, End(counts={}, bytes=0, problems=0)])


@pytest.fixture
def machine(tmp_path: Path, bucket: Bucket) -> Machine:
    return Machine(tmp_path, bucket)


def test_manifests_planted_while_the_run_goes_on(machine: Machine) -> None:
    """A run's index shows its working name: manifests under that, and under guesses, deceive nobody who names a run."""
    planted: list[str] = []

    async def attack(key: str) -> None:
        if key.startswith("index/"):
            working = named_in(key)
            planted.extend((working, working + "00000000", working + "ffffffff"))
            for name in planted:
                await machine.plant(name)

    async def body() -> None:
        summary = await machine.back_up(attack)
        assert (summary.exit_code, len(planted)) == (0, 3)
        assert summary.run.startswith(planted[0])
        assert await machine.restores(summary.run)
        # no less than the full name will do, and both `latest` and the working name say why
        for name in (planted[0], "latest"):
            with pytest.raises(UsageError, match=f"{planted[1]}.*{summary.run}.*{planted[2]}"):
                await machine.run(name)
        assert "only one is its own" in ((await machine.run(summary.run)).oddity or "")

    backups.run(body())


def test_a_manifest_that_was_there_first(machine: Machine) -> None:
    """Where the manifest's key was known all the same, the run says so, and its manifest is found under another."""
    planted: list[str] = []

    async def attack(key: str) -> None:
        if key.startswith("manifests/") and not planted:
            planted.append(named_in(key))
            await machine.plant(planted[0])

    async def body() -> None:
        summary = await machine.back_up(attack)
        assert planted != [summary.run]
        assert worked_under(summary.run) == worked_under(planted[0])
        assert summary.exit_code == 3
        assert [p["event"] for p in summary.first_problems] == ["manifest.disputed"]
        assert await machine.restores(summary.run)
        disputed = await machine.run(planted[0])
        assert disputed.rivals == 1
        # what was written under the first name is whole as well, for whoever chooses that version
        (ours,) = [v.version for v in disputed.versions if v != disputed.used]
        assert await machine.restores(planted[0], ours)
        assert not await machine.restores(planted[0])
        # and the manifest itself tells of it
        async with machine.bucket.store() as store:
            said = [e async for e in stored_runs.entries(store, await machine.run(summary.run))]
        assert "manifest.disputed" in {e.event for e in said if isinstance(e, manifest.Log)}

    backups.run(body())


def test_manifests_that_are_always_there_first(machine: Machine) -> None:
    """Whoever knows every name in advance keeps the run from succeeding, not from telling the truth."""

    async def attack(key: str) -> None:
        if key.startswith("manifests/"):
            await machine.plant(named_in(key))

    async def body() -> None:
        with pytest.raises(StoreError, match="no manifest can be told from a false one"):
            await machine.back_up(attack)
        # once he has gone, what was stored serves the next run
        summary = await machine.back_up()
        assert (summary.exit_code, summary.contents) == (0, 0)
        assert await machine.restores(summary.run)

    backups.run(body())


def test_what_is_written_over_a_manifest_afterwards(machine: Machine) -> None:
    """Later versions and delete markers change nothing but what is said of it."""

    async def body() -> None:
        summary = await machine.back_up()
        assert (await machine.run("latest")).oddity is None
        rival = await machine.plant(summary.run)
        await machine.bucket.plant(summary.manifest, b"rubbish")
        await machine.bucket.hide(summary.manifest)
        found = await machine.run("latest")
        assert (found.run, found.rivals, found.version) == (summary.run, 2, summary.manifest_version)
        assert await machine.restores("latest")
        assert not await machine.restores(summary.run, rival)

    backups.run(body())


def test_an_answer_that_got_lost_accuses_nobody(served: OnServer, tmp_path: Path) -> None:
    """The manifest's PUT is tried again: one backup is listed, nothing is odd about it, and the run is complete."""
    machine = Machine(tmp_path, served)

    async def body() -> None:
        with proxying(served.server.endpoint) as proxy:
            proxy.fail(r"^PUT /[^ ]*/manifests/", Fault.LOST)
            async with served.store(endpoint_url=proxy.url) as store:
                summary = await back_up(machine.config, store, SystemClock())
            assert proxy.count(r"^PUT /[^ ]*/manifests/") == 2
        assert (summary.outcome, summary.exit_code) == ("complete", 0)
        async with served.store() as store:
            (found,) = await stored_runs.runs(store)
        assert (found.run, found.oddity, len(found.distinct)) == (summary.run, None, 1)
        assert await machine.restores(summary.run)

    backups.run(body())


def test_runs_of_one_second_are_listed_in_their_order(machine: Machine) -> None:
    """Whoever starts several at once finds the last one as `latest`."""

    async def body() -> None:
        names = [(await machine.back_up()).run for _ in range(4)]
        async with machine.bucket.store() as store:
            assert [r.run for r in await stored_runs.runs(store)] == names
        assert (await machine.run("latest")).run == names[-1]

    backups.run(body())


def test_a_clock_that_stands_still(tmp_path: Path) -> None:
    """Runs that start at the same instant have manifests of their own."""
    bucket = MemoryBucket(ManualClock())
    machine = Machine(tmp_path, InMemory(multipart_locks=True))

    async def body() -> None:
        for _ in range(3):
            await back_up(machine.config, MemoryStore(bucket), ManualClock())
        found = await stored_runs.runs(MemoryStore(bucket))
        assert len({r.run for r in found}) == 3
        assert {r.started for r in found} == {START}

    backups.run(body())


def test_a_manifest_of_several_parts_shows_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a store counts uploads from their end, what was put meanwhile stands first: another name is found."""
    monkeypatch.setattr(shipping, "PART", 400)
    monkeypatch.setattr(memory_store, "MIN_PART", 400)
    machine = Machine(tmp_path, InMemory(multipart_locks=True))
    attacks: list[str] = []

    async def attack(key: str) -> None:
        if key.startswith("manifests/"):
            attacks.append(key)
            if len(attacks) < 3:
                await machine.plant(named_in(key))

    async def body() -> None:
        summary = await machine.back_up(attack)
        assert summary.requests["CompleteMultipartUpload"] >= 3
        assert (len(attacks), summary.manifest) == (3, attacks[2])
        assert summary.problems == 2
        assert await machine.restores(summary.run)

    backups.run(body())


@pytest.mark.parametrize("error", [AccessDenied, StoreError, StoreUnavailable])
def test_a_look_that_fails(tmp_path: Path, error: type[StoreError]) -> None:
    """A machine that may not list versions has a whole backup all the same, and is told what could not be seen."""
    machine = Machine(tmp_path, InMemory(multipart_locks=True))

    async def body() -> None:
        async with machine.bucket.store() as store:
            blind = FailingStore(store, at("versions"), lambda: error("no listing of versions today"))
            summary = await back_up(machine.config, blind, SystemClock())
        assert (summary.outcome, summary.exit_code, summary.problems) == ("complete", 0, 0)
        assert "no listing" in (summary.unseen or "")
        assert await machine.restores(summary.run)
        async with machine.bucket.store() as store:
            (outline,) = await outlines(store, [await machine.run(summary.run)])
        assert outline.end is not None
        assert outline.end.problems == 0  # what `list` says of it is what the run said

    backups.run(body())


class Forgetful(MemoryStore):
    """A store, or a proxy before one, that takes things and does not have them."""

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        return
        yield


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    """What a store does not list it has not stored, whatever it has answered."""
    machine = Machine(tmp_path, InMemory(multipart_locks=True))

    async def body() -> None:
        with pytest.raises(StoreError, match="does not list it"):
            await back_up(machine.config, Forgetful(), SystemClock())

    backups.run(body())


def test_an_unchanged_run_looks_once(tmp_path: Path) -> None:
    """The look at the manifest's key is one request."""
    machine = Machine(tmp_path, InMemory(multipart_locks=True))

    async def body() -> None:
        await machine.back_up()
        summary = await machine.back_up()
        assert summary.requests["ListObjectVersions"] <= 3  # and one for each prefix of the census
        assert sum(summary.requests.values()) <= 6

    backups.run(body())
