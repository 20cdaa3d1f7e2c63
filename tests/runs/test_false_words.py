"""What others say and put into the bucket, each kind in its most credible form: none is relied on."""

import gzip
import hashlib
import os
import random
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sysbackup.api.connecting import open_store
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.errors import AccessDenied, StoreUnavailable
from sysbackup.formats import gzipping, index, keys
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject
from sysbackup.pipeline.backup import back_up
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from tests.support import backups
from tests.support.clock import ManualClock
from tests.support.machines import Machine, Unreadable
from tests.support.memory_store import Kept, MemoryBucket, MemoryStore
from tests.support.packs import pack_writer
from tests.support.servers import Server

KNOWN = b"a file that anybody may know, of some distribution\n" * 30

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def alpha(bucket: MemoryBucket, tmp_path: Path) -> Machine:
    """A machine with two files, one of which anybody may know."""
    made = Machine(tmp_path, "alpha", bucket, bucket.clock)
    made.write("known", KNOWN)
    made.write("mine", os.urandom(500))
    return made


def publish(bucket: MemoryBucket, *lines: bytes, host: str = "evil") -> None:
    """An index of these lines."""
    bucket.clock.turn(seconds=5)  # type: ignore[attr-defined]  # a manual one
    key = keys.index_key(host, f"{bucket.clock.now():%Y%m%dT%H%M%SZ}-ffffffff")
    bucket.add(key, gzip.compress(index.header(host, "x") + b"".join(lines)))


def line(kept: Kept, said: Member, *, version: str | None = "its own", teller: str | None = None) -> bytes:
    """What an index says of one object that holds one content."""
    until = kept.lock or Lock(LockMode.GOVERNANCE, kept.modified + timedelta(days=300))
    stored = StoredObject(kept.key, kept.version if version == "its own" else version, len(kept.body), until)
    return index.line(stored, "gzip" if said.span else None, [said], teller)


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


# ---- what is said of places


@pytest.mark.usefixtures("uncounted")
def test_what_has_no_version_id_is_not_relied_on(alpha: Machine, bucket: MemoryBucket) -> None:
    """It is right when it is looked at, and then somebody puts something else over it."""
    key = keys.content_key(sha(KNOWN))
    kept = bucket.add(key, KNOWN)
    publish(bucket, line(kept, Member(sha(KNOWN), len(KNOWN)), version=None))
    told = alpha.back_up()
    bucket.add(key, b"rubbish")
    assert told.summary.exit_code == 0
    assert all(place.version for place in alpha.places(told).values())
    assert alpha.restores(told)


PADDED = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"n" * 9000 + b"\0" + gzipping.compress(KNOWN)[10:]


@pytest.mark.parametrize("packed", [True, False], ids=["in a pack", "alone"])
@pytest.mark.parametrize(
    "body", [gzipping.compress(KNOWN[:9]) + gzipping.compress(KNOWN[9:]), PADDED], ids=["two members", "padded"]
)
def test_a_proof_accepts_nothing_that_a_restore_refuses(
    alpha: Machine, bucket: MemoryBucket, body: bytes, packed: bool
) -> None:
    """Right bytes in a form that sysbackup does not write."""
    lock = Lock(LockMode.GOVERNANCE, bucket.clock.now() + timedelta(days=300))
    kept = bucket.add(keys.pack_key(sha(body)) if packed else keys.content_key(sha(KNOWN)), body, lock=lock)
    said = Member(sha(KNOWN), len(KNOWN), Span(0, len(body) if packed else 0))
    text = index.line(StoredObject(kept.key, kept.version, len(body), lock), "gzip", [said])
    publish(bucket, text)
    told = alpha.back_up()
    assert [problem["event"] for problem in told.summary.first_problems] == ["content.false"]
    assert alpha.restores(told)


def test_what_we_store_ourselves_refutes_what_was_said_of_it(alpha: Machine, bucket: MemoryBucket) -> None:
    """A pack that this run stores as well is said to hold another of its files: that is stored, and no catalog lost."""
    alpha.write("other", other := b"and another one that is known\n" * 20)
    alpha.write("mine", b"")
    writer = pack_writer()
    for content in sorted([KNOWN], key=sha):
        writer.add(sha(content), gzipping.member(content), len(content))
    pack = writer.finish()
    kept = bucket.add(keys.pack_key(pack.sha), bytes(pack.body), metadata={keys.PACK_INDEX: str(pack.index)})
    publish(bucket, line(kept, Member(sha(other), len(other), pack.contents[0].span)))
    told = alpha.back_up()
    assert told.summary.exit_code == 0
    assert not told.said("catalog.set_aside")
    assert alpha.restores(told)


