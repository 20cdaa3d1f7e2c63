"""The content store: each content is stored once, whoever brings it, and found where the store has confirmed it."""

import asyncio
import gzip
import hashlib
import os
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from sysbackup.contents.keeping import Keeper
from sysbackup.errors import CatalogUnusable, StoreUnavailable, expected
from sysbackup.formats import keys, pack
from sysbackup.model import Location
from tests.support import backups
from tests.support.clock import ManualClock
from tests.support.failing import FailingStore, at
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.storing import Storing, storing, stowing

KIB = 1 << 10


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def by_hash(*contents: bytes) -> dict[bytes, bytes]:
    return {sha(content): content for content in contents}


async def kept(made: Storing, *contents: bytes) -> set[bytes]:
    """Keep these contents, and return those of them that were not stored yet; all of it has arrived then."""
    async with made.contents.keeping() as keeper, stowing(made.contents, keeper) as stower:
        return await stower.stow(*contents)


def fetched(bucket: MemoryBucket, at: Location) -> bytes:
    """The content at a place, as gzip(1) and dd(1) would have it."""
    body = bucket.find(at.key, at.version).body
    if at.span is not None:
        body = body[at.span.offset : at.span.end]
    return gzip.decompress(body) if at.encoding == "gzip" else body


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket(ManualClock())


def test_what_was_kept_is_found_and_is_the_same(tmp_path: Path, bucket: MemoryBucket) -> None:
    """Small in packs, larger alone, encoded where that pays: each at the place that is said, under the later lock."""
    contents = [b"small", b"", os.urandom(300 * KIB), bytes(300 * KIB), b"text " * 100_000]

    async def work() -> None:
        async with storing(tmp_path, MemoryStore(bucket), {"pack_below": 200 * KIB}) as made:
            await kept(made, *contents)
            found = made.contents.find(map(sha, contents), promised=True)
            assert {digest: fetched(bucket, place) for digest, place in found.items()} == by_hash(*contents)
            assert [found[sha(c)].encoding for c in contents] == ["gzip", "gzip", None, "gzip", "gzip"]
            assert [found[sha(c)].span is None for c in contents] == [False, False, True, True, True]
            assert {stored.lock for stored in made.account.objects} == {made.terms.contents}
            assert (made.account.contents, made.account.plain) == (5, sum(map(len, contents)))
            assert (made.account.sending, made.contents.budget.used) == (0, 0)

    backups.run(work())


def test_a_content_is_stored_once(tmp_path: Path, bucket: MemoryBucket) -> None:
    """Not again in the same run, nor in the next, whatever it comes with; a lost catalog costs no second copy."""
    store = MemoryStore(bucket)
    big = os.urandom(300 * KIB)

    async def work(*, new: bytes) -> None:
        async with storing(tmp_path, store, {"pack_below": 200 * KIB}) as made:
            await kept(made, b"one", big, new)
            assert await kept(made, b"one", big, new) == set()

    backups.run(work(new=b"two"))
    before = {key: len(versions) for key, versions in bucket.objects.items()}
    backups.run(work(new=b"one"))
    assert {key: len(versions) for key, versions in bucket.objects.items()} == before
    (tmp_path / "cache" / "catalog.sqlite").unlink()
    backups.run(work(new=b"one"))
    assert len(bucket.objects[keys.content_key(sha(big))]) == 1


@pytest.mark.parametrize("anew", [False, True])
def test_examiners_that_meet_at_a_content_store_it_once(tmp_path: Path, bucket: MemoryBucket, *, anew: bool) -> None:
    """However many find it at the same time, by a look of their own or the run's: exactly one is to store it."""
    contents = [str(n).encode() for n in range(500)]

    async def work() -> None:
        async with storing(tmp_path, MemoryStore(bucket), run={"workers": 8}) as made:
            async with made.contents.keeping() as keeper, AsyncExitStack() as stack:
                stowers = [await stack.enter_async_context(stowing(made.contents, keeper)) for _ in range(8)]
                granted = await asyncio.gather(
                    *(
                        stower.stow(*contents[60 * n :], *contents[: 60 * n], anew=anew)
                        for n, stower in enumerate(stowers)
                    )
                )
            assert sorted(digest for each in granted for digest in each) == sorted(map(sha, contents))
            assert made.account.contents == 500
            assert (made.account.sending, made.contents.budget.used) == (0, 0)

    backups.run(work())


def test_nothing_is_found_before_the_store_has_confirmed_it(tmp_path: Path, bucket: MemoryBucket) -> None:
    """A put that fails ends the keeping, and leaves nothing that a manifest could name."""
    store = FailingStore(MemoryStore(bucket), at("put"))

    async def work() -> None:
        async with storing(tmp_path, store) as made:
            with pytest.raises(ExceptionGroup) as failed:
                await kept(made, b"one")
            assert [type(error) for error in expected(failed.value) or []] == [StoreUnavailable]
            assert made.contents.find([sha(b"one")]) == {}
            assert made.account.objects == []

    backups.run(work())


