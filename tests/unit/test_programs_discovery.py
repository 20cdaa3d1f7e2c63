"""Which files of a programs directory are run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sysbackup.errors import ConfigError
from sysbackup.programs.discovery import find_programs

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Puts a file into the directory and returns its path."""

    def write(name: str, mode: int = 0o755, text: str = "#!/bin/sh\n") -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def passed_over(directory: Path) -> dict[str, str]:
    """Of each file that will not be run and should have been: why."""
    return {os.fsdecode(p.name): p.reason for p in find_programs(directory)[1] if not p.expected}


def test_programs_come_sorted_by_name_with_absolute_paths(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is that of names, also where the directory is given relative to where we are."""
    for name in ("20-b", "10-a", "30 c"):
        put(name)
    monkeypatch.chdir(tmp_path.parent)
    programs, others = find_programs(Path(tmp_path.name))
    assert [(p.name, p.path) for p in programs] == [
        (name, os.fsencode(tmp_path) + b"/" + name) for name in (b"10-a", b"20-b", b"30 c")
    ]
    assert others == []


def test_a_missing_directory_has_no_programs(tmp_path: Path) -> None:
    """A machine may have pickers alone, or snapshotters alone."""
    assert find_programs(tmp_path / "none") == ([], [])


def test_a_directory_that_is_none_is_a_configuration_error(put: Put) -> None:
    """A file in the directory's place is told, not taken for an empty one."""
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        find_programs(put("pickers.d"))


@pytest.mark.parametrize("name", ["README", "readme", "README.rst", "Readme.de", "notes.txt", "10-home.md"])
def test_texts_are_passed_over_as_expected(put: Put, tmp_path: Path, name: str) -> None:
    """They are for people: nobody wonders that they are not run. With its x bit, each is a program."""
    put(name, 0o644, "What these programs are for.\n")
    programs, (text,) = find_programs(tmp_path)
    assert programs == []
    assert (text.name, text.expected) == (os.fsencode(name), True)
    (tmp_path / name).chmod(0o755)
    assert [program.name for program in find_programs(tmp_path)[0]] == [os.fsencode(name)]


def test_a_script_that_lost_its_x_bit_is_no_text(put: Put, tmp_path: Path) -> None:
    """By whatever name: it would be lost from the backup in silence. Nor is a directory, a FIFO, or any other name."""
    for name in ("home", "README.sh", "list.txt"):
        put(name, 0o644)
    put("CMakeLists", 0o644, "no ending that tells\n")
    (tmp_path / "README").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    assert passed_over(tmp_path) == {
        **dict.fromkeys(("home", "README.sh", "list.txt", "CMakeLists"), "it is not executable (chmod +x)"),
        "README": "it is a directory",
        "pipe.txt": "it is not a regular file",
    }


@pytest.mark.parametrize(
    "name", [".hidden", "x~", "#x#", "x.dpkg-old", "x.dpkg-dist", "x.ucf-dist", "x.rpmsave", "x.pacnew", "x.bak"]
)
def test_leftovers_are_passed_over_as_expected(put: Put, tmp_path: Path, name: str) -> None:
    """Nobody wonders that an editor's or a package manager's copy is not run, whatever its mode."""
    put(name, 0o777)
    programs, (other,) = find_programs(tmp_path)
    assert programs == []
    assert (other.name, other.expected) == (name.encode(), True)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (0o775, "it is writable by its group (chmod go-w)"),
        (0o757, "it is writable by everybody (chmod go-w)"),
        (0o644, "it is not executable (chmod +x)"),
    ],
)
def test_files_that_are_unsafe_or_cannot_be_run_are_passed_over(
    put: Put, tmp_path: Path, mode: int, reason: str
) -> None:
    """Who may write a program decides what we run, so that may be nobody else; the reason says what to do."""
    put("program", mode)
    assert passed_over(tmp_path) == {"program": reason}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_only_roots_and_our_own_files_are_run(put: Put, tmp_path: Path) -> None:
    """A file of another user is passed over, and so is another user's link to a file of ours."""
    os.chown(put("theirs"), 12345, 0)
    target = put(".target")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "their link").symlink_to(target)
    os.lchown(tmp_path / "their link", 12345, 0)
    stranger = "belongs to user 12345, who is neither root nor the user running sysbackup"
    assert passed_over(tmp_path) == {
        "theirs": f"it {stranger}",
        "their link": f"it is a symbolic link that {stranger}",
    }
    assert [p.name for p in find_programs(tmp_path)[0]] == [b"link"]


def test_the_target_of_a_link_is_what_counts(put: Put, tmp_path: Path) -> None:
    """Programs may be linked into the directory; the link's own mode says nothing."""
    (tmp_path / "unsafe").symlink_to(put(".unsafe", 0o777))
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").symlink_to("/")
    assert passed_over(tmp_path) == {
        "broken": "it is a symbolic link to nothing",
        "folder": "its target is a directory",
        "loop": "it cannot be examined: Too many levels of symbolic links",
        "unsafe": "its target is writable by everybody (chmod go-w)",
    }


def test_what_is_no_regular_file_is_passed_over(tmp_path: Path) -> None:
    """Directories, and pipes that would block whoever opens them."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert passed_over(tmp_path) == {"folder": "it is a directory", "pipe": "it is not a regular file"}
