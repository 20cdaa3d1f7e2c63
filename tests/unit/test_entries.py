"""Entries until the manifest is written: encoded once, with what is still to be known of them beside their lines."""

import hashlib
import random

import pytest

from sysbackup.disk.sorting import Record
from sysbackup.formats import manifest
from sysbackup.formats.manifest import FileNode
from sysbackup.model import Location
from sysbackup.pipeline.entries import Noted, latest, line_in, noted, spooled

SHA = hashlib.sha256(b"content").digest()
NONE = bytes(32)


def file(size: int = 7, sha: bytes = SHA, at: Location | None = None) -> manifest.File:
    made = manifest.File(path="/a", size=size, sha=sha.hex())
    if at is not None:
        made.place(at)
    return made


@pytest.mark.parametrize(
    ("entry", "unchanged", "number", "expected"),
    [
        (file(), False, 1, Noted(b"f", False, True, 1, 7, SHA, 0)),
        (file(2**63), True, 2**63, Noted(b"f", True, True, 2**63, 2**63, SHA, 0)),
        (file(0), True, 2, Noted(b"f", True, False, 2, 0, SHA, 0)),
        (file(at=Location("key", None)), False, 2, Noted(b"f", False, False, 2, 7, SHA, 0)),
        (manifest.Directory(path="/a"), False, 3, Noted(b"d", False, False, 3, 0, NONE, 0)),
        (manifest.Link(path="/a", target="b"), False, 4, Noted(b"l", False, False, 4, 0, NONE, 0)),
        (manifest.Fifo(path="/a"), False, 5, Noted(b"p", False, False, 5, 0, NONE, 0)),
        (manifest.CharDevice(path="/a", major=1, minor=3), False, 6, Noted(b"c", False, False, 6, 0, NONE, 0)),
        (manifest.BlockDevice(path="/a", major=8, minor=1), False, 7, Noted(b"b", False, False, 7, 0, NONE, 0)),
    ],
    ids=["file", "unchanged", "empty", "with its place", "directory", "link", "fifo", "character", "block"],
)
def test_what_is_to_be_known_stands_before_the_line(
    entry: FileNode, unchanged: bool, number: int, expected: Noted
) -> None:
    """Only a file that is not empty, and has no place of its own, wants one. The line is the entry's, to the letter."""
    path, value = spooled(b"/a", entry, number, unchanged=unchanged)
    assert path == b"/a"
    assert noted(value) == expected
    assert line_in(value) == manifest.encode(entry)
    assert not value.startswith(b"\0")  # as `SortedRuns` wants it


def look(path: bytes, number: int, size: int = 0) -> Record:
    return spooled(path, file(size), number)


def test_of_several_looks_at_a_path_the_latest_stays() -> None:
    """In whatever order they come; of what one look found twice, what it found last."""
    looks = [[(b"a", 1), (b"a", 2)], [(b"b", 1)], [(b"c", 300), (b"c", 2), (b"c", 299)], [(b"d", 2**40), (b"d", 1)]]
    for seed in range(5):
        for each in looks:
            random.Random(seed).shuffle(each)
        records = [look(path, number) for each in looks for path, number in each]
        assert [*latest(records)] == [look(b"a", 2), look(b"b", 1), look(b"c", 300), look(b"d", 2**40)]
    assert [*latest([look(b"a", 1, 5), look(b"a", 1, 6)])] == [look(b"a", 1, 6)]
    assert [*latest([])] == []
