"""Large files and snapshots are cut, and what is equal in them is stored once."""

import asyncio
import gzip
import hashlib
import os
import random
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from sysbackup.contents import chunk_lists
from sysbackup.contents.chunking import Chunker, Chunks
from sysbackup.contents.rebuilding import rebuild
from sysbackup.errors import StoreUnavailable
from sysbackup.formats import chunk_list, keys, manifest
from sysbackup.model import Location
from tests.support import backups
from tests.support.chunking import content, cut, places
from tests.support.clock import ManualClock
from tests.support.machines import Machine, Told
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.mortal import MortalStore, remove

SETTINGS = {
    "chunk_from": 8000,
    "chunk_size": 1024,
    "snapshot_chunk_from": 8000,
    "snapshot_chunk_size": 512,
    "stream_pack_size": 20_000,
}
IMAGE = random.Random(1).randbytes(100_000)
ROWS = [b"%06d\t%s\n" % (n, random.Random(n).randbytes(20).hex().encode()) for n in range(1000)]

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def bucket(clock: ManualClock) -> MemoryBucket:
    return MemoryBucket(clock)


@pytest.fixture
def alpha(tmp_path: Path, bucket: MemoryBucket, clock: ManualClock) -> Machine:
    """A machine with one image."""
    made = machine(tmp_path, bucket, clock)
    made.write("image", IMAGE)
    return made


def machine(base: Path, bucket: MemoryBucket, clock: ManualClock, host: str = "alpha") -> Machine:
    return Machine(base, host, bucket, clock, SETTINGS)


def changed() -> bytearray:
    """The image with eight bytes inserted at 40 %, and ten rewritten."""
    image = bytearray(IMAGE)
    image[80_000:80_010] = b"rewritten."
    image[40_000:40_000] = b"inserted"
    return image


def dumping(alpha: Machine, rows: list[bytes], said: str = "All of it") -> None:
    """From now on a snapshotter writes these rows."""
    dump = alpha.base / "dump"
    dump.write_bytes(b"".join(rows))
    script = f"#!/bin/sh\ncat '{dump}' >&$1\necho '{said}'\necho '::restore-through::psql'\n"
    backups.program(alpha.config.snapshotters, "dump", script)


def snapshot(alpha: Machine, told: Told) -> manifest.Snapshot:
    """What a run's manifest says of its one snapshot."""
    entries = backups.entries(MemoryStore(alpha.bucket), told.summary)
    (found,) = (entry for entry in entries if isinstance(entry, manifest.Snapshot))
    return found


def dumped(alpha: Machine, told: Told) -> bytes:
    """What that holds, by its list; each object of it is locked as promised."""
    found = snapshot(alpha, told)
    at = Location(found.key, found.version, None, found.encoding)
    for place in places(alpha.bucket, at):
        lock = alpha.bucket.find(place.key, place.version).lock
        assert lock is not None
        assert told.summary.promise is not None
        assert lock.until >= told.summary.promise
    data = content(alpha.bucket, at)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (found.size, found.sha)
    return data


def test_what_changed_is_stored(alpha: Machine) -> None:
    """A large file becomes chunks in a few packs, and a list; of tomorrow's, what was rewritten or inserted is new."""
    first = alpha.back_up()
    assert first.kinds == {"packs": 6, "content": 1, "index": 1, "manifests": 1}
    assert [place.encoding for place in alpha.places(first).values()] == [chunk_list.NAME]
    assert all(keys.is_stream_pack(key) for key in first.stored if key.startswith("packs/"))
    assert alpha.restores(first)
    alpha.write("image", changed())
    second = alpha.back_up()
    assert second.kinds == {"packs": 1, "content": 1, "index": 1, "manifests": 1}
    assert second.summary.stored < 20_000
    assert alpha.restores(second)


def test_what_is_unchanged_is_not_read(alpha: Machine) -> None:
    """A later run looks at the file and at nothing else; one that was touched is read, and nothing of it stored."""
    alpha.back_up()
    second = alpha.back_up()
    assert (second.summary.read, second.kinds) == (0, {"manifests": 1})
    os.utime(alpha.tree / "image")
    third = alpha.back_up()
    assert (third.summary.read, third.kinds) == (len(IMAGE), {"manifests": 1})
    assert alpha.restores(third)


def test_of_a_file_that_grows_its_end_is_stored(alpha: Machine) -> None:
    """Appended to between the runs, as a log is."""
    alpha.back_up()
    with (alpha.tree / "image").open("ab") as image:
        image.write(random.Random(2).randbytes(500))
    second = alpha.back_up()
    assert second.kinds == {"packs": 1, "content": 1, "index": 1, "manifests": 1}
    assert second.summary.stored < 15_000
    assert alpha.restores(second)


