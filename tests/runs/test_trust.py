"""What other hosts publish is their word: refused where it cannot be, compared where `verify_shared` says so."""

import gzip
import hashlib
import json
import os
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sysbackup.errors import AccessDenied
from sysbackup.formats import gzipping, index, keys
from sysbackup.model import Lock, LockMode, Member, StoredObject
from tests.support.catalogs import held
from tests.support.clock import ManualClock
from tests.support.machines import MIDDLE, SMALL, Machine, alike
from tests.support.memory_store import Kept, MemoryBucket, MemoryStore
from tests.support.packs import pack_writer

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("settled")


def published(bucket: MemoryBucket, clock: ManualClock, host: str, body: bytes) -> str:
    """An index of a host, now."""
    clock.turn(seconds=5)
    key = keys.index_key(host, f"{clock.now():%Y%m%dT%H%M%SZ}-beef")
    bucket.add(key, body)
    return key


def lines(host: str, *objects: dict[str, Any]) -> bytes:
    """An index with these objects, whatever they are."""
    return gzip.compress(
        index.header(host, "20261123T041500Z-beef") + b"".join(json.dumps(o).encode() + b"\n" for o in objects)
    )


def said_of(key: str, contents: list[list[Any]], **more: Any) -> dict[str, Any]:
    """One object's line."""
    usual = {"typ": "o", "sz": 1000, "ver": "v", "mode": "GOVERNANCE", "until": 2_000_000_000}
    return usual | {"key": key, "contents": contents} | more


