"""Renewals: what is reused is locked until the new promise, at the least expense, or stored again."""

import os
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from sysbackup.model import Location, Lock, LockMode, StoredObject
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body
from tests.support.clock import ManualClock
from tests.support.machines import Machine
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.mortal import MortalStore

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def machine(tmp_path: Path, clock: ManualClock) -> Machine:
    """200 small files, which make 4 packs and a bit, and two of middle size."""
    machine = Machine(tmp_path, "alpha", MemoryBucket(clock), clock, {"pack_size": 40_000})
    for n in range(200):
        machine.write(f"small{n:03}", os.urandom(900))
    machine.write("middle1", os.urandom(MIB))
    machine.write("middle2", os.urandom(MIB))
    return machine


def fullest(places: Mapping[str, Location]) -> str:
    """The pack with the most files: the last one has what was left, and which that is the picker's order says."""
    return Counter(at.key for at in places.values()).most_common(1)[0][0]


class Diary(Delegating):
    """A memory store that writes down what is asked of it, in order."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(MemoryStore(bucket))
        self.asked: list[tuple[str, str]] = []

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
        self.asked.append(("put", key))
        return await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        self.asked.append(("renew", key))
        return await super().renew(key, version, lock)

    @property
    def renewals(self) -> list[str]:
        return [key for what, key in self.asked if what == "renew"]


def test_each_object_is_renewed_once_and_before_the_manifest(machine: Machine, clock: ManualClock) -> None:
    """However many files lie in it; the index and the manifest come last, and the index tells of all renewals."""
    first = machine.back_up()
    reused = {key for key in first.stored if key.startswith(("packs/", "content/"))}
    clock.turn(days=10)
    diary = Diary(machine.bucket)
    second = machine.back_up(diary)
    assert sorted(diary.renewals) == sorted(reused)
    assert second.requests["PutObjectRetention"] == second.summary.renewed == len(reused)
    assert [what for what, _ in diary.asked] == ["renew"] * len(reused) + ["put", "put"]
    assert [key.split("/")[0] for _, key in diary.asked[-2:]] == ["index", "manifests"]
    assert machine.restores(second)
    stranger = Machine(machine.base, "beta", machine.bucket, clock, {"verify_shared": "off"})
    stranger.back_up()
    assert {until for (until,) in stranger.sql("SELECT until FROM objects WHERE key LIKE 'packs/%'")} == {
        int((second.summary.started + timedelta(days=21)).timestamp())
    }


def test_slack_makes_renewals_rare(machine: Machine, clock: ManualClock) -> None:
    """A daily run renews nothing for a week, then all of it, then nothing for another week."""
    machine.back_up()
    renewed = []
    for _ in range(16):
        clock.turn(days=1)
        renewed.append(machine.back_up().summary.renewed)
    assert [n for n, number in enumerate(renewed, 1) if number] == [7, 14]


def test_a_longer_promise_is_kept_at_once(machine: Machine) -> None:
    """After `days_retained` was raised, the next run renews whatever it reuses."""
    machine.back_up()
    second = machine.back_up(days_retained=100)
    assert second.summary.renewed == 7
    assert machine.restores(second)
    assert machine.back_up(days_retained=100).summary.renewed == 0


def test_a_pack_hardly_used_any_more_is_left_to_lapse(machine: Machine, clock: ManualClock) -> None:
    """Below a quarter, once it is due: what lives in it is stored again in a fresh pack, the old lock stays."""
    first = machine.back_up()
    places = machine.places(first)
    pack = fullest(places)
    inside = sorted(name for name, at in places.items() if at.key == pack)
    for name in inside[len(inside) // 5 :]:
        (machine.tree / name).unlink()
    assert machine.back_up().kinds == {"manifests": 1}  # not due yet: it costs nothing
    until = machine.bucket.objects[pack][0].lock
    clock.turn(days=10)
    diary = Diary(machine.bucket)
    third = machine.back_up(diary)
    assert pack not in diary.renewals
    assert third.kinds == {"packs": 1, "index": 1, "manifests": 1}
    assert machine.bucket.objects[pack][0].lock == until
    assert machine.restores(third)
    assert {at.key for name, at in machine.places(third).items() if name in inside} == {
        key for key in third.stored if key.startswith("packs/")
    }


def test_a_file_that_goes_while_its_pack_is_left_is_kept(machine: Machine, clock: ManualClock) -> None:
    """It was there when it was looked at, and its content still is: what was to be left is renewed after all."""
    places = machine.places(machine.back_up())
    inside = sorted(name for name, at in places.items() if at.key == fullest(places))
    for name in inside[5:]:
        (machine.tree / name).unlink()
    clock.turn(days=10)

    class Late(MemoryStore):
        """The file goes at the first renewal: after it was examined."""

        async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
            (machine.tree / inside[0]).unlink(missing_ok=True)
            return await super().renew(key, version, lock)

    second = machine.back_up(Late(machine.bucket))
    assert second.said("pack.left")
    kept = machine.places(second)
    assert kept[inside[0]] == places[inside[0]]
    assert {kept[name].key for name in inside[1:5]} == {key for key in second.stored if key.startswith("packs/")}
    lock = machine.bucket.find(kept[inside[0]].key, kept[inside[0]].version).lock
    assert lock is not None
    assert second.summary.promise is not None
    assert lock.until >= second.summary.promise


def test_a_pack_of_next_to_nothing_is_not_stored_again_for_its_list(machine: Machine, clock: ManualClock) -> None:
    """Of tiny files a pack's own list takes up the most: it does not count, only what lives of the contents does."""
    for path in [*machine.tree.iterdir()]:
        path.unlink()
    for n in range(60):
        machine.write(f"tiny{n}", f"{n}")
    machine.back_up()
    for n in range(36):
        (machine.tree / f"tiny{n}").unlink()
    clock.turn(days=10)
    assert machine.back_up().kinds == {"index": 1, "manifests": 1}