def test_what_is_not_locked_for_long_enough_is_no_promise(tmp_path: Path) -> None:
    """A later run may find it, but not write it into a manifest before it has seen to its lock."""
    clock = ManualClock()
    store = MemoryStore(MemoryBucket(clock))

    async def work() -> None:
        async with storing(tmp_path, store, clock=clock) as made:
            await kept(made, b"one")
        clock.turn(days=10)
        async with storing(tmp_path, store, clock=clock) as made:
            await kept(made, b"one")
            assert made.contents.find([sha(b"one")]).keys() == {sha(b"one")}
            with pytest.raises(CatalogUnusable):
                made.contents.find([sha(b"one")], promised=True)

            async def nothing_lost() -> None:
                raise AssertionError

            await made.contents.promise(nothing_lost)
            (place,) = made.contents.find([sha(b"one")], promised=True).values()
            lock = await store.lock_of(place.key, place.version)
            assert lock is not None
            assert lock.until >= clock.now() + timedelta(days=14)
            assert made.account.renewed == 1

    backups.run(work())


def test_what_is_stored_anew_lies_where_it_was_no_more(tmp_path: Path) -> None:
    """A manifest is to name the new place of what a pack held that is left, however long ago that was written down."""
    clock = ManualClock()
    store = MemoryStore(MemoryBucket(clock))

    async def work() -> None:
        async with storing(tmp_path, store, clock=clock) as made:
            await kept(made, b"living", *(b"%d" % n * 100 for n in range(200)))
        clock.turn(days=10)
        async with storing(tmp_path, store, clock=clock) as made:
            assert await kept(made, b"living") == set()
            renewals = made.contents._session.renewals
            assert renewals.collect() == 1
            ((left,),) = renewals.due()
            renewals.leave(left.number)
            async with made.contents.keeping() as keeper, stowing(made.contents, keeper) as stower:
                assert await stower.stow(b"living", anew=True) == {sha(b"living")}
            (place,) = made.contents.find([sha(b"living")], promised=True).values()
            assert place.key != left.stored.key
            assert sha(b"living") not in {member.sha for member in renewals.members(left.number)}

    backups.run(work())


def test_contents_are_let_go_of_as_they_are_stowed(tmp_path: Path, bucket: MemoryBucket) -> None:
    """What was read is not held until all of it is compressed, nor what is stored already."""
    contents = by_hash(*(b"%d" % n for n in range(10)))

    async def work() -> None:
        async with storing(tmp_path, MemoryStore(bucket)) as made:
            await kept(made, b"3")
            async with made.contents.keeping() as keeper, stowing(made.contents, keeper) as stower:
                await stower.stow_all(contents)
            assert contents == {}

    backups.run(work())


# ---- streams


# ---- packs


def test_packs_are_sent_when_they_are_full(tmp_path: Path, bucket: MemoryBucket) -> None:
    """Each is named by its hash, lists what is in it, and is no larger than it takes to be full."""
    contents = [os.urandom(1000) for _ in range(100)]

    async def work() -> None:
        async with storing(tmp_path, MemoryStore(bucket), {"pack_size": 10_000}) as made:
            async with made.contents.keeping() as keeper, stowing(made.contents, keeper) as stower:
                for content in contents:
                    await stower.stow(content)
                await stower.flush()
                await stower.flush()  # nothing is left: no empty pack
            assert made.account.contents == 100

    backups.run(work())
    listed = {}
    for key, (made,) in bucket.objects.items():
        assert keys.pack_sha(key) == sha(made.body)
        index = int(made.metadata[keys.PACK_INDEX])
        assert index < 11_500
        for member in pack.read_index(made.body[index:], index):
            assert member.span is not None
            listed[member.sha] = gzip.decompress(made.body[member.span.offset : member.span.end])
    assert listed == by_hash(*contents)
    assert len(bucket.objects) == 10


def test_a_pack_takes_no_more_contents_than_its_list_may_name(
    tmp_path: Path, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small they are: its readers would refuse it."""
    monkeypatch.setattr(pack, "CONTENTS_AT_MOST", 30)

    async def work() -> None:
        async with storing(tmp_path, MemoryStore(bucket)) as made:
            await kept(made, *(str(n).encode() for n in range(100)))

    backups.run(work())
    assert len(bucket.objects) == 4


def test_keeping_waits_while_the_store_takes_nothing(tmp_path: Path, bucket: MemoryBucket) -> None:
    """Memory stays within its bound, however much is brought: who brings it waits."""
    going = asyncio.Event()

    class Slow(MemoryStore):
        async def put(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            await going.wait()
            return await super().put(*args, **kwargs)  # type: ignore[arg-type]

    async def work() -> None:
        total = 64 << 20
        async with storing(tmp_path, Slow(bucket), {"pack_below": 0}, {"memory": total, "uploads": 2}) as made:
            brought = 0

            async def bring(keeper: Keeper) -> None:
                nonlocal brought
                async with stowing(made.contents, keeper) as stower:
                    for n in range(80):
                        await stower.stow(n.to_bytes(1) + os.urandom((1 << 20) - 1))
                        brought += 1

            async with asyncio.TaskGroup() as group, made.contents.keeping() as keeper:
                bringing = group.create_task(bring(keeper))
                before = -1
                while before < brought:
                    before = brought
                    await asyncio.sleep(0.5)
                assert 0 < brought < 33
                assert made.contents.budget.used <= total // 2
                going.set()
                await bringing
            assert len(made.account.objects) == 80

    backups.run(work())
