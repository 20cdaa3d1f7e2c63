"""Merging: by whatever ranges of paths, all that was set down is in the manifest, each path once, with its place."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from random import Random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysbackup.disk import sorted_runs
from sysbackup.disk.sorted_runs import SortedRuns, State, read
from sysbackup.disk.sorting import Record
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest, manifest_members
from sysbackup.formats.manifest_members import begins
from sysbackup.model import Location, Span
from sysbackup.pipeline import entries as entry_words
from sysbackup.pipeline import merging
from sysbackup.pipeline.entries import PlainFiles, latest, line_in, noted, spooled
from sysbackup.pipeline.merging import Merger, Range, Runs, placeless, ranges, within

unhurried = settings(deadline=None)

ALL = Range(b"", None)
SHA = hashlib.sha256(b"content").digest()


@dataclass(frozen=True, slots=True)
class Spooled:
    """What some seats have set down."""

    files: Sequence[int]
    runs: Runs

    def read(self, of: Range) -> list[Record]:
        return [*read(self.files, within(self.runs, of), of.begin, of.end)]


@contextmanager
def set_down(seats: Sequence[Sequence[Record]], slot: int = 1000) -> Iterator[Spooled]:
    """Each seat's records, a few at a time, in many small blocks; ranges are of a few blocks."""
    with ExitStack() as stack:
        for module, name, value in (
            (sorted_runs, "_BLOCK", 300),
            (sorted_runs, "_RUNS", 4),
            (merging, "_RANGE", 900),
            (merging, "_BATCH", 3),
            (manifest_members, "_ONE_IN", 3),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        files = [stack.enter_context(tempfile.TemporaryFile(buffering=0)).fileno() for _ in seats]
        runs = []
        for seat, records in enumerate(seats):
            taking = SortedRuns(memoryview(bytearray(slot)), files, seat, Path("/tmp"), State())
            for at in range(0, len(records), 2):
                taking.add_all(records[at : at + 2])
            taking.set_down()
            runs += [(seat, run) for run in taking.change().applied(State()).runs]
        yield Spooled(files, runs)


def look(path: bytes, number: int, size: int = 0) -> Record:
    return spooled(path, manifest.File(**manifest.named(path), size=size, sha=SHA.hex()), number)


names = st.binary(min_size=1, max_size=2).map(lambda name: b"/" + name.replace(b"\0", b"0"))
looks = st.builds(look, names, st.integers(1, 50))
spools = st.lists(st.lists(looks, max_size=60), min_size=1, max_size=4)


@unhurried
@given(spools)
def test_ranges_cover_all_paths_exactly_once(seats: list[list[Record]]) -> None:
    """From the first path to the last, each ends where the next begins, where members may; nothing is in two."""
    with set_down(seats) as spool:
        found = [*ranges(spool.runs)]
        assert found[0].begin == b""
        assert found[-1].end is None
        assert all(one.end == other.begin for one, other in pairwise(found))
        assert all(begins(each.begin) for each in found[1:])
        parts = [spool.read(each) for each in found]
        assert sorted(chain.from_iterable(parts)) == sorted(chain.from_iterable(seats))
        freshest = [record for part in parts for record in latest(part)]
        assert freshest == [*latest(spool.read(ALL))]
        assert {path: noted(value).number for path, value in freshest} == _numbers(seats)


def _numbers(seats: Sequence[Sequence[Record]]) -> dict[bytes, int]:
    """The latest look at each path."""
    found: dict[bytes, int] = {}
    for seat in seats:
        for path, value in seat:
            found[path] = max(found.get(path, 0), noted(value).number)
    return found


def test_ranges_are_of_like_sizes_and_need_few_blocks() -> None:
    """So that examiners have about as much to do as one another, and read what they merge, not all of it."""
    chance = Random(1)
    seats = [[look(b"/%08d" % chance.randrange(10**8), 1) for _ in range(2000)] for _ in range(3)]
    with set_down(seats, slot=20_000) as spool:
        found = [*ranges(spool.runs)]
        sizes = [sum(len(path) + len(value) for path, value in spool.read(each)) for each in found]
        assert len(found) > 100
        assert max(sizes) < 20 * sum(sizes) / len(sizes)
        blocks = sum(len(run.blocks) for _, run in spool.runs)
        needed = sum(len(run.blocks) for each in found for _, run in within(spool.runs, each))
        assert needed < blocks + 2 * len(found) * len(spool.runs)


# ---- lines


words = st.text(min_size=1, max_size=10)
entries = st.builds(
    lambda path, rest: manifest.File(**manifest.named(b"/" + path), **rest),
    st.binary(max_size=6),
    st.fixed_dictionaries(
        {"size": st.integers(1, 2**60), "sha": st.just(SHA.hex())},
        optional={
            "owner": words | st.integers(0, 2**32),
            "acl": words,
            "flags": words,
            "mtime": st.integers(-(2**60), 2**60),
            "xattrs": st.dictionaries(words, words, max_size=2),
            "link": words,
            "warnings": st.lists(words, min_size=1, max_size=2),
        },
    ),
)
spans = st.builds(Span, st.integers(0, 2**60), st.integers(0, 2**60))
places = st.builds(Location, words, st.none() | words, st.none() | spans, st.none() | words)


@unhurried
@given(st.lists(st.tuples(entries, places), max_size=8, unique_by=lambda pair: pair[0].path_bytes))
def test_a_place_put_into_a_line_is_as_if_it_had_been_encoded_there(
    pairs: list[tuple[manifest.File, Location]],
) -> None:
    """For whoever reads it, whatever the entry says besides."""
    pairs.sort(key=lambda pair: pair[0].path_bytes)
    for number, (entry, _) in enumerate(pairs):
        entry.sha = hashlib.sha256(b"%d" % number).hexdigest()
    at = {bytes.fromhex(entry.sha): place for entry, place in pairs}
    records = [spooled(entry.path_bytes, entry, 1) for entry, _ in pairs]
    with mock.patch.object(entry_words, "_KEPT", 2):
        found = [*Merger(_finding(at), believing=True).lines(records)]
    assert [path for path, _ in found] == [entry.path_bytes for entry, _ in pairs]
    for (_, line), (entry, place) in zip(found, pairs, strict=True):
        entry.place(place)
        assert manifest.decode(line) == manifest.decode(manifest.encode(entry)) == entry


def _finding(at: dict[bytes, Location]) -> merging.Find:
    return lambda shas: {sha: at[sha] for sha in shas if sha in at}


def test_what_is_stored_nowhere_is_left_out_and_told_of() -> None:
    """What wants no place needs none; only what is in the manifest is counted, each path once."""
    stored, gone = hashlib.sha256(b"stored").digest(), hashlib.sha256(b"gone").digest()

    def file(path: bytes, sha: bytes, size: int, number: int = 1, *, unchanged: bool = False) -> Record:
        entry = manifest.File(**manifest.named(path), size=size, sha=sha.hex())
        return spooled(path, entry, number, unchanged=unchanged)

    moving = manifest.File(path="/e", size=1000, sha=gone.hex())
    moving.place(Location("moving", None))
    records = [
        spooled(b"/a", manifest.Directory(path="/a"), 1),
        file(b"/b", gone, 1),
        file(b"/b", stored, 10, 2, unchanged=True),
        file(b"/c", gone, 100, unchanged=True),
        file(b"/d", gone, 0, unchanged=True),
        spooled(b"/e", moving, 1),
        file(b"/f", stored, 10, 3),
        file(b"/f", gone, 1, 2),
    ]
    find = _finding({stored: Location("key", "v")})
    merger = Merger(find, believing=True)
    assert [path for path, _ in merger.lines(records)] == [b"/a", b"/b", b"/d", b"/e", b"/f"]
    assert merger.placeless == [b"/c"]
    assert (merger.counts, merger.size, merger.unchanged) == ({"d": 1, "f": 4}, 1020, 2)
    assert [*placeless(latest(records), find)] == [b"/c"]


@pytest.mark.parametrize("believing", [True, False])
def test_a_place_that_a_line_tells_is_believed_or_found_anew(believing: bool) -> None:
    """Where something was lost meanwhile, what was so at the look need not be so now; or lies nowhere any more."""
    plain = PlainFiles(Owners())
    records, shas = [], [hashlib.sha256(b"%d" % n).digest() for n in range(3)]
    for n, sha in enumerate(shas):
        numbers = (stat.S_IFREG | 0o644, 7, 8, 1, 0, 0, 9, 0, 0, 0)
        looks = os.stat_result((*numbers, 0.0, 0.0, 0.0, 0, 5, 0))
        record = plain.spooled(b"/%d" % n, looks, sha, 1, unchanged=True, at=Location("then", "1", Span(n, 9), "gzip"))
        assert record is not None
        records.append(record)
    asked: list[bytes] = []

    def find(wanted: Iterable[bytes]) -> dict[bytes, Location]:
        asked.extend(wanted)
        return {shas[0]: Location("now", None), shas[2]: Location("then", "1", Span(2, 9), "gzip")}

    merger = Merger(find, believing=believing)
    found = {path: manifest.decode(line) for path, line in merger.lines(records)}
    places = {path: entry.location for path, entry in found.items() if isinstance(entry, manifest.File)}
    if believing:
        assert not asked
        assert places == {b"/%d" % n: Location("then", "1", Span(n, 9), "gzip") for n in range(3)}
    else:
        assert asked == shas
        assert places == {b"/0": Location("now", None), b"/2": Location("then", "1", Span(2, 9), "gzip")}
        assert merger.placeless == [b"/1"]
    assert merger.unchanged == len(places)


@unhurried
@given(spools, st.sets(st.integers(0, 3)))
def test_merged_by_ranges_or_at_once_is_the_same(seats: list[list[Record]], known: set[int]) -> None:
    """Lines, counts and what is placeless: whoever merges how much of it."""
    shas = [hashlib.sha256(b"%d" % n).digest() for n in range(4)]
    seats = [[_of(shas, record) for record in seat] for seat in seats]
    find = _finding({shas[n]: Location(f"key {n}", None, Span(n, 5), "gzip") for n in known})
    with set_down(seats) as spool:
        whole = Merger(find, believing=True)
        lines = [*whole.lines(spool.read(ALL))]
        parts = [Merger(find, believing=True) for _ in ranges(spool.runs)]
        by_range = [
            line for part, each in zip(parts, ranges(spool.runs), strict=True) for line in part.lines(spool.read(each))
        ]
    assert by_range == lines
    assert [path for part in parts for path in part.placeless] == whole.placeless
    assert sum(part.size for part in parts) == whole.size
    assert sum((part.counts for part in parts), start=type(whole.counts)()) == whole.counts


def _of(shas: Sequence[bytes], record: Record) -> Record:
    """The same look at a file of some content."""
    path, value = record
    number = noted(value).number
    entry = manifest.decode(line_in(value))
    assert isinstance(entry, manifest.File)
    entry.size, entry.sha = number, shas[sum(path) % 4].hex()
    return spooled(path, entry, number)