def test_two_machines_share_chunks(alpha: Machine, tmp_path: Path, clock: ManualClock) -> None:
    """Not their lists: those nobody but their host can tell to be true without reading all that they name."""
    alpha.back_up()
    beta = machine(tmp_path, alpha.bucket, clock, "beta")
    beta.write("copy", changed())
    first = beta.back_up()
    assert first.kinds == {"packs": 1, "content": 1, "index": 1, "manifests": 1}
    assert beta.restores(first)
    gamma = machine(tmp_path, alpha.bucket, clock, "gamma")
    gamma.write("copy", IMAGE)
    second = gamma.back_up()
    assert second.kinds == {"index": 1, "manifests": 1}
    assert gamma.restores(second)


def test_the_same_image_twice(alpha: Machine) -> None:
    """Two files of the same content, read side by side: one list for both."""
    alpha.write("other", IMAGE)
    alpha.write("third", changed())
    told = alpha.back_up()
    assert told.kinds["content"] == 2
    assert told.summary.stored < 1.35 * len(IMAGE)
    assert alpha.restores(told)


def test_what_a_list_needs_is_renewed_with_it(alpha: Machine, clock: ManualClock) -> None:
    """Nothing is read, and every object is locked until the new promise: the list, its packs, and those of its own."""
    first = alpha.back_up()
    clock.turn(days=10)
    second = alpha.back_up()
    assert (second.summary.read, second.kinds) == (0, {"index": 1, "manifests": 1})
    assert second.summary.renewed == len(first.stored) - 2
    assert alpha.restores(second)


@pytest.mark.parametrize("what", ["packs/", "content/"])
@pytest.mark.parametrize("days", [3, 40])
def test_what_is_gone_is_stored_again(alpha: Machine, clock: ManualClock, what: str, days: int) -> None:
    """A pack or a list that was deleted, before the end of its lock or after: the file gives it again."""
    first = alpha.back_up()
    clock.turn(days=days)
    key = next(key for key in first.stored if key.startswith(what))
    for kept in [*alpha.bucket.objects[key]]:
        alpha.bucket.objects[key].remove(kept)
    second = alpha.back_up()
    assert second.summary.read == len(IMAGE)
    assert second.kinds["packs"] == (what == "packs/")
    assert alpha.restores(second)


def test_a_lost_catalog_costs_no_reading_of_contents(alpha: Machine) -> None:
    """What this host has sealed it knows again, lists and what they need; the file is read, and nothing stored."""
    alpha.back_up()
    remove(alpha.catalog)
    second = alpha.back_up()
    assert second.kinds == {"manifests": 1}
    assert alpha.restores(second)
    remove(alpha.catalog)
    (alpha.config.state / "host.key").unlink()
    third = alpha.back_up()  # its own word is a stranger's now: chunks are proven, and the list is made again
    assert third.kinds["packs"] == 0
    assert alpha.restores(third)


