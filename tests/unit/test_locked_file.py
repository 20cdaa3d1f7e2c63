"""Lock files: one holder, none left behind."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sysbackup.disk.locked_file import held, held_in_turn
from sysbackup.errors import BusyError, SpoolError

HOLDER = (
    "import pathlib, sys; from sysbackup.disk.locked_file import held\n"
    "with held(pathlib.Path(sys.argv[1]), busy='', elsewhere=''):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


def test_one_holds_it_and_others_are_told(tmp_path: Path) -> None:
    """Who comes second hears what the caller has to say about that; afterwards it can be had again."""
    path = tmp_path / "run.lock"
    with held(path, busy="", elsewhere=""):
        refused = pytest.raises(BusyError, match="another run is in progress")
        with refused, held(path, busy="another run is in progress", elsewhere=""):
            pytest.fail("it was held twice")
        with pytest.raises(BusyError), held(path, busy="", elsewhere=""):  # nor has the first refusal given it away
            pytest.fail("it was held twice")
    with held(path, busy="", elsewhere=""):
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_error_inside_gives_it_back(tmp_path: Path) -> None:
    """And comes out as itself."""
    path = tmp_path / "run.lock"
    with pytest.raises(KeyError), held(path, busy="", elsewhere=""):
        raise KeyError
    with held(path, busy="", elsewhere=""):
        pass


def test_a_killed_holder_leaves_none(tmp_path: Path) -> None:
    """The lock is the kernel's."""
    path = tmp_path / "run.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError), held(path, busy="", elsewhere=""):
            pytest.fail("it was held twice")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with held(path, busy="", elsewhere=""):
        pass


def test_a_program_that_is_started_meanwhile_does_not_inherit_it(tmp_path: Path) -> None:
    """A hook's daemon that outlives us would keep it for good."""
    path = tmp_path / "run.lock"
    with held(path, busy="", elsewhere=""):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with held(path, busy="", elsewhere=""):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_link_of_that_name_is_not_followed(tmp_path: Path) -> None:
    """Nothing is made where it leads."""
    path = tmp_path / "run.lock"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), held(path, busy="", elsewhere=""):
        pytest.fail("it was followed")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what failed, and what to do."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", refuse)
    refused = pytest.raises(SpoolError, match=r"cannot lock .*run\.lock: Function not implemented\. Name another")
    with refused, held(tmp_path / "run.lock", busy="", elsewhere="Name another"):
        pytest.fail("it was held")


def test_who_has_time_waits_for_the_turn(tmp_path: Path) -> None:
    """Two that add to one file at the same time do so one after the other."""
    path = tmp_path / "history.lock"
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with held_in_turn(path):
            order.append("second")

    with held_in_turn(path):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait(30)
        thread.join(0.05)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