SHA, OTHER = "ab" * 32, "cd" * 32
IMPOSSIBLE = {
    "nothing": b"",
    "no gzip": b"this is no index",
    "cut short": lines("evil")[:-9],
    "no header": gzip.compress(json.dumps(said_of(f"packs/{SHA}", [])).encode() + b"\n"),
    "two headers": gzip.compress(index.header("evil", "x") * 2),
    "another format": gzip.compress(b'{"typ":"index","format":2,"host":"evil","run":"x"}\n'),
    "a line without end": gzip.compress(index.header("evil", "x") + b"[" * (20 << 20)),
    "a bomb": gzip.compress(index.header("evil", "x") + bytes(200 << 20)),
    "deeper than any parser goes": gzip.compress(
        index.header("evil", "x") + b'{"typ":"o","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    ),
    "a manifest as an object": lines("evil", said_of("manifests/alpha/x.jsonl.gz", [[SHA, 0, 20, 20]])),
    "a path upwards": lines("evil", said_of(f"packs/../content/{SHA}", [[SHA, 0, 20, 20]])),
    "a member beyond the end": lines("evil", said_of(f"packs/{SHA}", [[OTHER, 990, 20, 20]])),
    "an offset beyond all numbers": lines("evil", said_of(f"packs/{SHA}", [[OTHER, 1 << 70, 20, 20]])),
    "a negative offset": lines("evil", said_of(f"packs/{SHA}", [[OTHER, -5, 20, 20]])),
    "a negative size": lines("evil", said_of(f"packs/{SHA}", [[OTHER, 5, 20, -20]])),
    "a content under another's key": lines("evil", said_of(f"content/{SHA}", [[OTHER, 0, 0, 20]])),
    "a lock for ever": lines("evil", said_of(f"content/{SHA}", [[SHA, 0, 0, 20]], until=1 << 60)),
    "a lock of no mode": lines("evil", said_of(f"content/{SHA}", [[SHA, 0, 0, 20]], mode="FOREVER")),
    "an encoding unheard of": lines("evil", said_of(f"content/{SHA}", [[SHA, 0, 0, 20]], enc="lzma")),
    "a hash that is none": lines("evil", said_of(f"packs/{SHA}", [["xyz", 5, 20, 20]])),
    "a number for a key": lines("evil", said_of("x", []) | {"key": 5}),
}


@pytest.mark.parametrize("body", IMPOSSIBLE.values(), ids=[name.replace(" ", "-") for name in IMPOSSIBLE])
def test_an_index_that_cannot_be_is_refused_and_harms_nothing(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, body: bytes
) -> None:
    """The run warns, names the index and its host, takes nothing from it, and goes on."""
    alpha = alike(tmp_path, bucket, "alpha")
    key = published(bucket, clock, "evil", body)
    told = alpha.back_up()
    assert [(line["key"], line["host"]) for line in told.said("index.refused")] == [(key, "evil")]
    assert told.summary.exit_code == 0
    assert {*alpha.knows().hosts} == {"alpha"}
    assert alpha.restores(told)
    assert not alpha.back_up().said("index.refused")


def test_an_index_that_may_not_be_read_is_passed_over(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """Encrypted with a key of its host's, say: nobody else's backup fails for that. One's own is another matter."""

    class Guarded(MemoryStore):
        def read(self, key: str, version: str | None, start: int = 0, length: int | None = None) -> Any:
            if key.startswith("index/"):
                raise AccessDenied("made to fail by the test")
            return super().read(key, version, start, length)

    alike(tmp_path, bucket, "evil").back_up()
    alpha = alike(tmp_path, bucket, "alpha")
    told = alpha.back_up(Guarded(bucket))
    assert told.said("index.refused")
    assert alpha.restores(told)
    alpha.catalog.unlink()
    with pytest.raises(AccessDenied):
        alpha.back_up(Guarded(bucket))


def test_a_host_cannot_speak_in_the_name_of_another(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """`index/%61lpha/` is not alpha's place, whatever it decodes to."""
    alpha = alike(tmp_path, bucket, "alpha", share=("beta",))
    body = lines("alpha", said_of(f"content/{SHA}", [[SHA, 0, 0, 20]]))
    bucket.add("index/%61lpha/20261123T041500Z-beef.jsonl.gz", body)
    assert alpha.back_up().requests["GetObject"] == 0
    assert alpha.knows().contents == len(SMALL) + 1


def test_a_small_index_of_very_many_objects_costs_no_memory(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """60,000 lines that come in one piece are taken in some at a time."""
    line = json.dumps(said_of(f"packs/{SHA}", [])).encode() + b"\n"
    published(bucket, clock, "evil", gzip.compress(index.header("evil", "x") + line * 60_000))
    alpha = Machine(tmp_path, "alpha", bucket, clock)
    alpha.write("one", "one")
    tracemalloc.start()
    try:
        assert alpha.back_up().summary.exit_code == 0
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def false_pack(bucket: MemoryBucket, clock: ManualClock, host: str, contents: list[bytes]) -> str:
    """
    A locked pack, and the index that says it holds these contents; it does not, except for the first one.

    Keys, sizes and offsets are as they should be.
    """
    writer = pack_writer()
    for n, content in enumerate(contents):
        there = content if n == 0 else content[::-1]
        writer.add(sha_of(content), gzipping.member(there), len(content))
    pack = writer.finish()
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60))
    kept = bucket.add(keys.pack_key(pack.sha), bytes(pack.body), lock=lock)
    stored = StoredObject(kept.key, kept.version, len(pack.body), lock)
    published(bucket, clock, host, gzip.compress(index.header(host, "x") + index.line(stored, "gzip", pack.contents)))
    return kept.key


def sha_of(content: bytes) -> bytes:
    """The digest of a content."""
    return hashlib.sha256(content).digest()


@pytest.mark.parametrize("setting", ["first-use", "sample"])
def test_false_contents_are_reported_and_stored_again(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, setting: str
) -> None:
    """With `verify_shared` what another host published is compared before it is relied on."""
    key = false_pack(bucket, clock, "evil", SMALL[:20])
    alpha = alike(tmp_path, bucket, "alpha", verify_shared=setting)
    told = alpha.back_up()
    assert told.summary.exit_code == 3
    (problem,) = told.summary.first_problems
    assert problem["event"] == "content.false"
    assert problem["path"] == key
    assert "host evil" in problem["reason"]
    assert key not in {at.key for at in alpha.places(told).values()}
    assert alpha.restores(told)
    again = alpha.back_up()
    assert again.summary.exit_code == 0
    assert again.kinds == {"manifests": 1}


def test_without_verify_shared_trust_is_trust(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """What the tests around this one guard against is real: without the setting the false contents are believed."""
    key = false_pack(bucket, clock, "evil", SMALL[:20])
    alpha = alike(tmp_path, bucket, "alpha", verify_shared="off")
    told = alpha.back_up()
    assert key in {at.key for at in alpha.places(told).values()}
    report = alpha.restored(told)
    assert len(report.problems) == 19


def test_each_content_of_an_object_is_checked_before_its_use(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """A pack whose one content was used and found right is not thereby right in all others."""
    key = false_pack(bucket, clock, "evil", SMALL[:20])
    alpha = Machine(tmp_path, "alpha", bucket, clock, {"verify_shared": "first-use"})
    alpha.write("honest", SMALL[0])
    alpha.back_up()
    alpha.write("false", SMALL[1])
    told = alpha.back_up()
    assert alpha.places(told)["false"].key != key
    assert alpha.restores(told)


@pytest.mark.parametrize("shared", [SMALL[:2], [MIDDLE]], ids=["packed", "alone"])
def test_honest_contents_are_fetched_once(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, shared: list[bytes]
) -> None:
    """One request for each object; after that they are relied on like one's own."""
    alpha = Machine(tmp_path, "alpha", bucket, clock)
    beta = Machine(tmp_path, "beta", bucket, clock, {"verify_shared": "first-use"})
    for each in (alpha, beta):
        for n, data in enumerate(shared):
            each.write(f"{n}", data)
    alpha.back_up()
    told = beta.back_up()
    assert told.requests["GetObject"] == 3  # whether we may read at all, the index, and the one object
    assert told.kinds == {"manifests": 1}
    assert beta.restores(told)
    assert beta.back_up().requests["GetObject"] == 0
    clock.turn(days=10)
    assert beta.back_up().requests["GetObject"] == 0


def test_what_lapsed_and_went_is_no_lie(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """A shared object whose lock ended and that lifecycle rules deleted is stored again without an accusation."""
    alpha = alike(tmp_path, bucket, "alpha")
    beta = alike(tmp_path, bucket, "beta", verify_shared="first-use")
    alpha.back_up()
    clock.turn(days=30)
    bucket.expire("packs/")
    told = beta.back_up()
    assert told.summary.exit_code == 0
    assert told.kinds["packs"] == 1
    assert beta.restores(told)


def test_a_lock_that_another_host_made_up_is_found_out(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """With `verify_shared`, a date in an index is nobody's promise: of shared objects, and of our own."""
    alpha, evil = alike(tmp_path, bucket, "alpha"), alike(tmp_path, bucket, "evil")
    evil.back_up()
    bodies = [line_of(kept.key, kept.version, kept.body, evil) for kept in stored(bucket)]
    published(bucket, clock, "evil", lines("evil", *bodies))
    told = alpha.back_up(verify_shared="first-use")
    assert alpha.restores(told)
    clock.turn(days=10)
    published(bucket, clock, "evil", lines("evil", *bodies))
    told = alpha.back_up(verify_shared="first-use")
    assert alpha.restores(told)


def stored(bucket: MemoryBucket) -> list[Kept]:
    """The packs and content objects in a bucket."""
    return [k for key, kept in bucket.objects.items() for k in kept if key.startswith(("packs/", "content/"))]


def line_of(key: str, version: str, body: bytes, owner: Machine) -> dict[str, Any]:
    """What an owner knows of an object, with a lock until 2100."""
    rows = [(encoding, member) for known, encoding, member in held(owner.catalog) if known == key]
    contents = [[member.sha.hex(), *(member.span or (0, 0)), member.size] for _, member in rows]
    return said_of(key, contents, ver=version, sz=len(body), until=4_102_444_800, enc=rows[0][0])


@pytest.mark.parametrize("length", [20, 100_000])
def test_members_that_lie_elsewhere_are_found_out(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, length: int
) -> None:
    """Ranges that overlap, or go on behind the object's end: reported, and the run goes on."""
    kept = bucket.add(f"packs/{SHA}", os.urandom(500), lock=Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60)))
    contents = [[sha_of(SMALL[n]).hex(), 10 * n + length // 10, length, len(SMALL[n])] for n in range(2)]
    published(
        bucket, clock, "evil", lines("evil", said_of(kept.key, contents, ver=kept.version, sz=1 << 30, enc="gzip"))
    )
    alpha = alike(tmp_path, bucket, "alpha", verify_shared="first-use")
    told = alpha.back_up()
    assert [problem["path"] for problem in told.summary.first_problems] == [kept.key]
    assert alpha.restores(told)


def test_nobody_else_says_what_our_own_objects_hold(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """An index of another host that moves our contents about in our own pack changes nothing."""
    alpha = alike(tmp_path, bucket, "alpha")
    places = alpha.places(alpha.back_up())
    (pack,) = (kept for kept in stored(bucket) if kept.key.startswith("packs/"))
    line = line_of(pack.key, pack.version, pack.body, alpha)
    _, start, length, _ = line["contents"][0]
    line["contents"] = [[sha, start, length, size] for sha, _, _, size in line["contents"]]
    line["contents"].append([sha_of(b"new").hex(), start, length, 3])
    published(bucket, clock, "evil", lines("evil", line))
    alpha.write("new", "new")
    told = alpha.back_up(rescan=True)
    assert {name: at for name, at in alpha.places(told).items() if name != "new"} == places
    assert alpha.restores(told)


def test_the_order_in_which_indexes_are_read_does_not_matter(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """A host that lost its catalog believes itself more than what others said of its objects."""
    alpha = alike(tmp_path, bucket, "alpha", verify_shared="first-use")
    alpha.back_up()
    bodies = [line_of(kept.key, kept.version, kept.body, alpha) for kept in stored(bucket)]
    published(bucket, clock, "aaa", lines("aaa", *bodies))
    published(bucket, clock, "zzz", lines("zzz", *bodies))
    alpha.catalog.unlink()
    clock.turn(days=10)
    told = alpha.back_up()
    assert told.summary.renewed == 2
    assert alpha.restores(told)


@pytest.mark.parametrize("named", ["honest", "alpha"])
def test_a_lie_in_the_name_of_another_goes_with_the_liar(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, named: str
) -> None:
    """An index may pass on what a third host said (`of`): whose word it really was nobody can tell, so it all goes."""
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60))
    kept = bucket.add(keys.content_key(sha_of(MIDDLE)), b"rubbish", lock=lock)
    lie = said_of(kept.key, [[sha_of(MIDDLE).hex(), 0, 0, len(MIDDLE)]], of=named, ver=kept.version)
    published(bucket, clock, "evil", lines("evil", lie))
    alpha = alike(tmp_path, bucket, "alpha", share=("evil", "honest"), verify_shared="off")
    assert alpha.places(alpha.back_up())["middle"].version == kept.version
    assert alpha.restores(alpha.back_up(share=("honest",)))


def test_contents_passed_on_are_taken_only_if_both_are_trusted(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """What a trusted host relies on unchecked it publishes as the word of the host that told it."""
    first = alike(tmp_path, bucket, "first")
    second = alike(tmp_path, bucket, "second", verify_shared="off")
    third = alike(tmp_path, bucket, "third", share=("second",), verify_shared="off")
    told = first.back_up()
    clock.turn(days=10)
    assert second.back_up().summary.renewed == 2
    third.back_up(pack_size=8 * MIB)
    assert {*third.knows().hosts} == {"third"}
    other = alike(tmp_path, bucket, "other", share=("first", "second"))
    assert other.places(other.back_up()) == first.places(told)


def test_an_index_that_goes_while_it_is_read(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """Lifecycle rules delete what nobody needs any more, also between a listing and a reading of it."""

    class Late(MemoryStore):
        """Deletes an index when it is asked for."""

        def read(self, key: str, version: str | None, start: int = 0, length: int | None = None) -> Any:
            bucket.expire("index/")
            return super().read(key, version, start, length)

    alpha, beta = alike(tmp_path, bucket, "alpha"), alike(tmp_path, bucket, "beta")
    alpha.back_up()
    clock.turn(days=30)
    told = beta.back_up(Late(bucket))
    assert told.said("index.refused")
    assert beta.restores(told)


def test_packed_sizes_need_not_be_known(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """Of a content whose size nobody knew (-1: it was learnt from objects alone) the hash decides."""
    sha = sha_of(MIDDLE)
    lock = Lock(LockMode.GOVERNANCE, clock.now() + timedelta(days=60))
    kept = bucket.add(keys.content_key(sha), gzipping.compress(MIDDLE), lock=lock)
    item = StoredObject(kept.key, kept.version, len(kept.body), lock)
    body = index.header("old", "x") + index.line(item, "gzip", [Member(sha, -1)])
    published(bucket, clock, "old", gzip.compress(body))
    alpha = alike(tmp_path, bucket, "alpha", verify_shared="first-use")
    told = alpha.back_up()
    assert alpha.places(told)["middle"].version == kept.version
    assert alpha.restores(told)
