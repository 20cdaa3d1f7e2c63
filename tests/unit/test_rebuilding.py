"""A catalog made from what lies in the bucket, whatever that is."""

import hashlib
import tracemalloc
import zlib
from pathlib import Path

import pytest

from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.contents.rebuilding import learn_objects
from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, keys, pack
from sysbackup.formats.pack import Pack
from sysbackup.model import Lock, LockMode
from tests.support import backups
from tests.support.memory_store import MemoryStore
from tests.support.packs import pack_writer

MIB = 1 << 20


def full(number: int, most: int = pack.CONTENTS_AT_MOST) -> Pack:
    """A pack of as many contents as one may hold."""
    writer = pack_writer()
    for n in range(most):
        content = b"%d %d" % (number, n)
        writer.add(hashlib.sha256(content).digest(), gzipping.stored(content), len(content))
    return writer.finish()


def claiming(rows: int) -> tuple[bytes, int]:
    """An object that says of itself that it has that many contents, and where its list begins."""
    text = b"".join(b'["%064x",%d,18,0]\n' % (n, 18 * n) for n in range(rows))
    return bytes(18 * rows) + zlib.compress(text, 9, 31), 18 * rows


def store_pack(store: MemoryStore, sha: bytes, body: bytes, index: int) -> None:
    store.memory.add(keys.pack_key(sha), body, metadata={keys.PACK_INDEX: str(index)})


def learnt(store: MemoryStore, base: Path) -> int:
    """How many contents a new catalog has."""
    clock = SystemClock()
    with SqliteCatalog(base / "catalog.sqlite") as catalog:
        session = catalog.begin("bucket", "alpha", Lock(LockMode.NONE, clock.now()), clock.now(), doubting=True)
        new = backups.run(learn_objects(store, session.indexes, "alpha", clock))
        assert catalog.info().contents == new
        return new


def test_packs_that_claim_more_than_any_holds(tmp_path: Path) -> None:
    """Lists that unpack to far more than their bytes are passed over, in little memory; the right packs are learnt."""
    store = MemoryStore()
    body, index = claiming(600_000)
    for n in range(16):
        store_pack(store, hashlib.sha256(b"%d" % n).digest(), body, index)
    right = [full(n, 2000) for n in range(3)]
    for made in right:
        store_pack(store, made.sha, bytes(made.body), made.index)
    tracemalloc.start()
    try:
        assert learnt(store, tmp_path) == 6000
        assert tracemalloc.get_traced_memory()[1] < 96 * MIB
    finally:
        tracemalloc.stop()


def test_a_pack_as_full_as_they_get(tmp_path: Path) -> None:
    """All of its contents are learnt, of one with one more nothing."""
    store = MemoryStore()
    for made in (full(1), full(2, pack.CONTENTS_AT_MOST + 1)):
        assert len(made.body) - made.index < pack.LIST_AT_MOST
        store_pack(store, made.sha, bytes(made.body), made.index)
    assert learnt(store, tmp_path) == pack.CONTENTS_AT_MOST


def test_a_list_that_unpacks_to_gigabytes() -> None:
    """It is given up as soon as it is longer than any can be."""
    with pytest.raises(FormatError, match="longer than any"):
        pack.read_index(zlib.compress(bytes(64 * MIB), 9, 31), 1000)
