"""Reading from the middle finds what reading all of it finds, or nothing."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any
from unittest import mock

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from sysbackup.errors import FormatError, StoreError
from sysbackup.formats import keys, manifest, manifest_members, manifest_table
from sysbackup.formats.manifest import Directory, Entry, Log, Node, Snapshot
from sysbackup.formats.manifest_search import SNAPSHOT_LINES, Stretch
from sysbackup.recovery import excerpting, stored_runs
from sysbackup.recovery.selecting import Selection
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.recovering import END, HOST, MOMENT, RUN, header, written

unhurried = settings(deadline=None)

steps = st.sampled_from([b"a", b"a-", b"a.b", b"b", b"\xff", b"0", b"ab"])
paths = st.lists(steps, min_size=1, max_size=4).map(lambda found: b"/" + b"/".join(found))
tails = st.sampled_from([350, 600, 4096])
trees = st.sets(paths, max_size=60).map(sorted)


@contextmanager
def small(tail: int, gap: int) -> Iterator[None]:
    """Members and tables of few lines, and reads of few bytes: as in a backup of millions."""
    values = [
        (manifest_members, "_FEWEST", 1), (manifest_members, "LINES", 4), (manifest_members, "_ONE_IN", 3),
        (manifest_table, "ROWS", 3), (excerpting, "_WHOLE", 0), (excerpting, "_TAIL", (tail, tail)),
        (excerpting, "_GAP", gap), (excerpting, "_ROWS", 5), (excerpting, "_HELD", 400),
    ]  # fmt: skip
    patches = [mock.patch.object(*value) for value in values]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def manifest_of(paths: Sequence[bytes], snapshots: int, logs: int) -> list[Entry]:
    said: list[Entry] = [header(), *(Directory(**manifest.named(path), mtime=7) for path in paths)]
    times: dict[str, Any] = {"started": MOMENT, "finished": MOMENT}
    said += (Snapshot(name=str(n), key="k", size=n, sha="0", **times) for n in range(snapshots))
    said += (Log(time=MOMENT, event="file.denied", path=f"/{n}", reason="no") for n in range(logs))
    return [*said, END]


def read(body: bytes, only: Sequence[Stretch] | None) -> list[Entry]:
    """What a manifest holds, in those stretches at the least; each byte of it is asked for once."""
    bucket = MemoryBucket()
    bucket.add(keys.manifest_key(HOST, RUN), body)
    store = MemoryStore(bucket)

    async def work() -> list[Entry]:
        found: list[Entry] = []
        run = await stored_runs.find_run(store, RUN, HOST)
        async with aclosing(stored_runs.batches(store, run, only=only)) as batches:
            async for batch in batches:
                found += batch
        return found

    return uvloop.run(work())


def nodes(said: Sequence[Entry]) -> list[Node]:
    return [entry for entry in said if isinstance(entry, Node)]


@unhurried
@given(
    trees, st.lists(paths, min_size=1, max_size=4), st.sampled_from([350, 600, 4096]), st.sampled_from([0, 50, 9999])
)
def test_what_is_selected_is_found(tree: list[bytes], asked: list[bytes], tail: int, gap: int) -> None:
    """Entries, those beneath them, and the directories above: the same as of all, in the same order."""
    said = manifest_of(tree, 2, 3)
    with small(tail, gap):
        body = written(said)
        selection = Selection(asked)
        found = nodes(read(body, selection.stretches(above=True)))
        assert [e for e in found if e.path_bytes in selection or selection.leads_to(e.path_bytes)] == [
            e for e in nodes(said) if e.path_bytes in selection or selection.leads_to(e.path_bytes)
        ]
        listed = nodes(read(body, selection.stretches()))
        assert [e for e in listed if e.path_bytes in selection] == [e for e in found if e.path_bytes in selection]
        assert [e.path_bytes for e in listed] == sorted({e.path_bytes for e in listed})


@unhurried
@given(trees, st.integers(0, 9), st.integers(0, 9), st.sampled_from([350, 4096]))
def test_snapshots_are_found(tree: list[bytes], snapshots: int, logs: int, tail: int) -> None:
    """They come behind the entries, however many these are."""
    said = manifest_of(tree, snapshots, logs)
    with small(tail, 0), mock.patch.object(manifest_members, "LINES", 2):
        found = read(written(said), [SNAPSHOT_LINES])
    assert [e for e in found if isinstance(e, Snapshot)] == [e for e in said if isinstance(e, Snapshot)]


@unhurried
@given(st.lists(paths, min_size=1, max_size=2), st.data())
def test_damage_is_refused_or_passed_by(asked: list[bytes], data: st.DataObject) -> None:
    """Bytes changed, left out or put in: what is found is what was written, or nothing is."""
    said = manifest_of(TREE, 1, 1)
    selection = Selection(asked)
    tail = data.draw(st.sampled_from([600, 4096]))
    with small(tail, 0):
        body = bytearray(written(said))
        at = data.draw(st.integers(0, len(body) - 1))
        end = min(len(body), at + data.draw(st.sampled_from([0, 1, 1, 1, 300])))
        body[at:end] = data.draw(st.binary(max_size=3) | st.just(bytes(body[:at][-300:])))
        try:
            found = nodes(read(bytes(body), selection.stretches()))
        except (FormatError, StoreError):
            return
    assert [e for e in found if e.path_bytes in selection] == [e for e in nodes(said) if e.path_bytes in selection]


TREE = [*(b"/%s/%02d" % (name, n) for name in (b"a", b"a-") for n in range(9)), b"/a", b"/b", b"/a/b/0", b"/a.b/ab/a"]
TREE.sort()
