"""
The golden chunks: lists, stream packs and what an index says of them, as the first version that cut contents left them.

Nothing here depends on how this version cuts. See `test_golden` for what such files are.
"""

import hashlib
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.contents.learning import Trust, learn_all
from sysbackup.contents.rebuilding import learn_objects
from sysbackup.formats import chunk_list, keys, pack, stream_pack
from sysbackup.formats.chunk_list import ChunkListReader
from sysbackup.formats.index import Seal
from sysbackup.model import Location, Lock, LockMode
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from sysbackup.recovery.snapshots import data, find_snapshot
from sysbackup.recovery.stored_runs import find_run
from tests.support import backups
from tests.support.chunking import content, places
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore

GOLDEN = Path(__file__).parents[1] / "golden"
MADE = datetime(2026, 11, 26, 20, 15, 5, tzinfo=UTC)
RUN = "20261126T201505Z-0000002154efa854"

IMAGE = hashlib.shake_256(b"image").digest(50_000) + bytes(20_000) + b"a line of a log\n" * 1000
DUMP = b"".join(b"%05d\trow\n" % n for n in range(1000))
IMAGES = keys.content_key(hashlib.sha256(IMAGE).digest())


def bucket() -> MemoryBucket:
    made = MemoryBucket(ManualClock(MADE + timedelta(days=1)))
    for key, said in json.loads((GOLDEN / "chunks.json").read_text()).items():
        lock = Lock(LockMode(said["mode"]), datetime.fromisoformat(said["until"]))
        kept = made.add(key, (GOLDEN / "chunks" / key).read_bytes(), lock=lock, metadata=said["metadata"])
        kept.version = said["version"]
        kept.modified = datetime.fromisoformat(said["modified"])
    return made


def test_the_lists() -> None:
    """One of the file, which was cut itself; and one of the snapshot, with what its program said."""
    made = bucket()
    (image,) = made.objects[IMAGES]
    assert image.metadata == {keys.ENCODING: chunk_list.NAME}
    reader = ChunkListReader()
    chunks = [*reader.feed(image.body)]
    reader.finish()
    assert (reader.levels, reader.promised) == (2, sum(chunk.size for chunk in chunks))
    at = Location(image.key, image.version, None, chunk_list.NAME)
    assert content(made, at) == IMAGE
    assert len({place.key for place in places(made, at) if keys.is_stream_pack(place.key)}) == 3
    (rows,) = (kept for key, (kept,) in made.objects.items() if key.startswith("snapshots/"))
    assert rows.metadata == {keys.DESCRIPTION: "All rows", keys.RESTORE: "cat", keys.ENCODING: chunk_list.NAME}
    assert content(made, Location(rows.key, rows.version, None, chunk_list.NAME)) == DUMP


def test_the_stream_packs() -> None:
    """Each says at its end where its list is, and that has all of its contents."""
    bodies = [kept.body for key, (kept,) in bucket().objects.items() if keys.is_stream_pack(key)]
    assert len(bodies) == 3
    for body in bodies:
        begin = stream_pack.list_begins(body[-stream_pack.END_LENGTH :], len(body))
        members = pack.read_index(body[begin : -stream_pack.END_LENGTH], begin)
        assert members[-1].span is not None
        assert members[-1].span.end == begin


def test_a_restore_brings_everything_back(tmp_path: Path) -> None:
    """The file by its list of lists, and the snapshot to whoever takes it."""
    store = MemoryStore(bucket())

    async def work() -> bytes:
        found = await find_run(store, RUN, "delta")
        report = await restore(store, found, (), bytes(tmp_path / "out"), Options(spool=tmp_path))
        assert not report.problems
        snapshot = await find_snapshot(store, found, "rows")
        async with aclosing(data(store, snapshot)) as pieces:
            return b"".join([piece async for piece in pieces])

    assert backups.run(work()) == DUMP
    (restored,) = (path for path in (tmp_path / "out").rglob("image"))
    assert restored.read_bytes() == IMAGE


def test_a_lost_catalog_is_built_from_the_index(tmp_path: Path) -> None:
    """The list is known again, with what it needs; without the key only the packs are, and they are to be proven."""
    for key, lists in ((bytes(range(32)), 1), (bytes(32), 0)):
        store, clock = MemoryStore(bucket()), ManualClock(MADE + timedelta(days=1))
        with SqliteCatalog(tmp_path / f"{lists}.sqlite") as catalog:
            promise = Lock(LockMode.GOVERNANCE, MADE + timedelta(days=10))
            session = catalog.begin("bucket at AWS", "delta", promise, MADE, doubting=True)
            trust = Trust("delta", ("*",), doubting=True, seal=Seal("delta", "bucket at AWS", key))
            assert backups.run(learn_all(store, session.indexes, trust, clock)) == 1
            known = session.contents.locate([hashlib.sha256(IMAGE).digest()], promised=bool(lists))
            assert [place.encoding for place in known.values()] == [chunk_list.NAME] * lists
            assert session.indexes.unproven() is not bool(lists)


def test_a_lost_catalog_is_built_from_the_objects(tmp_path: Path) -> None:
    """What is in stream packs is found by their own lists."""
    store, clock = MemoryStore(bucket()), ManualClock(MADE + timedelta(days=1))
    with SqliteCatalog(tmp_path / "catalog.sqlite") as catalog:
        promise = Lock(LockMode.GOVERNANCE, MADE + timedelta(days=10))
        session = catalog.begin("bucket at AWS", "delta", promise, MADE, doubting=True)
        assert backups.run(learn_objects(store, session.indexes, "delta", clock)) > 50
        assert catalog.info().objects == 4
