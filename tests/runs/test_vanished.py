"""What is gone when it is to be read is a note; what is there and cannot be read is a problem."""

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sysbackup.cli.display import show_summary
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest
from sysbackup.formats.run_result import Summary
from sysbackup.pipeline import examiner
from tests.support import backups
from tests.support.memory_store import MemoryBucket, MemoryStore

MIB = 1 << 20


class Meddling(Owners):
    """The name service of a machine on which something happens just when the first owner is looked up."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens: list[Callable[[], object]] = [happens]
        self._lock = threading.Lock()

    def user(self, uid: int) -> str | int:
        with self._lock:
            if self._happens:
                self._happens.pop()()
        return super().user(uid)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(MemoryBucket())


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen in the next run, after its first path was looked at and before any file is opened."""

    def set_up(happens: Callable[[], object]) -> None:
        monkeypatch.setattr(examiner, "Owners", lambda: Meddling(happens))

    return set_up


def said_of(store: MemoryStore, summary: Summary) -> dict[str, manifest.Log]:
    return backups.problems(backups.entries(store, summary))


def test_a_file_that_is_gone_is_a_note(store: MemoryStore, tmp_path: Path) -> None:
    """Status 0, for nothing that exists is lacking; it is named in summary, manifest and on the terminal."""
    config = backups.configured(tmp_path)
    (tmp_path / "stays").write_text("here")
    gone = [tmp_path / f"gone{n}" for n in range(12)]
    below = tmp_path / "stays" / "below"
    backups.picker(config, tmp_path / "stays", *gone, below)
    summary = backups.backed_up(config, store)
    assert (summary.outcome, summary.exit_code, summary.problems, summary.notes) == ("complete", 0, 0, 13)
    assert [note["path"] for note in summary.first_notes] == [str(path) for path in gone[:10]]
    assert {note["event"] for note in summary.first_notes} == {"file.vanished"}
    said = backups.entries(store, summary)
    assert bytes(tmp_path / "stays") in backups.nodes(said)
    assert backups.problems(said).keys() == {str(path) for path in [*gone, below]}
    end = said[-1]
    assert isinstance(end, manifest.End)
    assert end.problems == 0
    text = io.StringIO()
    show_summary(Console(file=text, width=80), summary)
    assert "is complete" in text.getvalue()
    assert "13 picked paths not there to be read" in text.getvalue()
    assert str(gone[0]) in text.getvalue()
    assert "and 8 more" in text.getvalue()


@pytest.mark.parametrize("files", [2, 1000])
def test_a_picker_of_which_everything_is_missing_is_a_problem(store: MemoryStore, tmp_path: Path, files: int) -> None:
    """A file system that is not mounted makes no complete backup; one problem names the picker, however many paths."""
    config = backups.configured(tmp_path)
    (tmp_path / "stays").write_text("here")
    backups.picker(config, tmp_path / "stays", tmp_path / "gone")
    backups.picker(config, *(tmp_path / "mnt" / f"{n}" for n in range(files)), name="mounted")
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.problems, summary.notes) == (3, 1, files + 1)
    (problem,) = summary.first_problems
    assert problem["path"] == "mounted"
    assert "is a file system not mounted?" in problem["reason"]
    assert ("1,000" in problem["reason"]) == (files == 1000)
    end = backups.entries(store, summary)[-1]
    assert isinstance(end, manifest.End)
    assert end.problems == 1
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt" / "0").write_text("mounted again")
    assert backups.backed_up(config, store).exit_code == 0


def test_a_picker_of_one_file_that_is_missing_is_no_problem(store: MemoryStore, tmp_path: Path) -> None:
    """It may have gone between the picker's word and the reading, as any file may."""
    config = backups.configured(tmp_path)
    backups.picker(config, tmp_path / "gone")
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.notes) == (0, 1)


def test_a_picker_of_nothing_is_no_problem(store: MemoryStore, tmp_path: Path) -> None:
    """Nothing that it printed is missing."""
    config = backups.configured(tmp_path)
    backups.picker(config)
    assert backups.backed_up(config, store).exit_code == 0


def test_a_file_taken_for_a_directory_is_a_problem(store: MemoryStore, tmp_path: Path) -> None:
    """It is there, and a slash too many keeps it out of the backup: nobody may take that for gone."""
    config = backups.configured(tmp_path)
    (tmp_path / "file").write_text("here")
    backups.picker(config, f"{tmp_path}/file/")
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.notes) == (3, 0)
    assert [problem["path"] for problem in summary.first_problems] == [f"{tmp_path}/file/"]


