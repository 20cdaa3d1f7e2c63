"""What a file that is there already has of a content is not fetched: however that file differs."""

import hashlib
import os
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from sysbackup.contents import at_hand
from sysbackup.contents.assembling import assembled
from sysbackup.contents.at_hand import AtHand
from sysbackup.formats import keys
from sysbackup.formats.chunk_list import Chunk
from sysbackup.model import Location
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from tests.support import backups
from tests.support.chunking import cut, listed, packed
from tests.support.machines import Machine
from tests.support.memory_store import MemoryBucket, MemoryStore

KIB = 1 << 10
CONTENT = random.Random(1).randbytes(900 * KIB) + bytes(300 * KIB) + random.Random(2).randbytes(300 * KIB)
AVERAGE = 8 * KIB


class Counting(MemoryStore):
    """Counts the bytes that are read of packs."""

    read_of_packs = 0

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(super().read(key, version, start, length)) as chunks:
            async for chunk in chunks:
                self.read_of_packs += len(chunk) * keys.is_stream_pack(key)
                yield chunk


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    monkeypatch.setattr(at_hand, "_AVERAGE", AVERAGE)
    monkeypatch.setattr(at_hand, "_STRETCH", 400 * KIB)
    monkeypatch.setattr(at_hand, "_PIECE", 50 * KIB)
    return MemoryBucket()


def brought(bucket: MemoryBucket, there: Path) -> int:
    """How many bytes of chunks are fetched where that file is at hand; the content comes in any case."""
    chunks = packed(bucket, cut(CONTENT, AVERAGE), 40)
    kept = listed(bucket, keys.content_key(hashlib.sha256(CONTENT).digest()), chunks)
    store = Counting(bucket)

    async def work() -> bytes:
        with there.open("rb") as file:
            at = Location(kept.key, kept.version)
            async with aclosing(assembled(store, at, len(CONTENT), AtHand(file.fileno()))) as pieces:
                return b"".join([piece async for piece in pieces])

    assert backups.run(work()) == CONTENT
    return store.read_of_packs


def damaged(content: bytes) -> bytes:
    dice = random.Random(3)
    out = bytearray(content)
    for at in dice.sample(range(len(out)), 5):
        out[at] ^= 1
    return bytes(out)


CHANGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "equal": (lambda c: c, 0),
    "damaged": (damaged, 300 * KIB),
    "inserted": (lambda c: c[: 200 * KIB] + os.urandom(100 * KIB) + c[200 * KIB :], 150 * KIB),
    "taken out": (lambda c: c[: 200 * KIB] + c[300 * KIB :], 250 * KIB),
    "cut off": (lambda c: c[: 1000 * KIB], 600 * KIB),
    "longer": (lambda c: c + os.urandom(100 * KIB), 0),
    "empty": (lambda _: b"", 1300 * KIB),
    "another": (lambda c: random.Random(9).randbytes(len(c)), 1300 * KIB),
    "zeros": (lambda c: bytes(len(c)), 1300 * KIB),
}


@pytest.mark.parametrize("how", CHANGES)
def test_only_what_differs_is_fetched(bucket: MemoryBucket, tmp_path: Path, how: str) -> None:
    """Whatever the file is: what it has in common with the content is not read from the bucket."""
    change, most = CHANGES[how]
    there = tmp_path / "there"
    there.write_bytes(change(CONTENT))
    assert brought(bucket, there) <= most


def test_a_file_that_changes_meanwhile(bucket: MemoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found there and is not any more is fetched after all."""
    there = tmp_path / "there"
    there.write_bytes(CONTENT)
    find = AtHand.find

    def found(self: AtHand, chunks: list[Chunk]) -> list[int | None]:
        places = find(self, chunks)
        there.write_bytes(bytes(len(CONTENT)))
        return places

    monkeypatch.setattr(AtHand, "find", found)
    assert brought(bucket, there) > 900 * KIB


def test_an_image_is_put_back_in_place(tmp_path: Path) -> None:
    """With --overwrite: a little is fetched, the file is whole again, and what was there is gone."""
    settings = {"chunk_from": 1 << 20}
    machine = Machine(tmp_path, "alpha", MemoryBucket(), content=settings)
    image = random.Random(4).randbytes(20 << 20)
    path = machine.write("image", image)
    told = machine.back_up()
    worse = bytearray(image)
    worse[5 << 20 : (5 << 20) + 100] = bytes(100)
    worse[15 << 20 : 15 << 20] = b"inserted"
    path.write_bytes(worse)
    store = Counting(machine.bucket)

    async def put_back() -> list[str]:
        found = await stored_runs.find_run(store, told.summary.run, "alpha")
        report = await restore(store, found, [bytes(path)], b"/", Options(spool=tmp_path, overwrite=True))
        return [problem.reason for problem in report.problems]

    assert backups.run(put_back()) == []
    assert path.read_bytes() == image
    assert store.read_of_packs < 6 << 20
