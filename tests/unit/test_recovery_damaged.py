"""Damaged on its way, a thing is read once more; its bytes say what is gzip; damaged in the bucket, it is named."""

import gzip
import hashlib
import random
from pathlib import Path

import pytest
import uvloop

from sysbackup.errors import FormatError
from sysbackup.formats import keys
from sysbackup.formats.manifest import File
from sysbackup.model import Location
from sysbackup.recovery import stored_runs
from tests.support.garbling import GarblingStore
from tests.support.recovering import RUN, Backup, reasons, restored, tree

MIB = 1 << 20
DICE = random.Random(7)
LARGE = DICE.randbytes(9 * MIB)
TEXT = b"so it is with words: they repeat\n" * 300_000  # 9 MiB, a hundredth of it as gzip


@pytest.fixture
def backup() -> Backup:
    """Packed, alone, streamed, linked."""
    made = Backup()
    for n in range(20):
        made.file(b"/packed/%d" % n, DICE.randbytes(1000))
    made.file(b"/alone", DICE.randbytes(2 * MIB))
    made.file(b"/large", LARGE)
    for name in (b"/linked/1", b"/linked/2"):
        made.file(name, TEXT, link="1")
    made.file(b"/empty")
    return made


@pytest.mark.parametrize("helped", [False, True])
@pytest.mark.parametrize("at", [None, 0, 10**9])
def test_each_first_answer_is_damaged(backup: Backup, tmp_path: Path, helped: bool, at: int | None) -> None:
    """A restore of which each object's first answer has a flipped bit, the manifest's too, brings all of it back."""
    restored(backup, tmp_path / "right")
    store = GarblingStore(backup.bucket, at=at)
    report = restored(store, tmp_path / "again", helped=helped)
    assert report.exit_code == 0
    assert tree(tmp_path / "again") == tree(tmp_path / "right")
    assert max(store.reads.values()) == 2


def test_one_damaged_content_is_read_again_alone(backup: Backup, tmp_path: Path) -> None:
    """Of a pack with one damaged content no more is read again than that content has bytes."""
    backup.stored()
    pack = next(key for key in backup.bucket.objects if key.startswith("packs/"))
    store = GarblingStore(backup.bucket, "packs/")
    assert restored(store, tmp_path, b"/packed").exit_code == 0
    assert [reads for (key, _), reads in store.reads.items() if key == pack] == [2]
    manifest = sum(len(kept[0].body) for key, kept in backup.bucket.objects.items() if key.startswith("manifests/"))
    assert store.requests.received - manifest < 20 * 1040 + 1040


@pytest.mark.parametrize("helped", [False, True])
def test_what_is_damaged_each_time(backup: Backup, tmp_path: Path, helped: bool) -> None:
    """What comes back damaged twice is named with object and version; nothing of it is left, all else is there."""
    backup.stored()
    store = GarblingStore(backup.bucket, "content/", None)
    report = restored(store, tmp_path, helped=helped)
    assert set(reasons(report)) == {b"/alone", b"/large", b"/linked/1", b"/linked/2"}
    for entry in backup.entries:
        if isinstance(entry, File) and (why := reasons(report).get(entry.path_bytes)) and entry.location:
            assert entry.location.key in why
            assert f"version {entry.version}" in why
    assert set(tree(tmp_path)) == {"empty", "packed", "linked", *(f"packed/{n}" for n in range(20))}
    assert all(reads == 2 for (key, _), reads in store.reads.items() if key.startswith("content/"))


def test_manifest_that_is_damaged_each_time(backup: Backup, tmp_path: Path) -> None:
    """A manifest that is damaged in the bucket ends a restore before anything is written, and is named."""
    key = backup.stored()
    with pytest.raises(FormatError, match=key):
        restored(GarblingStore(backup.bucket, "manifests/", None), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_first_line_damaged_on_its_way(backup: Backup) -> None:
    """`list --long` reads a first line again, too."""
    backup.stored()
    store = GarblingStore(backup.bucket, "manifests/", at=0)

    async def work() -> str:
        return (await stored_runs.header(store, await stored_runs.find_run(store, RUN))).tool

    assert uvloop.run(work()) == "test"


def _alone(backup: Backup, path: bytes, body: bytes, content: bytes, encoding: str | None) -> str:
    """A file whose object holds `body`, of which the manifest says `encoding`."""
    sha = hashlib.sha256(content)
    kept = backup.bucket.add(keys.content_key(sha.digest()), body)
    entry = backup.file(path, b"", size=len(content), sha=sha.hexdigest())
    entry.place(Location(kept.key, kept.version, encoding=encoding))
    return kept.key


@pytest.mark.parametrize("size", [0, 1, 1000, 2 * MIB, 10 * MIB])
@pytest.mark.parametrize("content", ["random", "zeros", "gzip itself"])
@pytest.mark.parametrize("helped", [False, True])
def test_what_is_gzip_the_bytes_say(tmp_path: Path, size: int, content: str, helped: bool) -> None:
    """Whatever a manifest says of an object's encoding: where the bytes fit either way, the file is right."""
    data = DICE.randbytes(size) if content == "random" else bytes(size)
    if content == "gzip itself":
        data = gzip.compress(DICE.randbytes(size))  # begins as gzip does, and is stored as it is
    backup = Backup()
    stored = []
    for name, body, said in (
        (b"/said gzip and is not", data, "gzip"),
        (b"/is gzip and not said", gzip.compress(data), None),
        (b"/right", data, None),
        (b"/right gzip", gzip.compress(data), "gzip"),
    ):
        stored.append(_alone(backup, name, body, data, said))
    backup.stored()
    store = GarblingStore(backup.bucket, "nothing")
    report = restored(store, tmp_path, helped=helped)
    assert reasons(report) == {}
    assert tree(tmp_path) == {entry.path[1:]: data for entry in backup.entries if isinstance(entry, File)}
    assert sum(reads for (key, _), reads in store.reads.items() if key in stored) <= 4 + (2 if size > 8 * MIB else 0)


@pytest.mark.parametrize("said", ["gzip", None])
def test_wrong_about_gzip_and_damaged(tmp_path: Path, said: str | None) -> None:
    """Where neither reading fits, the file is a problem, and nothing of it is left."""
    backup = Backup()
    _alone(backup, b"/plain", LARGE[:-1] + b"?", LARGE, said)
    _alone(backup, b"/gzip", gzip.compress(TEXT[:-1] + b"?"), TEXT, said)
    _alone(backup, b"/endless", gzip.compress(bytes(100 * MIB)), bytes(9 * MIB), said)
    report = restored(backup, tmp_path)
    assert set(reasons(report)) == {b"/plain", b"/gzip", b"/endless"}
    assert tree(tmp_path) == {}
