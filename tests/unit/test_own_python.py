"""Our own Python, started once more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sysbackup.programs.own_python import own_python


def note(path: str, *words: str) -> None:
    """Called in the process that was started: where its modules come from, and what it was told."""
    with open(path, "w") as file:
        file.write("\n".join([sys.executable, *sys.path, *words]))


def test_it_has_our_modules_and_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that were found by a path of our own, and words that a shell would take apart."""
    (tmp_path / "only_here.py").write_text("from tests.unit.test_own_python import note\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    command = own_python("only_here:note", str(tmp_path / "noted"), "two words", "", "-c")
    subprocess.run(command, check=True, cwd="/")
    noted = (tmp_path / "noted").read_text().split("\n")
    assert noted == [sys.executable, *(os.path.abspath(entry) for entry in sys.path), "two words", "", "-c"]


def test_nothing_is_looked_for_where_it_is_started(tmp_path: Path) -> None:
    """Who may write to the working directory could have us run anything that way."""
    for name in ("importlib", "sysbackup", "os", "re"):
        (tmp_path / f"{name}.py").write_text("import sys; sys.exit(9)")
    made = tmp_path / "made"
    subprocess.run(own_python("shutil:copyfile", "/dev/null", str(made)), check=True, cwd=tmp_path)
    assert made.read_bytes() == b""
