"""Looking: what lies at paths becomes entries and contents; what is known unchanged is not opened."""

import gc
import hashlib
import os
import threading
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import pytest

from sysbackup.files.owners import Owners
from sysbackup.formats import manifest
from sysbackup.model import FileState
from sysbackup.pipeline import file_facts
from sysbackup.pipeline.entries import latest, line_in, noted
from sysbackup.pipeline.found import Found
from sysbackup.pipeline.looking import Looker
from sysbackup.pipeline.remembered import Contents, Locations

MIB = 1 << 20


WHOLE = 4 << 20


class Remembering:
    """`remembered.Memory` of what earlier looks said was settled."""

    def __init__(self) -> None:
        self.states: dict[FileState, bytes] = {}
        self.seen: set[bytes] = set()

    def remember(self, found: Found) -> None:
        self.states |= {state._replace(sha=b""): state.sha for state in found.states}

    @property
    def knows_files(self) -> bool:
        return bool(self.states)

    def unchanged(self, states: Sequence[FileState]) -> tuple[Contents, Locations]:
        return {(s.device, s.inode): self.states[s] for s in states if s in self.states}, {}

    def first_seen(self, path: bytes) -> bool:
        new = path not in self.seen
        self.seen.add(path)
        return new

    def not_recorded(self, path: bytes) -> None:
        self.seen.discard(path)


@pytest.fixture
def memory() -> Remembering:
    return Remembering()


@pytest.fixture
def looker(memory: Remembering, monkeypatch: pytest.MonkeyPatch) -> Looker:
    monkeypatch.setattr(file_facts, "_SETTLED", 0)
    return Looker(memory, Owners(), 0.1, WHOLE, threading.Event())


def looked(looker: Looker, *paths: Path, allowance: int = 8 * MIB) -> Found:
    found = looker.look([bytes(path) for path in paths], allowance, 1)
    looker.finish(found)
    return found


def entries(found: Found) -> dict[bytes, manifest.Entry]:
    return {path: manifest.decode(line_in(value)) for path, value in found.records}


def test_a_file_is_its_entry_and_its_content(looker: Looker, tmp_path: Path) -> None:
    """Equal contents are there once, empty ones not at all; every directory above is recorded, once for all looks."""
    (tmp_path / "a").write_text("equal")
    (tmp_path / "b").write_text("equal")
    (tmp_path / "empty").touch()
    found = looked(looker, *(tmp_path / name for name in ("a", "b", "empty")))
    assert found.contents == {hashlib.sha256(b"equal").digest(): b"equal"}
    assert (found.files, found.bytes_read, found.bytes_unchanged) == (3, 10, 0)
    said = entries(found)
    assert {bytes(folder) for folder in tmp_path.parents} | {bytes(tmp_path)} <= said.keys()
    one = said[bytes(tmp_path / "a")]
    assert isinstance(one, manifest.File)
    assert (one.size, one.sha, one.location) == (5, hashlib.sha256(b"equal").hexdigest(), None)
    again = looked(looker, tmp_path / "a")
    assert entries(again).keys() == {bytes(tmp_path / "a")}


def test_what_is_unchanged_is_not_opened(looker: Looker, memory: Remembering, tmp_path: Path) -> None:
    """Its entry is written from what is known; what may change without it (its owner, its rights) is read afresh."""
    path = tmp_path / "file"
    path.write_text("content")
    memory.remember(looked(looker, path))
    before = path.stat().st_atime_ns
    found = looked(looker, path)
    assert path.stat().st_atime_ns == before
    assert (found.files, found.bytes_read, found.bytes_unchanged, found.contents) == (1, 0, 7, {})
    (value,) = [value for name, value in found.records if name == bytes(path)]
    assert noted(value).unchanged
    path.write_text("CONTENT")
    assert looked(looker, path).bytes_read == 7


