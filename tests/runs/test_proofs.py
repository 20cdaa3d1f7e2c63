"""Nothing that was learnt is relied on before it was proven, and what is known is looked for in the bucket."""

import asyncio
import gzip
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sysbackup.contents import census, rebuilding
from sysbackup.errors import StoreError
from sysbackup.formats import gzipping, index, keys
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject
from sysbackup.store.port import Version
from tests.support import backups
from tests.support.catalogs import held
from tests.support.clock import ManualClock
from tests.support.machines import Machine, Unreadable
from tests.support.memory_store import MemoryBucket, MemoryStore

LARGE = random.Random(0).randbytes(3 << 19)  # of those that are stored alone

pytestmark = pytest.mark.usefixtures("settled")


def machine(base: Path, bucket: MemoryBucket, host: str, **content: Any) -> Machine:
    """A machine with the same tree as all others: some packs, and two contents that are stored alone."""
    made = Machine(base, host, bucket, bucket.clock, {"pack_size": 20_000} | content)
    for n in range(60):
        made.write(f"small{n:02}", random.Random(n).randbytes(900))
    made.write("large", LARGE)
    made.write("log", b"a line of a log\n" * 100_000)
    return made


class Listed(MemoryStore):
    """A store that is told of each listing before it begins."""

    def __init__(self, bucket: MemoryBucket, before: Callable[[str], Awaitable[None]]) -> None:
        super().__init__(bucket)
        self._before = before

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        await self._before(prefix)
        async with aclosing(super().versions(prefix, after)) as versions:
            async for version in versions:
                yield version


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The census of one run sees two versions."""
    monkeypatch.setattr(census, "PAGE", 2)
    monkeypatch.setattr(census, "PAGES", 1)


def contents(bucket: MemoryBucket) -> list[str]:
    """The keys of packs and content objects."""
    return [key for key in bucket.objects if key.startswith(("packs/", "content/"))]


def lie(bucket: MemoryBucket, clock: ManualClock, host: str, of: Machine) -> None:
    """An index in a host's name that gives every content it has a place where something else lies."""
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60))
    rubbish = gzipping.member(b"rubbish")
    rows = [(member.sha, member.size) for _, _, member in held(of.catalog)]
    kept = bucket.add(keys.pack_key(bytes(31) + b"\1"), rubbish * len(rows), lock=lock)
    stored = StoredObject(kept.key, kept.version, len(kept.body), lock)
    told = [Member(sha, size, Span(n * len(rubbish), len(rubbish))) for n, (sha, size) in enumerate(rows)]
    key = keys.index_key(host, f"{clock.now():%Y%m%dT%H%M%SZ}-ffffffff")
    bucket.add(key, gzip.compress(index.header(host, "x") + index.line(stored, "gzip", told)))


# ---- one's own word