def test_a_pack_used_by_a_quarter_is_renewed(machine: Machine, clock: ManualClock) -> None:
    """At a quarter and more it stays where it is."""
    places = machine.places(machine.back_up())
    pack = fullest(places)
    inside = sorted(name for name, at in places.items() if at.key == pack)
    for name in inside[len(inside) // 3 :]:
        (machine.tree / name).unlink()
    clock.turn(days=10)
    second = machine.back_up()
    assert second.kinds == {"index": 1, "manifests": 1}
    assert machine.restores(second)


@pytest.mark.parametrize("which", ["packs/", "content/", ""])
@pytest.mark.usefixtures("uncounted")
def test_what_is_gone_costs_one_request_and_is_stored_again(machine: Machine, clock: ManualClock, which: str) -> None:
    """An object whose lock ended and that was deleted is found out by the attempt to renew it, in the same run."""
    machine.back_up()
    clock.turn(days=30)
    gone = [key for key in machine.bucket.objects if key.startswith(which) and machine.bucket.objects[key]]
    assert machine.bucket.expire(which) == len(gone)
    lost = [key for key in gone if key.startswith(("packs/", "content/"))]
    diary = Diary(machine.bucket)
    second = machine.back_up(diary)
    assert len(diary.renewals) == len(set(diary.renewals)) == 7
    assert len(second.said("object.gone")) == len(lost)
    assert second.kinds["packs"] + second.kinds["content"] == len(lost)
    assert second.summary.problems == 0
    assert machine.restores(second)


@pytest.mark.usefixtures("uncounted")
def test_a_file_that_went_with_its_content_is_a_note(machine: Machine, clock: ManualClock) -> None:
    """Looked at and found unchanged, then its content turns out to be gone, and so is the file: the rest is kept."""
    machine.back_up()
    clock.turn(days=30)
    machine.bucket.expire()

    class Late(MemoryStore):
        """The file goes at the first renewal: after it was examined."""

        async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
            (machine.tree / "small007").unlink(missing_ok=True)
            return await super().renew(key, version, lock)

    second = machine.back_up(Late(machine.bucket))
    assert (second.summary.exit_code, second.summary.problems) == (0, 0)
    assert {note["path"] for note in second.summary.first_notes} == {str(machine.tree / "small007")}
    assert second.summary.files == 201
    assert machine.restores(second)


def test_what_replaced_lost_content_is_renewed_as_well(machine: Machine, clock: ManualClock) -> None:
    """A lost file that now holds what another object has is read again, and that object is seen to as well."""
    lost, other = machine.write("one", b"one" * 300), machine.write("two", b"two" * 300)
    (machine.tree / "two").rename(machine.base / "two")
    (pack,) = {at.key for name, at in machine.places(machine.back_up(renewal_slack=0)).items() if name == "one"}
    (machine.base / "two").rename(other)
    machine.back_up(renewal_slack=0)
    data = other.read_bytes()
    other.unlink()
    clock.turn(days=15)
    for kept in machine.bucket.objects[pack][:]:
        machine.bucket.delete(pack, kept.version)

    class Late(MemoryStore):
        """The content of `one` becomes that of `two` while it is found to be lost."""

        async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
            if key == pack and lost.read_bytes() != data:
                lost.write_bytes(data)
            return await super().renew(key, version, lock)

    last = machine.back_up(Late(machine.bucket))
    assert last.summary.problems == 0
    assert machine.restores(last)


def test_a_lock_that_cannot_be_made_firmer_means_storing_again(machine: Machine) -> None:
    """Where `lock_mode` becomes COMPLIANCE, S3 does not let a GOVERNANCE lock follow: own copies are stored."""
    first = machine.back_up()
    second = machine.back_up(lock_mode=LockMode.COMPLIANCE)
    assert second.kinds["content"] == first.kinds["content"]
    assert machine.restores(second)
    for at in machine.places(second).values():
        lock = machine.bucket.find(at.key, at.version).lock
        assert lock is not None
        assert lock.mode is LockMode.COMPLIANCE
    assert machine.back_up(lock_mode=LockMode.COMPLIANCE).kinds == {"manifests": 1}


def test_a_machine_without_locks_does_not_vouch_for_those_of_others(tmp_path: Path, clock: ManualClock) -> None:
    """Of what it found there (412) and lists with a date that is no lock's, the others go on knowing what they knew."""
    bucket = MemoryBucket(clock)
    alpha, beta = Machine(tmp_path, "alpha", bucket, clock), Machine(tmp_path, "beta", bucket, clock)
    for machine in (alpha, beta):
        machine.write("file", "the same on both")
    alpha.back_up()
    clock.turn(days=8)
    assert beta.back_up(lock_mode=LockMode.NONE, share=("own",)).kinds == {"index": 1, "manifests": 1}
    third = alpha.back_up()
    assert third.summary.renewed == 1
    assert alpha.restores(third)


def test_locks_that_end_while_a_run_goes_on_are_seen_to(machine: Machine, clock: ManualClock) -> None:
    """A run of days, during which a lock ends and the object goes: it is stored again before the manifest."""
    machine.back_up(days_retained=1, renewal_slack=0)

    def days_pass() -> None:
        clock.turn(days=2)
        machine.bucket.expire("packs/")

    # the first requests list the indexes and what is there; then everything is examined, and renewed
    second = machine.back_up(MortalStore(MemoryStore(machine.bucket), 2, days_pass, after=True))
    assert second.said("object.gone")
    assert machine.restores(second)