def test_who_is_alone_finds_the_same(
    memory: Remembering, looker: Looker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside the directories, extended attributes and all; in the end it is in none of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("one/a", "one/b", "two/c", "two/deep/er/d", "two/e"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    os.setxattr(tmp_path / "two/c", "user.word", b"value")
    paths = [tmp_path / name for name in ("one/a", "two/c", "one", "one/b", "two/deep/er/d", "two", "two/e")]
    memory.remember(looked(looker, *paths))
    memory.seen.clear()
    far = looked(looker, *paths)
    memory.seen.clear()
    near = looked(Looker(memory, Owners(), 0.1, WHOLE, threading.Event(), alone=True), *paths)
    assert os.getcwd() == "/"
    assert near == far
    assert near.bytes_unchanged == far.bytes_unchanged == sum(len("one/a") for _ in range(4)) + len("two/deep/er/d")
    said = entries(near)[bytes(tmp_path / "two/c")]
    assert isinstance(said, manifest.File)
    assert said.xattrs == {"user.word": "dmFsdWU="}


def test_a_directory_is_recorded_once(looker: Looker, tmp_path: Path) -> None:
    """Whether it is picked, or something in it is, or both; now or at another look."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").touch()
    found = looked(looker, tmp_path / "in", tmp_path / "in/file", tmp_path / "in")
    again = looked(looker, tmp_path / "in/file", tmp_path / "in")
    names = [path for path, _ in found.records + again.records]
    assert names.count(bytes(tmp_path / "in")) == names.count(bytes(tmp_path)) == 1


def test_a_root_spelt_with_two_slashes_is_the_root(looker: Looker) -> None:
    """What lies in it is open then; files are the only ones that are not looked up by their real path."""
    files = [entry.path for entry in os.scandir("/") if entry.is_file(follow_symlinks=False)]
    found = looker.look([b"/etc", *(os.fsencode(f"/{path}") for path in files), b"//etc"], 8 * MIB, 1)
    looker.finish(found)
    assert {path for path, _ in found.records} == {b"/", b"/etc", *map(os.fsencode, files)}


def test_a_file_written_to_between_two_looks_at_it_is_read(memory: Remembering, tmp_path: Path) -> None:
    """Of two names of one file in a batch: what was known is right for one state of it alone."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("old")
    other.hardlink_to(one)

    def at(path: bytes) -> None:
        if path == bytes(other) and other.stat().st_size == 3:
            other.write_text("newer")

    state = file_facts.state_of(one.stat())
    memory.states[state] = hashlib.sha256(b"old").digest()
    found = looked(Looker(memory, Owners(), 0.1, WHOLE, threading.Event(), at), one, other)
    said = entries(found)
    for path in (one, other):
        entry = said[bytes(path)]
        assert isinstance(entry, manifest.File)
        assert entry.sha == hashlib.sha256(b"newer").hexdigest()


def test_a_directory_that_was_a_link_meanwhile_is_a_directory(looker: Looker, tmp_path: Path) -> None:
    """The last look counts, also of what was recorded before."""
    path = tmp_path / "current"
    path.mkdir()
    records = looked(looker, path).records
    path.rmdir()
    path.symlink_to(tmp_path)
    records += looker.look([bytes(path)], MIB, 2).records
    path.unlink()
    path.mkdir()
    records += looker.look([bytes(path)], MIB, 3).records
    kinds = [noted(value).kind for name, value in latest(sorted(records, key=itemgetter(0))) if name == bytes(path)]
    assert kinds == [b"d"]


def test_what_leads_to_the_kernel_does_not_hide_it(looker: Looker, tmp_path: Path) -> None:
    """A link into /proc brings nothing of it; what is picked there itself comes with its directories."""
    link = tmp_path / "link"
    link.symlink_to("/proc/version")
    names = {path for path, _ in looker.look([bytes(link), b"/proc/version"], MIB, 1).records}
    assert {b"/proc", bytes(link)} <= names


def errors() -> int:
    """How many there are in this process."""
    return sum(isinstance(each, OSError) for each in gc.get_objects())


def test_errors_are_let_go_of(looker: Looker, tmp_path: Path) -> None:
    """Each holds on to what was read when it came: nothing may wait for the collector of circles."""
    (tmp_path / "file").write_text("x")
    gc.collect()
    gc.disable()
    try:
        before = errors()  # of other tests
        for n in range(20):
            looked(looker, *(tmp_path / f"gone{m}" for m in range(5)), tmp_path / "file" / f"{n}")
        assert errors() < before + 20  # one for each look; others in this process may come and go
    finally:
        gc.enable()


def test_what_exceeds_the_allowance_waits(looker: Looker, tmp_path: Path) -> None:
    """The rest of a batch is read another time; one file larger than all of it is taken when it is alone."""
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(600))
    paths = [tmp_path / name for name in "abc"]
    found = looked(looker, *paths, allowance=1000)
    assert (found.files, found.later) == (1, [(bytes(path), 600) for path in paths[1:]])


def test_what_is_too_large_for_memory_is_not_read(looker: Looker, tmp_path: Path) -> None:
    """It is handed on by its path alone."""
    path = tmp_path / "large"
    path.write_bytes(bytes(WHOLE + 1))
    found = looked(looker, path)
    assert (found.large, found.files, found.contents) == ([bytes(path)], 0, {})


def test_what_is_no_file_is_recorded_as_what_it_is(looker: Looker, tmp_path: Path) -> None:
    """A link with what it leads to, a FIFO, a directory without what is in it; a socket is counted and left out."""
    (tmp_path / "target").write_text("content")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/inside").touch()
    os.mknod(tmp_path / "socket", 0o140600)
    found = looked(looker, *(tmp_path / name for name in ("link", "dangling", "fifo", "directory", "socket")))
    said = entries(found)
    kinds = {path.rpartition(b"/")[2].decode(): type(entry).__name__ for path, entry in said.items()}
    assert kinds["link"] == kinds["dangling"] == "Link"
    assert (kinds["target"], kinds["fifo"], kinds["directory"]) == ("File", "Fifo", "Directory")
    assert "inside" not in kinds
    assert "socket" not in kinds
    assert found.sockets == 1


def test_what_is_gone_is_no_problem_and_what_is_denied_is(looker: Looker, tmp_path: Path) -> None:
    """Nobody can tell a path that went from one that never was; both are told of by their paths."""
    found = looked(looker, tmp_path / "gone", tmp_path / "gone/below")
    assert found.vanished == [bytes(tmp_path / "gone"), bytes(tmp_path / "gone/below")]
    assert found.problems == []
    found = looked(looker, Path("/" + "x" * 300))
    assert [problem.source for problem in found.problems] == [b"/" + b"x" * 300]
    assert found.vanished == []


def test_a_file_that_was_just_written_is_read_again_the_next_time(
    memory: Remembering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write in the same tick of the clock would leave no trace (rule 7)."""
    path = tmp_path / "file"
    path.write_text("content")
    found = looked(Looker(memory, Owners(), 0.1, WHOLE, threading.Event()), path)
    assert (found.files, found.states) == (1, [])
    monkeypatch.setattr(file_facts, "_SETTLED", 0)
    assert len(looked(Looker(memory, Owners(), 0.1, WHOLE, threading.Event()), path).states) == 1