def test_a_false_index_in_the_host_s_own_name_is_not_believed(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """After a break-in the catalog and the key are deleted, as README says: what was published is a stranger's word."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    clock.turn(hours=1)
    lie(bucket, clock, "alpha", alpha)
    for lost in ("catalog", "catalog and key"):
        alpha.catalog.unlink()
        if lost != "catalog":
            (alpha.config.state / "host.key").unlink()
        told = alpha.back_up()
        assert told.summary.exit_code in (0, 3)
        assert alpha.restores(told)


def test_a_lost_catalog_is_built_from_sealed_lines_without_reading_contents(
    bucket: MemoryBucket, tmp_path: Path
) -> None:
    """With the writer's own rights, and one request for the index."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    alpha.catalog.unlink()
    told = alpha.back_up(Unreadable(bucket))
    assert told.kinds == {"manifests": 1}
    assert told.summary.exit_code == 0
    assert alpha.restores(told)


def test_without_the_key_a_lost_catalog_costs_proofs(bucket: MemoryBucket, tmp_path: Path) -> None:
    """Each object is read once, then relied on like one's own; the key is made anew, and nobody else can read it."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    alpha.catalog.unlink()
    key = alpha.config.state / "host.key"
    key.unlink()
    told = alpha.back_up()
    assert told.kinds == {"manifests": 1}
    assert told.requests["GetObject"] >= len(contents(bucket))
    assert alpha.restores(told)
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    assert alpha.back_up().said("seal.replaced")
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_what_cannot_be_proven_is_stored_again(bucket: MemoryBucket, tmp_path: Path, host: str) -> None:
    """With a writer's rights, which do not let it read contents: another host's word, and one's own without the key."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    alpha.catalog.unlink()
    (alpha.config.state / "host.key").unlink()
    mine = alpha if host == "alpha" else machine(tmp_path, bucket, host)
    # of another size: equal packs, like contents, are found by the conditional put all the same
    told = mine.back_up(Unreadable(bucket), pack_size=8 << 20)
    assert told.summary.exit_code == 0
    assert told.kinds["packs"]
    assert not told.kinds["content"]
    assert mine.restores(told)
    assert mine.back_up(Unreadable(bucket)).kinds == {"manifests": 1}


# ---- another host's word costs a look, never the run


@pytest.mark.parametrize(
    "version", ["v" * 2000, "v" * 20_000, "a b", "\x1b[31m", "é"], ids=["2k", "20k", "space", "esc", "é"]
)
def test_a_version_id_that_cannot_be_is_refused(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, version: str
) -> None:
    """It would go into requests of every host that shares."""
    sha = keys.content_key(bytes(32)).partition("/")[2]
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=1))
    line = index.line(StoredObject(f"content/{sha}", version, 5, lock), None, [Member(bytes(32), 5)])
    key = keys.index_key("evil", f"{clock.now():%Y%m%dT%H%M%SZ}-beef")
    bucket.add(key, gzip.compress(index.header("evil", "x") + line))
    alpha = machine(tmp_path, bucket, "alpha")
    told = alpha.back_up()
    assert [said["key"] for said in told.said("index.refused")] == [key]
    assert told.summary.exit_code == 0
    assert alpha.restores(told)


def test_whatever_a_look_ends_with_the_run_goes_on(bucket: MemoryBucket, tmp_path: Path) -> None:
    """A store may answer any nonsense to names that somebody else has chosen."""
    machine(tmp_path, bucket, "evil").back_up()
    theirs = {kept.version for kept in (k for key in contents(bucket) for k in bucket.objects[key])}

    class Odd(MemoryStore):
        async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
            if version in theirs:
                raise StoreError("400 of a kind that nobody has seen")
            return await super().renew(key, version, lock)

    alpha = machine(tmp_path, bucket, "alpha")
    told = alpha.back_up(Odd(bucket))
    assert told.summary.exit_code == 0
    assert told.said("object.doubtful")
    assert alpha.restores(told)