def test_a_directory_that_another_takes_the_place_of_is_looked_up_again(
    store: MemoryStore, tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """A deployment renames the new tree into place while the old one is held open: its files are backed up."""
    config = backups.configured(tmp_path)
    for name in ("now", "next"):
        (tmp_path / name).mkdir()
        for n in range(5):
            (tmp_path / name / f"{n}").write_text(f"{name} {n}")

    def deploy() -> None:
        (tmp_path / "now").rename(tmp_path / "old")
        (tmp_path / "next").rename(tmp_path / "now")
        for path in (tmp_path / "old").iterdir():
            path.unlink()
        (tmp_path / "old").rmdir()

    meanwhile(deploy)
    backups.picker(config, *(tmp_path / "now" / f"{n}" for n in range(5)))
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.notes, summary.files) == (0, 0, 5)
    assert not backups.restored(store, summary, tmp_path / "back", spool=tmp_path).problems
    back = Path(f"{tmp_path}/back{tmp_path}/now")
    assert {path.name: path.read_text() for path in back.iterdir()} == {f"{n}": f"next {n}" for n in range(5)}


def test_a_directory_that_goes_with_all_that_is_in_it_is_a_note_for_each_path(
    store: MemoryStore, tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """Files that were looked at, files of which the lookup is yet to come; a file stands where their directory was."""
    config = backups.configured(tmp_path)
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    paths = [tmp_path / "tree" / "deep" / f"{n}" for n in range(5)]
    for path in paths:
        path.write_text("x")

    def go() -> None:
        for path in paths:
            path.unlink()
        (tmp_path / "tree" / "deep").rmdir()
        (tmp_path / "tree").rmdir()
        (tmp_path / "tree").write_text("a file now")

    meanwhile(go)
    backups.picker(config, *paths, tmp_path / "tree")
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.notes, summary.files) == (0, 5, 1)
    assert said_of(store, summary).keys() == {str(path) for path in paths}


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_file_that_something_else_replaces_is_what_it_is_now(
    store: MemoryStore, tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None], kind: str
) -> None:
    """Neither lost nor a problem: it is looked at again; a link is followed as if it had always been one."""
    config = backups.configured(tmp_path)
    path, target = tmp_path / "path", tmp_path / "target"
    path.write_text("a file")
    target.write_text("what the link leads to")

    def replace() -> None:
        path.unlink()
        if kind == "link":
            path.symlink_to(target)
        elif kind == "directory":
            path.mkdir()
        else:
            os.mkfifo(path)

    meanwhile(replace)
    backups.picker(config, path)
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.notes) == (0, 0)
    nodes = backups.nodes(backups.entries(store, summary))
    assert nodes[bytes(path)].__struct_config__.tag == {"link": "l", "directory": "d", "fifo": "p"}[kind]
    assert (bytes(target) in nodes) == (kind == "link")


def test_a_large_file_that_goes_before_it_is_streamed_is_a_note(
    store: MemoryStore, tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """It was looked at, and waits for its turn."""
    config = backups.configured(tmp_path)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(33 * MIB)
    meanwhile(large.unlink)
    backups.picker(config, large)
    summary = backups.backed_up(config, store)
    assert (summary.exit_code, summary.notes, summary.problems) == (0, 1, 0)
    assert said_of(store, summary).keys() == {str(large)}


def test_a_readme_among_the_programs_is_no_problem_of_a_run(store: MemoryStore, tmp_path: Path) -> None:
    """A script beside it that has lost its x bit is one."""
    config = backups.configured(tmp_path)
    backups.picker(config, "/etc/hostname")
    (config.pickers / "README").write_text("Pickers of this machine.\n")
    assert backups.backed_up(config, store).exit_code == 0
    lost = backups.picker(config, "/etc/passwd", name="lost")
    lost.chmod(0o644)
    summary = backups.backed_up(config, store)
    assert [problem["path"] for problem in summary.first_problems] == [str(lost)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_is_closed_is_a_problem_still(store: MemoryStore, tmp_path: Path) -> None:
    """Whether something is in a directory that nobody lets us look into cannot be known."""
    config = backups.configured(tmp_path)
    (tmp_path / "closed").mkdir(mode=0)
    backups.picker(config, tmp_path / "closed" / "file")
    summary = backups.backed_up(config, store)
    (tmp_path / "closed").chmod(0o700)
    assert (summary.exit_code, summary.notes, summary.problems) == (3, 0, 1)