@pytest.mark.usefixtures("uncounted")
def test_a_seal_holds_for_one_bucket(alpha: Machine, clock: ManualClock, tmp_path: Path) -> None:
    """Indexes that were copied to another bucket speak of objects that are not there."""
    alpha.back_up()
    other = MemoryBucket(clock)
    for key, versions in alpha.bucket.objects.items():
        if key.startswith("index/"):
            other.add(key, versions[-1].body)
    shutil.rmtree(alpha.config.cache)
    clock.turn(seconds=5)
    summary = backups.run(back_up(alpha.config, MemoryStore(other, "another bucket"), clock))
    assert summary.exit_code == 3  # they were a stranger's word, which was false
    report = backups.restored(MemoryStore(other), summary, tmp_path / "back", spool=tmp_path)
    assert not report.problems
    assert report.counts.files == 2


# ---- who is to blame


def test_a_store_that_fails_while_something_is_proven_refutes_nobody(alpha: Machine, bucket: MemoryBucket) -> None:
    """An outage is no lie: the run ends, and what was learnt is still known to the next one."""
    publish(bucket, line(bucket.add(keys.content_key(sha(KNOWN)), KNOWN), Member(sha(KNOWN), len(KNOWN))))

    class Out(MemoryStore):
        def read(self, key: str, version: str | None, start: int = 0, length: int | None = None) -> Any:
            if key.startswith("content/"):
                raise StoreUnavailable("no answer")
            return super().read(key, version, start, length)

    with pytest.raises(StoreUnavailable):
        alpha.back_up(Out(bucket))
    assert not alpha.back_up().kinds["content"]


def test_what_is_said_in_the_name_of_another_is_held_against_who_said_it(alpha: Machine, bucket: MemoryBucket) -> None:
    """One line that cannot be looked into costs its publisher's words, not those of the host that it names."""
    beta = Machine(alpha.base, "beta", bucket, bucket.clock, {"pack_below": 0})
    for n in range(20):
        beta.write(f"file{n}", text := random.Random(n).randbytes(2000))
        alpha.write(f"file{n}", text)
    beta.back_up()
    denied = bucket.add(keys.content_key(sha(KNOWN)), KNOWN)
    publish(bucket, line(denied, Member(sha(KNOWN), len(KNOWN)), teller="beta"))

    class Denying(MemoryStore):
        def read(self, key: str, version: str | None, start: int = 0, length: int | None = None) -> Any:
            if version == denied.version:
                raise AccessDenied("a key of KMS that is not ours")
            return super().read(key, version, start, length)

    told = alpha.back_up(Denying(bucket), pack_below=0)
    assert told.summary.exit_code == 0
    assert told.kinds["content"] == 2  # `mine` and `known`
    assert alpha.restores(told)


# ---- what lies in the bucket


@pytest.mark.usefixtures("uncounted")
def test_a_renewal_that_finds_a_locked_object_gone_doubts_all_others(
    alpha: Machine, bucket: MemoryBucket, clock: ManualClock
) -> None:
    """Of two objects that somebody deleted by bypassing locks only one needs its lock renewed now."""
    alpha.back_up(pack_below=0)
    clock.turn(days=5)
    alpha.write("later", os.urandom(2000))
    alpha.back_up(pack_below=0)
    clock.turn(days=4)
    for key in [key for key in bucket.objects if key.startswith("content/")]:
        del bucket.objects[key]
    told = alpha.back_up(pack_below=0)
    assert [problem["event"] for problem in told.summary.first_problems] == ["objects.gone"]
    assert "and 2 more" in told.summary.first_problems[0]["reason"]
    assert alpha.restores(told)


