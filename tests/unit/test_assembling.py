"""Contents that come in chunks: put together byte by byte, or refused, or without their end."""

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop
from msgspec.structs import replace

from sysbackup.contents import assembling
from sysbackup.contents.assembling import assembled
from sysbackup.errors import FormatError, StoreUnavailable
from sysbackup.formats import chunk_list, gzipping, keys, stream_pack
from sysbackup.formats.chunk_list import Chunk
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.manifest import File, Snapshot
from sysbackup.model import Location, Span
from sysbackup.recovery import single_files, snapshots, stored_runs
from sysbackup.store.port import ObjectStore
from tests.support import chunking
from tests.support.chunking import cut, listed, packed, written
from tests.support.garbling import GarblingStore
from tests.support.memory_store import Kept, MemoryStore
from tests.support.recovering import HOST, MOMENT, RUN, Backup, reasons, restored

AVERAGE = 16 << 10
CONTENT = random.Random(1).randbytes(500_000) + bytes(700_000) + b"a line of a log\n" * 20_000


@pytest.fixture
def backup() -> Backup:
    made = Backup()
    made.directory(b"/var")
    return made


def stored(backup: Backup, content: bytes = CONTENT, each: int = 7, levels: int = 1) -> Kept:
    """A content in chunks; the object that lists them."""
    key = keys.content_key(hashlib.sha256(content).digest())
    return listed(backup.bucket, key, packed(backup.bucket, cut(content, AVERAGE), each), levels)


def placed(backup: Backup, kept: Kept, content: bytes = CONTENT, path: bytes = b"/var/image") -> File:
    """A file of that content in the manifest."""
    entry = backup.file(path, size=len(content), sha=hashlib.sha256(content).hexdigest())
    entry.place(Location(kept.key, kept.version, encoding=chunk_list.NAME))
    return entry


def brought(store: ObjectStore, kept: Kept, size: int = len(CONTENT)) -> bytes:
    """All that comes."""

    async def work() -> bytes:
        async with aclosing(assembled(store, Location(kept.key, kept.version), size)) as pieces:
            return b"".join([piece async for piece in pieces])

    return uvloop.run(work())


class Counting(MemoryStore):
    """Counts what is read of each object, and how many reads go on at once."""

    def __init__(self, backup: Backup) -> None:
        super().__init__(backup.bucket)
        self.reads: Counter[str] = Counter()
        self.now = self.most = 0

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.reads[key] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        async with aclosing(super().read(key, version, start, length)) as chunks:
            async for chunk in chunks:
                yield chunk
        self.now -= 1


# ---- put together


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("each", [1, 7, 1000])
def test_what_was_cut_comes_back(backup: Backup, each: int, levels: int) -> None:
    """Whatever lies together, and however often the list was cut itself."""
    assert brought(backup.store, stored(backup, each=each, levels=levels)) == CONTENT