def test_a_file_that_is_written_to_meanwhile(alpha: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read again; kept with a warning if it never holds still. What merely grew is a consistent beginning."""
    from sysbackup.files.large import LargeFile

    path = alpha.tree / "image"
    read, dice = LargeFile.read, random.Random(3)
    tries = Counter[str]()

    def unsteady(self: LargeFile, buffer: memoryview) -> int:
        took = read(self, buffer)
        if not took:
            tries["read"] += 1
            if tries["read"] <= tries["changes"]:
                with path.open("r+b") as file:
                    file.seek(dice.randrange(50_000))
                    file.write(b"changed meanwhile")
        return took

    monkeypatch.setattr(LargeFile, "read", unsteady)
    tries["changes"] = 2
    told = alpha.back_up()
    assert tries["read"] == 3
    assert told.summary.warnings == 0
    assert alpha.restores(told)
    tries["changes"], tries["read"] = 9, 0
    path.write_bytes(changed())
    told = alpha.back_up()
    assert tries["read"] == 3
    assert told.summary.warnings == 1
    (file,) = alpha.files(told).values()
    assert file.warnings == ["changed-while-read"]
    assert file.location is not None
    assert hashlib.sha256(content(alpha.bucket, file.location)).hexdigest() == file.sha

    def growing(self: LargeFile, buffer: memoryview) -> int:
        took = read(self, buffer)
        if not took:
            tries["grown"] += 1
            with path.open("ab") as file:
                file.write(b"one line more\n")
        return took

    monkeypatch.setattr(LargeFile, "read", growing)
    path.write_bytes(IMAGE)
    told = alpha.back_up()
    assert tries["grown"] == 1
    assert told.summary.warnings == 1
    (file,) = alpha.files(told).values()
    assert file.sha == hashlib.sha256(IMAGE).hexdigest()


def test_a_snapshot_is_cut(alpha: Machine) -> None:
    """With the whole description at its list, however late that was said; the next night what changed is stored."""
    dumping(alpha, ROWS)
    first = alpha.back_up()
    found = snapshot(alpha, first)
    assert (found.encoding, found.description, found.restore) == (chunk_list.NAME, "All of it", "psql")
    kept = alpha.bucket.find(found.key, found.version)
    assert kept.metadata == {
        keys.DESCRIPTION: "All of it",
        keys.RESTORE: "psql",
        keys.ENCODING: chunk_list.NAME,
    }
    assert dumped(alpha, first) == b"".join(ROWS)
    rows = ROWS[:400] + [b"a row more\n"] * 10 + ROWS[400:]
    dumping(alpha, rows, "One night later")
    second = alpha.back_up()
    assert second.kinds["packs"] == 1
    assert second.summary.stored < first.summary.stored / 4
    assert dumped(alpha, second) == b"".join(rows)
    assert second.summary.snapshots == 1


def test_a_snapshot_that_shares_what_is_gone_is_taken_again(alpha: Machine, clock: ManualClock) -> None:
    """No file has what a program wrote: it is run once more, and the manifest names what is there."""
    dumping(alpha, ROWS)
    first = alpha.back_up()
    clock.turn(days=40)
    (alpha.tree / "image").unlink()
    for key in first.stored:
        if key.startswith("packs/"):
            alpha.bucket.delete(key, alpha.bucket.objects[key][0].version)
    second = alpha.back_up()
    assert [line["program"] for line in second.said("snapshot.lost")] == ["dump"]
    assert second.summary.snapshots == 1
    assert dumped(alpha, second) == b"".join(ROWS)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(0, 30, 3))
def test_a_run_that_is_lost_anywhere_spoils_nothing(alpha: Machine, number: int, after: bool) -> None:
    """The next one finds what was stored, and stores the rest."""
    dumping(alpha, ROWS)

    def fail() -> None:
        raise StoreUnavailable("made to fail by the test")

    with suppress(StoreUnavailable):
        alpha.back_up(MortalStore(MemoryStore(alpha.bucket), number, fail, after=after))
    told = alpha.back_up()
    assert alpha.restores(told)
    assert dumped(alpha, told) == b"".join(ROWS)
    assert told.summary.problems == 0


def test_a_list_that_is_long_is_cut_itself(alpha: Machine) -> None:
    """And again, until what is left is short; a later run of the changed file stores little of all of these."""
    large = random.Random(4).randbytes(1_500_000)
    alpha.write("large", large)
    first = alpha.back_up()
    at = alpha.places(first)["large"]
    assert len(alpha.bucket.find(at.key, at.version).body) <= 8000
    assert alpha.restores(first)
    alpha.write("large", large[:700_000] + b"inserted" + large[700_000:])
    second = alpha.back_up()
    assert alpha.restores(second)
    assert second.summary.stored < len(large) / 10


def test_a_file_that_no_list_can_name_is_left_out(alpha: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem of the run, which ends; the others are in its manifest."""
    monkeypatch.setattr(chunk_lists, "OBJECTS_AT_MOST", 3)
    alpha.write("other", "a small one")
    told = alpha.back_up()
    assert [problem["event"] for problem in told.summary.first_problems] == ["file.lost"]
    assert [line["reason"] for line in told.said("content.unlistable")]
    assert [*alpha.files(told)] == ["other"]


def test_a_small_file_that_is_a_chunk(alpha: Machine) -> None:
    """Met by an examiner and in the image at the same time: neither waits for the other's pack."""
    for number, chunk in enumerate(cut(IMAGE, 1024)[:20]):
        alpha.write(f"chunk{number:02}", chunk)
    told = alpha.back_up()
    assert alpha.restores(told)
    assert told.summary.problems == 0


@pytest.mark.parametrize("from_objects", [False, True])
def test_a_catalog_that_is_made_anew(alpha: Machine, *, from_objects: bool) -> None:
    """From the indexes, or from the packs' own lists: what is in stream packs is found, and not stored again."""
    alpha.write("small", "a small one")
    alpha.back_up()
    backups.run(rebuild(alpha.config, MemoryStore(alpha.bucket), alpha.clock, from_objects=from_objects))
    told = alpha.back_up()
    assert told.kinds["packs"] == 0
    assert alpha.restores(told)


def test_a_stream_pack_with_another_under_its_key(alpha: Machine) -> None:
    """Somebody who may write puts rubbish there: what the names of old and new cannot tell, their contents do."""
    first = alpha.back_up()
    for key in first.stored:
        if keys.is_stream_pack(key):
            (kept,) = alpha.bucket.objects[key]
            alpha.bucket.add(key, bytes(len(kept.body) - 34) + kept.body[-34:])
    backups.run(rebuild(alpha.config, MemoryStore(alpha.bucket), alpha.clock, from_objects=True))
    told = alpha.back_up()
    assert told.kinds["packs"] == 0
    assert alpha.restores(told)


def test_nights_of_many_changes(alpha: Machine) -> None:
    """Any sequence of insertions, deletions, swaps and truncations: each night restores whole, and little is stored."""
    dice = random.Random(5)
    image = bytearray(IMAGE)
    for _ in range(12):
        at = dice.randrange(len(image))
        length = dice.randrange(1, 3000)
        match dice.randrange(4):
            case 0:
                image[at:at] = dice.randbytes(length)
            case 1:
                del image[at : at + length]
            case 2:
                image = image[at:] + image[:at]
            case _:
                image[at : at + length] = dice.randbytes(length)
        alpha.write("image", image)
        told = alpha.back_up()
        assert alpha.restores(told)
        assert told.summary.first_problems == []
    assert sum(len(kept.body) for kepts in alpha.bucket.objects.values() for kept in kepts) < 4 * len(IMAGE)


def test_the_list_of_a_long_dump_holds_as_long_as_its_run_promises(alpha: Machine, clock: ManualClock) -> None:
    """Cut when all else has been renewed, it relies on nothing that an earlier night stored of such a list."""
    rows = [b"%06d\t%s\n" % (n, random.Random(n).randbytes(20).hex().encode()) for n in range(6000)]
    for days in (0, 10, 1, 12):
        clock.turn(days=days)
        dumping(alpha, rows)
        told = alpha.back_up()
        found = snapshot(alpha, told)
        assert len(alpha.bucket.find(found.key, found.version).body) < 8000
        assert dumped(alpha, told) == b"".join(rows)


def test_a_snapshot_that_no_list_can_name_is_left_out(alpha: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem of the run; the files are in its manifest."""
    (alpha.tree / "image").unlink()
    alpha.write("other", "a small one")
    dumping(alpha, ROWS)
    monkeypatch.setattr(chunk_lists, "OBJECTS_AT_MOST", 0)
    told = alpha.back_up()
    assert [problem["path"] for problem in told.summary.first_problems] == ["dump"]
    assert told.summary.snapshots == 0
    assert [*alpha.files(told)] == ["other"]


def test_what_others_say_of_their_packs_reaches_no_list(alpha: Machine, tmp_path: Path, clock: ManualClock) -> None:
    """One that leaves out that they are gzip tells the truth about all else: our list must be readable all the same."""
    beta = machine(tmp_path, alpha.bucket, clock, "beta")
    beta.write("copy", IMAGE)
    told = beta.back_up()
    (key,) = (key for key in told.stored if key.startswith("index/"))
    (kept,) = alpha.bucket.objects[key]
    kept.body = gzip.compress(gzip.decompress(kept.body).replace(b',"enc":"gzip"', b""))
    first = alpha.back_up()
    assert alpha.restores(first)


def test_a_cancelled_reading_stays_cancelled(tmp_path: Path) -> None:
    """Also where the disk gives up at the same moment: an error that is caught would let a run go on that has ended."""

    async def work() -> None:
        stuck, go_on = asyncio.Event(), threading.Event()

        async def store(_: Chunks) -> int:
            stuck.set()
            await asyncio.Event().wait()
            return 0

        def read(buffer: memoryview) -> int:
            buffer[:] = random.Random(1).randbytes(len(buffer))
            return len(buffer)

        def fail(_: memoryview) -> int:
            go_on.wait()
            raise OSError(5, "the disk is gone")

        with Chunker(tmp_path, 64 << 10, store) as chunker:
            await chunker.feed(read)
            feeding = asyncio.ensure_future(chunker.feed(fail))
            await stuck.wait()
            feeding.cancel()
            await asyncio.sleep(0.01)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await feeding

    backups.run(work())
