"""What `list` has of manifests, from their two ends: whatever is between these, and whatever their way did to them."""

import random
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import pytest
import uvloop

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, keys, manifest
from sysbackup.formats.ends import ends
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.recovery import stored_runs
from sysbackup.recovery.outlines import Outline, outlines
from sysbackup.store.port import ObjectStore
from tests.support.garbling import GarblingStore
from tests.support.recovering import HOST, RUN, Backup, header, older, written

MIB = 1 << 20

END = manifest.End(counts={"f": 1}, bytes=2, problems=3)


def lines(*between: bytes) -> bytes:
    """A manifest with these lines between its ends, as small as can be."""
    return framed(zlib.compress(b"".join(line + b"\n" for line in between), 9, 31), RUN)


def framed(between: bytes, run: str) -> bytes:
    """The ends of a manifest around what is compressed already."""
    return (
        gzipping.compress(manifest.encode(header(run, format=1)) + b"\n")
        + between
        + gzipping.compress(manifest.encode(END) + b"\n")
    )


def many_words(size: int) -> bytes:
    """A line that unpacks to about `size` bytes, and to ten times as many when it is understood."""
    return b'{"typ":"f","path":"/a","w":[' + b",".join([b'"ab"'] * (size // 5)) + b"]}"


@contextmanager
def at_most(peak: int) -> Iterator[None]:
    """The block takes no more memory than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


def outlined(store: ObjectStore) -> list[Outline]:
    async def work() -> list[Outline]:
        return await outlines(store, await stored_runs.runs(store))

    return uvloop.run(work())


def test_manifests_that_unpack_to_very_much() -> None:
    """Eight of fifty kilobytes each, read at the same time, cost no memory, and their ends are told."""
    backup = Backup()
    between = zlib.compress(many_words(32 * MIB) + b"\n", 9, 31)
    names = [f"20261123T04150{n}Z-3fa9" for n in range(8)]
    for run in names:
        body = framed(between, run)
        assert len(body) < 64 << 10
        backup.bucket.add(keys.manifest_key(HOST, run), body)
    with at_most(64 * MIB):
        found = outlined(backup.store)
    assert [(o.header, o.end) for o in found] == [(header(run, format=1), END) for run in names]


def test_a_line_longer_than_any_of_ours() -> None:
    """Whoever reads all of a manifest gives it up there, before it is understood."""
    body = lines(many_words(32 * MIB))
    with at_most(64 * MIB), pytest.raises(FormatError, match="longer than any entry"):
        list(ManifestReader().feed(body))


def test_many_long_lines() -> None:
    """Lines as long as ours may be are understood one by one, not a thousand at a time."""
    backup = Backup()
    line = many_words(MIB - 100)
    backup.bucket.add(keys.manifest_key(HOST, RUN), lines(*([line] * 16)))

    async def read() -> int:
        found = await stored_runs.find_run(backup.store, RUN)
        number = 0
        async with aclosing(stored_runs.batches(backup.store, found)) as batches:
            async for batch in batches:
                number += len(batch)
        return number

    with at_most(140 * MIB):
        assert uvloop.run(read()) == 18


@pytest.mark.parametrize("between", [0, 1, 5000])
def test_the_two_ends_of_any_manifest(between: int) -> None:
    """They are what a reader of all of it finds first and last, in one gzip member, in two or in many."""
    entries: list[manifest.Entry] = [header(), *[manifest.Fifo(path=f"/{n}") for n in range(between)], END]
    for body in (written(entries), older(entries), older(entries, members=1)):
        assert ends(body) == (entries[0], entries[-1])
        for cut in (1, 30, len(body) // 2, len(body) - 1):
            with pytest.raises(FormatError):
                ends(body[:cut])


@pytest.mark.parametrize(
    "body",
    [
        gzipping.compress(b""),
        gzipping.compress(manifest.encode(header())),
        gzipping.compress(manifest.encode(header()) + b"\n"),
        gzipping.compress(manifest.encode(END) + b"\n"),
        lines() + gzipping.compress(b"\n"),
        lines() + gzipping.compress(b"x" * 10_000 + b"\n"),
        gzipping.compress(b"x" * (100 << 10) + b"\n"),
        zlib.compress(bytes(64 * MIB), 9, 31),
    ],
)
def test_what_has_no_ends(body: bytes) -> None:
    """It is damaged, and nothing else happens."""
    with pytest.raises(FormatError):
        ends(body)


@pytest.mark.parametrize("files", [3, 5000])
@pytest.mark.parametrize("at", [0, None])
def test_a_manifest_that_came_damaged(files: int, at: int | None) -> None:
    """Small or large, it is read again before it is called damaged; damaged twice, it is."""
    backup = Backup()
    dice = random.Random(files)
    for n in range(files):
        backup.file(b"/%d" % n, size=1, sha=dice.randbytes(32).hex())
    backup.stored()
    (outline,) = outlined(GarblingStore(backup.bucket, "manifests/", at=at))
    assert (outline.trouble, outline.header, outline.end) == (None, header(), backup.end())
    (outline,) = outlined(GarblingStore(backup.bucket, "manifests/", None, at=at))
    assert outline.trouble is not None or files > 3  # of a large one not all is looked at