def test_what_lies_together_is_read_together(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges at once, and a hole once for each range."""
    monkeypatch.setattr(assembling, "_RANGE", 100_000)
    kept = stored(backup, each=1000)
    store = Counting(backup)
    assert brought(store, kept) == CONTENT
    (pack,) = (key for key in backup.bucket.objects if keys.is_stream_pack(key))
    size = len(backup.bucket.objects[pack][0].body)
    assert store.reads[pack] <= size // 50_000
    assert store.most == assembling._AHEAD + 1


def test_chunks_in_any_order_and_objects_of_their_own(backup: Backup) -> None:
    """A list is right as long as its chunks make the content, wherever they lie."""
    contents = cut(CONTENT, AVERAGE)
    order = random.Random(2).sample([*dict.fromkeys(contents)], len({*contents}))
    places = dict(zip(order, packed(backup.bucket, order, 5), strict=True))
    alone = backup.bucket.add(keys.content_key(hashlib.sha256(contents[3]).digest()), contents[3])
    places[contents[3]] = places[contents[3]]._replace(at=Location(alone.key, alone.version))
    kept = listed(backup.bucket, keys.content_key(bytes(32)), [places[content] for content in contents])
    assert brought(backup.store, kept) == CONTENT


def test_nothing_at_all(backup: Backup) -> None:
    """A list may be of nothing."""
    assert brought(backup.store, listed(backup.bucket, "content/x", []), 0) == b""


@pytest.mark.parametrize("levels", [1, 2])
def test_whoever_leaves_early_leaves_nothing_behind(backup: Backup, levels: int) -> None:
    """No read goes on."""
    kept = stored(backup, each=2, levels=levels)
    store = Counting(backup)

    async def work() -> None:
        async with aclosing(assembled(store, Location(kept.key, kept.version), len(CONTENT))) as pieces:
            async for _ in pieces:
                break
        assert store.now == 0
        assert len(asyncio.all_tasks()) == 1

    uvloop.run(work())
    assert sum(store.reads.values()) < 30


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_no_connection_is_held_while_another_is_waited_for(backup: Backup, levels: int) -> None:
    """Of a pool with two of them, for as many contents at once."""
    kept = [stored(backup, CONTENT[n:], levels=levels) for n in range(2)]
    pool = asyncio.Semaphore(2)

    class Pooled(MemoryStore):
        async def read(
            self, key: str, version: str | None, start: int = 0, length: int | None = None
        ) -> AsyncGenerator[bytes, None]:
            async with pool, aclosing(super().read(key, version, start, length)) as chunks:
                async for chunk in chunks:
                    await asyncio.sleep(0)
                    yield chunk

    async def one(number: int) -> bytes:
        at = Location(kept[number].key, kept[number].version)
        async with aclosing(assembled(Pooled(backup.bucket), at, len(CONTENT) - number)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def work() -> list[bytes]:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            both = [group.create_task(one(number)) for number in range(2)]
        return [each.result() for each in both]

    assert uvloop.run(work()) == [CONTENT, CONTENT[1:]]


def test_little_that_is_wanted_brings_little_else(backup: Backup) -> None:
    """However far apart it lies in one object."""
    contents = [random.Random(n).randbytes(40 if n % 2 else 300_000) for n in range(20)]
    chunks = [chunk for chunk in packed(backup.bucket, contents, 100) if chunk.size == 40]
    kept = listed(backup.bucket, "content/x", chunks)
    store = Counting(backup)
    assert len(brought(store, kept, 400)) == 400
    assert store.requests.received < 20_000


# ---- damaged


@pytest.mark.parametrize("prefix", ["packs/", "content/"])
def test_what_the_way_damages_is_read_once_more(backup: Backup, tmp_path: Path, prefix: str) -> None:
    """Chunks, and their list."""
    placed(backup, stored(backup))
    backup.stored()
    assert restored(GarblingStore(backup.bucket, prefix), tmp_path).exit_code == 0
    assert (tmp_path / "var/image").read_bytes() == CONTENT


def test_a_chunk_that_is_damaged_costs_its_file(backup: Backup, tmp_path: Path) -> None:
    """And no other; it is named, and nothing wrong is left."""
    placed(backup, stored(backup, each=1000))
    backup.file(b"/var/small", b"small")
    (pack,) = (key for key in backup.bucket.objects if keys.is_stream_pack(key))
    kept = backup.bucket.objects[pack][0]
    third = len(kept.body) // 3
    kept.body = kept.body[:third] + bytes([kept.body[third] ^ 1]) + kept.body[third + 1 :]
    ((path, reason),) = reasons(restored(backup, tmp_path)).items()
    assert path.endswith(b"/var/image")
    assert f"(object {pack}" in reason
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["small"]


def test_a_stream_pack_s_own_list_is_needed_by_no_restore(backup: Backup, tmp_path: Path) -> None:
    """Where chunks lie the content's list says."""
    placed(backup, stored(backup, each=1000))
    (pack,) = (key for key in backup.bucket.objects if keys.is_stream_pack(key))
    kept = backup.bucket.objects[pack][0]
    kept.body = kept.body[: -stream_pack.END_LENGTH - 20]
    assert restored(backup, tmp_path).exit_code == 0
    assert (tmp_path / "var/image").read_bytes() == CONTENT


def test_a_pack_that_is_gone_costs_its_file(backup: Backup, tmp_path: Path) -> None:
    """It says which."""
    placed(backup, stored(backup))
    gone = min(key for key in backup.bucket.objects if keys.is_stream_pack(key))
    del backup.bucket.objects[gone]
    (reason,) = reasons(restored(backup, tmp_path)).values()
    assert gone in reason


WRONG = {
    "another list": "SHA-256 differs",
    "no list": "gzip data are damaged",
    "too many levels": "names a chunk that cannot be|is not of what it is said",
    "levels that are none": "is not of what it is said to be of",
    "itself": "is damaged",
    "larger": "is of .* bytes, and not of",
    "shorter": "is of .* bytes, and not of",
    "longer than any": "longer than that of any such content",
}


@pytest.mark.parametrize("wrong", [*WRONG])
def test_a_list_that_is_wrong(backup: Backup, tmp_path: Path, wrong: str) -> None:
    """Whatever it makes is not taken for the content."""
    kept = stored(backup)
    placed(backup, kept)
    chunks = packed(backup.bucket, cut(CONTENT, AVERAGE), 9)
    match wrong:
        case "another list":
            kept.body = written([*chunks[1:], chunks[0]])
        case "no list":
            kept.body = CONTENT
        case "too many levels":
            kept.body = written(chunking.stream_pack(backup.bucket, [written(chunks, 2)]), 2)
        case "levels that are none":
            deep = chunking.stream_pack(backup.bucket, [written(chunks, 1)])
            kept.body = written(chunking.stream_pack(backup.bucket, [written(deep, 2)]), 2)
        case "itself":
            kept.body = written([Chunk(bytes(32), 10, Location(kept.key, kept.version))], 2)
        case "larger":
            kept.body = written(chunks * 50)
        case "shorter":
            kept.body = written(chunks[:-1])
        case "longer than any":
            kept.body = written(chunks[:1] * 600, 2, 1 << 40)
    (reason,) = reasons(restored(backup, tmp_path)).values()
    assert re.search(WRONG[wrong], reason), reason
    assert kept.key in reason
    assert not (tmp_path / "var/image").exists()


def test_a_list_within_an_object_makes_no_sense(backup: Backup, tmp_path: Path) -> None:
    """In a pack there is gzip alone."""
    kept = stored(backup)
    placed(backup, kept).place(Location(kept.key, kept.version, Span(0, 100), chunk_list.NAME))
    (reason,) = reasons(restored(backup, tmp_path)).values()
    assert "no such place" in reason


# ---- where they are asked for


@pytest.mark.parametrize("helped", [False, True])
@pytest.mark.parametrize("content", [CONTENT, b"small"], ids=len)
def test_files_in_chunks_are_restored(backup: Backup, tmp_path: Path, content: bytes, *, helped: bool) -> None:
    """With all their names, beside others; what is there already is looked at and kept."""
    kept = stored(backup, content)
    placed(backup, kept, content, b"/var/again")
    for linked in (b"/var/image", b"/var/linked"):
        placed(backup, kept, content, linked).link = "1:2"
    backup.file(b"/var/other", b"other")
    report = restored(backup, tmp_path, helped=helped)
    assert report.exit_code == 0
    for name in ("again", "image", "linked"):
        assert (tmp_path / "var" / name).read_bytes() == content
    assert (tmp_path / "var/image").samefile(tmp_path / "var/linked")
    (tmp_path / "var/again").write_bytes(b"changed")
    store = Counting(backup)
    before = (tmp_path / "var/linked").stat().st_ino
    assert restored(store, tmp_path, overwrite=True, helped=helped).exit_code == 0
    assert (tmp_path / "var/again").read_bytes() == content
    assert (tmp_path / "var/linked").stat().st_ino == before


def test_zeros_come_back_as_holes(backup: Backup, tmp_path: Path) -> None:
    """As of any other content."""
    content = b"begin" + bytes(8 << 20) + b"end"
    placed(backup, stored(backup, content), content)
    assert restored(backup, tmp_path).exit_code == 0
    image = tmp_path / "var/image"
    assert image.read_bytes() == content
    assert image.stat().st_blocks * 512 < 1 << 20


def test_one_file_alone(backup: Backup) -> None:
    """What `cat` prints: without its end where it is damaged."""
    kept = stored(backup)
    entry = placed(backup, kept)

    async def work() -> bytes:
        return b"".join([piece async for piece in single_files.content(backup.store, entry)])

    assert uvloop.run(work()) == CONTENT
    *most, last = cut(CONTENT, AVERAGE)
    kept.body = written(packed(backup.bucket, [*most, bytes(len(last))], 9))
    with pytest.raises(FormatError, match="held back"):
        uvloop.run(work())


def snapshot_of(backup: Backup, content: bytes = CONTENT) -> Snapshot:
    """What a snapshotter wrote, in chunks."""
    kept = listed(backup.bucket, f"snapshots/{HOST}/{RUN}-postgres", packed(backup.bucket, cut(content, AVERAGE), 7))
    return Snapshot(
        name="postgres",
        key=kept.key,
        version=kept.version,
        encoding=chunk_list.NAME,
        size=len(content),
        sha=hashlib.sha256(content).hexdigest(),
        started=MOMENT,
        finished=MOMENT,
    )


def fetched(backup: Backup) -> bytes:
    """The data of that snapshot."""

    async def work() -> bytes:
        run = await stored_runs.find_run(backup.store, RUN)
        found = await snapshots.find_snapshot(backup.store, run, "postgres")
        return b"".join([piece async for piece in snapshots.data(backup.store, found)])

    return uvloop.run(work())


def test_snapshots_in_chunks(backup: Backup) -> None:
    """All of it, or an error that says that its end was held back."""
    backup.entries.append(snapshot_of(backup))
    backup.stored()
    assert fetched(backup) == CONTENT
    for key in [key for key in backup.bucket.objects if keys.is_stream_pack(key)][-1:]:
        kept = backup.bucket.objects[key][0]
        kept.body = kept.body[:40] + bytes(20) + kept.body[60:]
    with pytest.raises(FormatError, match=r"the chunk .* is damaged.* held back"):
        fetched(backup)


def test_a_snapshot_of_a_later_version_is_not_called_damaged(backup: Backup) -> None:
    """Another version of this program reads it."""
    made = snapshot_of(backup)
    backup.entries.append(made)
    backup.stored()
    backup.bucket.objects[made.key][0].body = gzipping.member(b'{"typ":"chunks","format":2}\n')
    with pytest.raises(LaterFormat, match="later version"):
        fetched(backup)


def test_a_snapshot_of_an_encoding_that_nobody_knows(backup: Backup) -> None:
    """Is refused before anything is read."""
    backup.entries.append(replace(snapshot_of(backup), encoding="rot13"))
    backup.stored()
    with pytest.raises(FormatError, match="rot13"):
        fetched(backup)


def test_a_store_that_is_gone_ends_a_restore(backup: Backup, tmp_path: Path) -> None:
    """As it does everywhere: it is no damage."""

    class Gone(MemoryStore):
        async def read(
            self, key: str, version: str | None, start: int = 0, length: int | None = None
        ) -> AsyncGenerator[bytes, None]:
            if keys.is_stream_pack(key):
                raise StoreUnavailable("it is gone")
            async with aclosing(super().read(key, version, start, length)) as chunks:
                async for chunk in chunks:
                    yield chunk

    kept = stored(backup)
    placed(backup, kept)
    backup.stored()
    with pytest.raises(StoreUnavailable):
        brought(Gone(backup.bucket), kept)
    with pytest.raises(StoreUnavailable):
        restored(Gone(backup.bucket), tmp_path)