@pytest.mark.parametrize("setting", ["off", "sample", "first-use"])
def test_nothing_is_stored_of_an_empty_file_whatever_others_say(tmp_path: Path, setting: str) -> None:
    """Everybody knows its hash: who names a pack with that in it must not get into another's manifest."""
    clock = ManualClock()
    bucket = MemoryBucket(clock)
    alpha = Machine(tmp_path, "alpha", bucket, clock, {"verify_shared": setting})
    alpha.write("empty", b"")
    alpha.write("mine", os.urandom(500))
    alpha.back_up()
    body = gzipping.member(b"")
    kept = bucket.add(keys.pack_key(sha(body)), body, lock=Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=300)))
    publish(bucket, line(kept, Member(sha(b""), 0, Span(0, len(body)))))
    for _ in range(3):
        told = alpha.back_up()
        assert told.summary.unchanged == 2
        assert alpha.places(told).keys() == {"mine"}


def test_what_is_lost_after_a_file_was_found_unchanged_is_stored_again(tmp_path: Path) -> None:
    """One locked object that is gone raises doubts about all; what cannot be stored again, no manifest names."""
    clock = ManualClock()
    bucket = MemoryBucket(clock)
    alpha = Machine(tmp_path, "alpha", bucket, clock)
    early = os.urandom(1 << 20)
    alpha.write("early", early)
    (first,) = alpha.places(alpha.back_up()).values()
    (alpha.tree / "early").unlink()
    for n in range(20):
        alpha.write(f"late{n}", os.urandom(900))
    clock.turn(days=10)
    late = alpha.places(alpha.back_up())["late0"]
    alpha.write("early", early)
    clock.turn(days=1)

    class Losing(MemoryStore):
        """At the first renewal, after all was examined, nothing of it is there, nor is one of the files."""

        async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
            for gone in (first.key, late.key):
                bucket.objects.pop(gone, None)
            (alpha.tree / "late0").unlink(missing_ok=True)
            return await super().renew(key, version, lock)

    told = alpha.back_up(Losing(bucket))
    assert told.summary.unchanged == 0  # read again, and stored
    assert "late0" not in alpha.places(told)
    assert "objects.gone" in [problem["event"] for problem in told.summary.first_problems]
    assert alpha.restores(told)


def test_an_equal_version_that_nobody_can_read_at_once_is_passed_over(moto: Server, tmp_path: Path) -> None:
    """Whoever may write can put the right bytes into an archive, from where no restore brings them in time."""
    config = backups.configured(tmp_path)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(content := random.Random(1).randbytes(2 << 20))
    backups.finder(config, tree)

    async def work() -> None:
        bucket = await moto.bucket()
        async with moto.client() as client:
            key = keys.content_key(sha(content))
            await client.put_object(Bucket=bucket.name, Key=key, Body=content, StorageClass="DEEP_ARCHIVE")
        settings = moto.config(bucket.name)
        async with open_store(settings) as store:
            summary = await back_up(config, store, SystemClock())
            assert summary.exit_code == 0
            found = await stored_runs.find_run(store, summary.run, summary.host)
            report = await restore(store, found, (), bytes(tmp_path / "back"), Options(spool=tmp_path))
            assert not report.problems

    uvloop.run(work())
    assert Path(f"{tmp_path}/back{tree}/large").read_bytes() == content


# ---- how much of it there may be


def test_an_index_that_unpacks_to_more_than_hashes_do_is_passed_over(alpha: Machine, bucket: MemoryBucket) -> None:
    """A hundred megabytes of equal lines in less than one."""
    kept = Kept(keys.pack_key(bytes(31) + b"\1"), "v", bytes(900), "", bucket.clock.now())
    one = line(kept, Member(sha(KNOWN), 300, Span(0, 300)))
    publish(bucket, one * ((100 << 20) // len(one)))
    told = alpha.back_up()
    assert [said["reason"] for said in told.said("index.refused")] == [
        "an index unpacks to more than any that holds hashes"
    ]
    assert told.summary.exit_code == 0
    assert alpha.restores(told)


def test_without_the_right_to_prove_other_hosts_indexes_are_not_even_listed(
    alpha: Machine, bucket: MemoryBucket
) -> None:
    """However many they are: a writer with README's rights alone would pay for them in each run."""

    for n in range(3000):
        bucket.add(keys.index_key(f"host{n % 50}", f"20200101T{n:06}Z-ffffffff"), b"")
    alpha.back_up(Unreadable(bucket))
    told = alpha.back_up(Unreadable(bucket))
    assert told.kinds == {"manifests": 1}
    assert told.requests.total() <= 8