def test_an_index_from_the_future_hides_none_that_comes(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """Indexes are read in the order of their names: one of the year 9999 would be the last that is ever read."""
    bucket.add("index/beta/99991231T235959Z-ffffffff.jsonl.gz", gzip.compress(index.header("beta", "x")))
    alpha, beta = machine(tmp_path, bucket, "alpha"), machine(tmp_path, bucket, "beta")
    alpha.write("other", "other")
    alpha.back_up(share=("own",))
    alpha.back_up()
    beta.write("news", "of beta")
    assert beta.back_up().kinds["index"] == 1
    assert alpha.back_up().requests["GetObject"] > 0
    assert "99991231" not in str(alpha.sql("SELECT key FROM indexes"))


# ---- the bucket


def test_an_emptied_bucket_is_noticed_by_a_host_that_shares_everything(bucket: MemoryBucket, tmp_path: Path) -> None:
    """It has published nothing, so that no index of its own is missing; it says so, and stores all again."""
    machine(tmp_path, bucket, "alpha").back_up()
    beta = machine(tmp_path, bucket, "beta")
    assert beta.back_up().kinds == {"manifests": 1}
    bucket.objects.clear()
    told = beta.back_up()
    assert told.summary.exit_code == 3
    assert [problem["event"] for problem in told.summary.first_problems] == ["objects.gone"]
    assert beta.restores(told)
    assert beta.back_up().summary.exit_code == 0


@pytest.mark.parametrize("prefix", ["packs/", "content/"])
def test_a_locked_object_that_somebody_deleted_is_noticed(bucket: MemoryBucket, tmp_path: Path, prefix: str) -> None:
    """With the right to bypass its lock: the very next run says so, names it, and stores its contents again."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    gone = next(key for key in contents(bucket) if key.startswith(prefix))
    del bucket.objects[gone]
    told = alpha.back_up()
    assert told.summary.exit_code == 3
    assert told.summary.first_problems[0]["path"] == gone
    assert told.kinds[prefix.rstrip("/")] == 1
    assert alpha.restores(told)


@pytest.mark.usefixtures("narrow")
def test_the_census_turns_through_everything(bucket: MemoryBucket, tmp_path: Path) -> None:
    """Whatever is gone is found within as many runs as a whole turn takes, and each of them stays cheap."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    everything = sorted(contents(bucket))
    turn = len(everything) + 2
    for gone in (everything[0], everything[len(everything) // 2], everything[-1]):
        kept = bucket.objects.pop(gone)
        outcomes = []
        for _ in range(turn):
            told = alpha.back_up()
            outcomes.append(told.summary.exit_code)
            if outcomes[-1]:
                break
        assert outcomes[-1] == 3
        assert told.summary.first_problems[0]["path"] == gone
        assert alpha.restores(told)
        bucket.objects.setdefault(gone, kept)


def test_nobody_waits_for_the_census(bucket: MemoryBucket, tmp_path: Path) -> None:
    """It goes on beside pickers and examiners; what it finds still counts before anything is promised."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    picked = tmp_path / "picked"
    backups.program(alpha.config.pickers, "find", f"#!/bin/sh\nfind '{alpha.tree}' -print0 && touch '{picked}'\n")
    gone = min(contents(bucket))
    del bucket.objects[gone]

    async def wait(_: str) -> None:
        async with asyncio.timeout(20):
            while not picked.exists():
                await asyncio.sleep(0.01)

    told = alpha.back_up(Listed(bucket, wait))
    assert told.summary.first_problems[0]["path"] == gone
    assert alpha.restores(told)


def test_what_this_run_stores_is_not_missed(bucket: MemoryBucket, tmp_path: Path) -> None:
    """The bucket may have been listed before that came."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    alpha.write("new", os.urandom(3 << 19))
    alpha.write("new small", os.urandom(2000))
    listed = {prefix: [*bucket.listed(prefix)] for prefix in ("content/", "packs/")}

    class Stale(MemoryStore):
        async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
            for kept, latest in listed.get(prefix) or bucket.listed(prefix):
                yield Version(kept.key, kept.version, len(kept.body), kept.etag, kept.modified, latest, kept.marker)

    told = alpha.back_up(Stale(bucket))
    assert told.summary.exit_code == 0
    assert told.kinds["content"] == told.kinds["packs"] == 1
    assert not told.said("objects.forgotten")
    assert alpha.back_up().kinds == {"manifests": 1}


def test_what_no_lock_holds_any_more_is_forgotten_in_passing(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """Nothing relies on it: no file is read again for it."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    (alpha.tree / "large").unlink()
    clock.turn(days=20)
    alpha.back_up()
    clock.turn(days=20)
    assert bucket.expire("content/") == 1
    told = alpha.back_up()
    assert [said["objects"] for said in told.said("objects.forgotten")] == [1]
    assert told.summary.read == 0
    assert alpha.restores(told)
    assert not alpha.back_up().said("objects.forgotten")


def test_a_run_that_outlives_its_promise_loses_nothing(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """All that it had found stored is deleted before the census comes there, and is stored again."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    slept: list[str] = []

    async def sleep(prefix: str) -> None:
        if not slept:
            slept.append(prefix)
            clock.turn(days=40)
            assert bucket.expire("content/")
            assert bucket.expire("packs/")

    told = alpha.back_up(Listed(bucket, sleep))
    assert told.summary.exit_code == 0
    assert not told.said("catalog.set_aside")
    assert alpha.restores(told)


def test_what_is_not_locked_is_looked_for_when_nothing_is_promised(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `lock_mode = none` too, a manifest refers to nothing that lifecycle rules have deleted."""
    monkeypatch.setattr(census, "PAGES", 0)
    alpha = machine(tmp_path, bucket, "alpha", lock_mode=LockMode.NONE)
    for mode in (LockMode.NONE, LockMode.GOVERNANCE):
        alpha.back_up(lock_mode=mode, rescan=True)
        clock.turn(days=40)
        assert bucket.expire("packs/")
        told = alpha.back_up()
        assert told.summary.exit_code == 0
        assert not alpha.restored(told).problems


@pytest.mark.usefixtures("narrow")
def test_what_is_missed_by_a_run_that_fails_the_next_one_misses(bucket: MemoryBucket, tmp_path: Path) -> None:
    """The census goes on where its findings were drawn conclusions from, not where it has looked."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    gone = min(contents(bucket))
    kept = bucket.objects.pop(gone)

    class Failing(MemoryStore):
        async def put(self, key: str, *args: Any, **more: Any) -> StoredObject:
            raise StoreError("made to fail by the test")

    alpha.write("new", os.urandom(100))
    with pytest.raises(StoreError, match="made to fail"):
        alpha.back_up(Failing(bucket))
    told = alpha.back_up()
    assert told.summary.first_problems[0]["path"] == gone
    assert alpha.restores(told)
    assert kept


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("pages", [1, 9])
def test_where_one_is_gone_all_are_looked_for_once(
    bucket: MemoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Beyond what the portion covers; and no second time where it covered everything."""
    monkeypatch.setattr(census, "PAGES", pages)
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    first, last = min(contents(bucket)), max(contents(bucket))
    for gone in (first, last):
        del bucket.objects[gone]
    listed: list[str] = []

    async def note(prefix: str) -> None:
        listed.append(prefix)

    told = alpha.back_up(Listed(bucket, note))
    assert {said["key"] for said in told.said("object.gone")} == {first, last}
    assert [problem["path"] for problem in told.summary.first_problems] == [first]
    assert listed.count("packs/") == 1
    assert alpha.restores(told)


def test_an_unchanged_run_stays_within_twelve_requests(bucket: MemoryBucket, tmp_path: Path) -> None:
    """Proofs included, in a bucket with more versions than the census of one run looks at."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    for n in range(9000):
        bucket.add(keys.pack_key(n.to_bytes(32, "big")), b"")
    for _ in range(3):
        told = alpha.back_up()
        assert told.summary.exit_code == 0
        assert told.requests.total() <= 12
    assert alpha.sql("SELECT key FROM census WHERE key != ''")


# ---- what lies in the bucket


def rebuild(machine: Machine, store: MemoryStore) -> None:
    """What `catalog rebuild --from-objects` does."""
    backups.run(rebuilding.rebuild(machine.config, store, machine.clock, from_objects=True))


@pytest.mark.parametrize("when", ["before", "after"])
def test_of_several_versions_the_right_one_is_taken(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, when: str
) -> None:
    """Whoever may write can put rubbish under any key, before the genuine version and after it."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60))
    for key in contents(bucket):
        metadata = bucket.objects[key][0].metadata
        for body in (b"rubbish", gzip.compress(b"rubbish")):
            kept = bucket.add(key, body, lock=lock, metadata=metadata)
            if when == "before":
                bucket.objects[key].remove(kept)
                bucket.objects[key].insert(0, kept)
    rebuild(alpha, MemoryStore(bucket))
    told = alpha.back_up()
    assert told.summary.exit_code == 0
    assert told.kinds in ({"index": 1, "manifests": 1}, {"manifests": 1})
    assert alpha.restores(told)


def test_rubbish_alone_under_a_key_is_not_relied_on(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """A single version is proven when it is used; one that is false is named, and its content stored anew."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    for key in [key for key in contents(bucket) if key.startswith("content/")]:
        (genuine,) = bucket.objects.pop(key)
        bucket.add(key, os.urandom(len(genuine.body)), lock=genuine.lock, metadata=genuine.metadata)
    rebuild(alpha, MemoryStore(bucket))
    told = alpha.back_up()
    assert told.kinds["content"] == 2
    assert alpha.restores(told)


def test_what_an_encoding_is_the_bytes_say(bucket: MemoryBucket, tmp_path: Path) -> None:
    """s3-sysbackup 0.2.0 says `gzip` of every object, and others may say nothing of what is."""
    alpha = machine(tmp_path, bucket, "alpha")
    alpha.back_up()
    for key in contents(bucket):
        for kept in bucket.objects[key]:
            if key.startswith("content/"):
                kept.metadata = {} if kept.metadata else {keys.ENCODING: "gzip"}
    rebuild(alpha, MemoryStore(bucket))
    told = alpha.back_up()
    assert told.summary.exit_code == 0
    assert not told.kinds["content"]
    assert alpha.restores(told)
