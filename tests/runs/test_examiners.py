"""Examiners in processes: what they find is what one finds alone, and the end of any of them is the end of none."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sysbackup.config.sections import Config
from sysbackup.errors import ProgramError
from sysbackup.formats import manifest
from sysbackup.formats.run_result import Summary
from sysbackup.pipeline import examining, picking
from sysbackup.store.port import ObjectStore
from tests.support import backups, comparing
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.processes import belonging, children, command_line

FILES = 3_000
# Whoever has changed something that they guard may ask for more.
KILLS = int(os.environ.get("SYSBACKUP_KILLS", "5"))


@pytest.fixture(autouse=True)
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, and processes from the first one on."""
    monkeypatch.setattr(examining, "CROWD", 1)
    monkeypatch.setattr(picking, "BATCH", 64)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files, some equal, some for objects of their own, in some directories; the same for all tests."""
    root = tmp_path_factory.mktemp("examined") / "tree"
    chance = random.Random(7)
    for n in range(FILES):
        directory = root / f"{n % 17:02}"
        directory.mkdir(parents=True, exist_ok=True)
        size = chance.choice([0, 10, 100, 3_000, 20_000])
        (directory / f"{n:05}").write_bytes(chance.randbytes(size // 2) * 2 if n % 5 else b"equal" * size)
    for n in range(6):
        (root / f"large-{n}").write_bytes(chance.randbytes(500_000 + n))
    os.symlink("large-1", root / "link")
    return root


def configured(base: Path, tree: Path, workers: int = 2, lock_timeout: float = 0.2) -> Config:
    content = {"pack_below": 256 << 10, "pack_size": 1 << 20, "lock_timeout": lock_timeout}
    config = backups.configured(base, content, {"workers": workers})
    backups.finder(config, tree)
    return config


def whole(store: ObjectStore, summary: Summary, tree: Path, base: Path) -> bool:
    """Whether a restore gives back all of the tree."""
    report = backups.restored(store, summary, base / "back", spool=base)
    assert not report.problems
    return not comparing.differences(bytes(tree), bytes(base / "back") + bytes(tree))


@contextmanager
def killing(whom: Callable[[int], bool]) -> Iterator[list[int]]:
    """Meanwhile, kill every examiner of which this is true; gives their numbers."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            for pid in examiners():
                if whom(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


class Doom:
    """Says of each of the first dozen, once, some time after it was born, that it is to be killed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ends: dict[int, float] = {}
        self._left = 12

    def __call__(self, pid: int) -> bool:
        end = self._ends.setdefault(pid, time.monotonic() + self._chance.uniform(0.05, 0.5))
        if not self._left or time.monotonic() < end:
            return False
        self._left -= 1
        self._ends[pid] = float("inf")
        return True


class CommonDoom:
    """Says of all that there are at some moments that they are to be killed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._doomed: set[int] = set()
        self._left = 4
        self._at = time.monotonic() + chance.uniform(0.1, 0.6)

    def __call__(self, pid: int) -> bool:
        if self._left and time.monotonic() >= self._at:
            self._doomed.update(examiners())
            self._left -= 1
            self._at = time.monotonic() + self._chance.uniform(0.1, 0.6)
        doomed = pid in self._doomed
        self._doomed.discard(pid)
        return doomed


def examiners() -> list[int]:
    """The processes that examine for us."""
    return [pid for pid in children() if command_line(pid).startswith(b"sysbackup: examiner")]


def reads(pid: int, path: Path) -> bool:
    """Whether it has a file open."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(path) for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def files(store: ObjectStore, summary: Summary) -> dict[bytes, tuple[int, str, bool]]:
    """Size, hash, and whether it has a place, of all files of a manifest."""
    said = backups.entries(store, summary)
    found = [entry for entry in said if isinstance(entry, manifest.File)]
    assert len({file.path_bytes for file in found}) == len(found)
    return {file.path_bytes: (file.size, file.sha, file.location is not None) for file in found}


@pytest.fixture(scope="module")
def expected(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, tuple[int, str, bool]]:
    """What one examiner in a thread finds."""
    base = tmp_path_factory.mktemp("alone")
    store = MemoryStore(MemoryBucket(ManualClock()))
    return files(store, backups.backed_up(configured(base, tree, workers=1), store))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_as_many_examiners_as_there_are_find_the_same(
    workers: int, tree: Path, tmp_path: Path, expected: dict[bytes, tuple[int, str, bool]]
) -> None:
    """Each content is stored once among them; the next run finds all of it unchanged; a restore gives all back."""
    bucket = MemoryBucket(ManualClock())
    store = MemoryStore(bucket)
    config = configured(tmp_path, tree, workers)
    seen: list[int] = []

    def looks(pid: int) -> bool:
        seen.append(pid)
        return False

    with killing(looks):
        first = backups.backed_up(config, store)
    assert min(workers, 2) <= len({*seen}) <= workers
    assert not examiners()
    assert (first.outcome, first.problems, first.files) == ("complete", 0, len(expected))
    assert files(store, first) == expected
    contents = {sha for size, sha, _ in expected.values() if size}
    assert first.contents == len(contents)
    second = backups.backed_up(config, store)
    assert files(store, second) == expected
    assert second.contents == 0
    assert whole(store, second, tree, tmp_path)
    assert {path.name for path in config.cache.iterdir()} <= {"catalog.sqlite", "run.lock"}


def test_examiners_killed_at_any_moment_lose_nothing(tree: Path, tmp_path: Path) -> None:
    """Each of them, some time after it began, whatever it is at, or all at once; their successors go on."""
    store = MemoryStore(MemoryBucket(ManualClock()))
    chance = random.Random(11)
    for turn in range(KILLS // 2 + 1):
        config = configured(tmp_path / str(turn), tree)
        with killing(CommonDoom(chance) if turn % 2 else Doom(chance)) as killed:
            summary = backups.backed_up(config, store)
        assert killed or turn
        assert not examiners()
        assert (summary.outcome, summary.files) == ("complete", FILES + 6), summary.first_problems
        assert whole(store, summary, tree, tmp_path / str(turn))


def test_a_file_that_kills_who_looks_at_it_is_a_problem_with_its_path(tree: Path, tmp_path: Path) -> None:
    """All others are kept."""
    deadly = tmp_path / "deadly"
    deadly.write_bytes(b"never read")
    config = configured(tmp_path, tree, lock_timeout=10.0)
    backups.picker(config, *(tree / f"{n % 17:02}" / f"{n:05}" for n in range(40)), deadly)
    store = MemoryStore(MemoryBucket(ManualClock()))
    with deadly.open("rb") as held, capture_logs() as said, killing(lambda pid: reads(pid, deadly)):
        fcntl.flock(held, fcntl.LOCK_EX)  # so that whoever opens it waits, and is seen
        summary = backups.backed_up(config, store)
    assert summary.outcome == "incomplete"
    assert [(p["event"], p["path"]) for p in summary.first_problems] == [("file.unexaminable", str(deadly))]
    assert "SIGKILL" in summary.first_problems[0]["reason"]
    assert bytes(deadly) not in files(store, summary)
    assert summary.files == FILES + 6
    lost = [line for line in said if line["event"] == "examiner.lost"]
    assert len(lost) == 4
    assert {line["path"] for line in lost} == {str(deadly)}


def test_one_that_hangs_is_named_and_holds_up_nobody_else(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for a lock, as others do on a disk that does not answer; meanwhile the others do its share."""
    monkeypatch.setattr(examining, "WATCH_EVERY", 0.1)
    hanging = tmp_path / "hanging"
    hanging.write_bytes(b"in the end")
    config = configured(tmp_path, tree, lock_timeout=3.0)
    backups.picker(config, hanging, name="a-first")
    store = MemoryStore(MemoryBucket(ManualClock()))
    with hanging.open("rb") as held, capture_logs() as said:
        fcntl.flock(held, fcntl.LOCK_EX)
        summary = backups.backed_up(config, store)
    assert summary.outcome == "complete"
    named = [line for line in said if line["event"] == "file.hangs"]
    assert [line["path"] for line in named] == [str(hanging)]
    assert summary.files == FILES + 7


_ALONE = """
import sys
from pathlib import Path
from sysbackup.pipeline import examining, picking
from tests.runs.test_examiners import configured
from tests.support import backups
from tests.support.clock import ManualClock
from tests.support.memory_store import MemoryBucket, MemoryStore
examining.CROWD, picking.BATCH = 1, 64
base, tree = map(Path, sys.argv[1:])
print("begun", flush=True)
while True:
    backups.backed_up(configured(base, tree), MemoryStore(MemoryBucket(ManualClock())))
"""


def test_nobody_outlives_a_run_that_is_killed(tree: Path, tmp_path: Path) -> None:
    """At whatever moment: its examiners find their channel closed; nothing is left in the cache but the catalog."""
    chance = random.Random(5)
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", _ALONE, str(tmp_path), str(tree)],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OF_TEST": f"{tmp_path}/"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            until(lambda: len(belonging(tmp_path)) > 1)
            time.sleep(chance.uniform(0, 2))
            process.kill()
        until(lambda: not belonging(tmp_path))
        left = {path.name for path in (tmp_path / "cache").iterdir()}
        assert {name for name in left if not name.startswith("catalog.sqlite")} <= {"run.lock"}


def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_where_no_process_can_be_started_the_run_says_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysbackup.pipeline.seats.own_python", lambda *_: [b"/bin/false"])
    store = MemoryStore(MemoryBucket(ManualClock()))
    with pytest.raises(ProgramError, match="could not be started"):
        backups.backed_up(configured(tmp_path, tree), store)
