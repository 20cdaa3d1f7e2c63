"""What a command prints and cannot: its exit status tells of what it did, and a line on standard error of the rest."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from sysbackup.service import history
from tests.support import backups, daemons
from tests.support.servers import Server

pytestmark = pytest.mark.lengthy

Call = Callable[..., "subprocess.CompletedProcess[bytes]"]

ENCODINGS = {
    "ascii, strictly": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "the C locale": {"LC_ALL": "C", "LANG": "C"},
    "the C locale as it was": {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}

PLACES = {
    "a full disk": '"$@" >/dev/full',
    "a full disk for both": '"$@" >/dev/full 2>/dev/full',
    "nobody": '{ "$@"; echo $? >status; } | :; exit $(cat status)',
    "a closed descriptor": '"$@" >&-',
    "closed descriptors": '"$@" <&- >&- 2>&-',
    "a reader that leaves early": '{ "$@"; echo $? >status; } | head -c 1 >/dev/null; exit $(cat status)',
}


@pytest.fixture
def host(moto: Server, tmp_path: Path) -> daemons.Host:
    """A machine with a file whose name no ASCII has, and one backup."""
    host = daemons.Host(tmp_path, uvloop.run(moto.bucket()))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "grün…").write_bytes(os.urandom(3000))
    host.program("pickers.d", "find", f"#!/bin/sh\nexec find '{tree}' -print0\n")
    assert host.call("run").returncode == 0
    return host


def calls(host: daemons.Host) -> dict[str, tuple[list[str], int, int]]:
    """Commands with their status where all is well, and where nothing can be printed."""
    return {
        "run": (["run"], 0, 0),
        "run --json": (["run", "--json"], 0, 0),
        "status": (["status"], 2, 2),  # no daemon runs
        "status --json": (["status", "--json"], 2, 2),
        "check-config": (["check-config"], 0, 0),
        "check-config --json": (["check-config", "--json"], 0, 0),
        "restore": (["restore", "latest", "--target", str(host.base / "back")], 0, 0),
        "list": (["list"], 0, 1),  # what they are for is to print
        "list --json": (["list", "--json"], 0, 1),
        "ls": (["ls", "latest"], 0, 1),
        "catalog info": (["catalog", "info"], 0, 1),
        "--version": (["--version"], 0, 1),
    }


def shell(host: daemons.Host, script: str, arguments: list[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run the command as `script` says, in the machine's directory."""
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *daemons.command(*arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=2 * daemons.SOON,
        check=False,
        cwd=host.base,
        env=host.environ(PYTHONPATH=str(daemons.ROOT)),
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_encoding_is_too_poor(host: daemons.Host, encoding: str) -> None:
    """Every command ends with its own status, and says what it has to say."""
    for name, (arguments, status, _) in calls(host).items():
        done = subprocess.run(
            daemons.command(*arguments),
            capture_output=True,
            timeout=2 * daemons.SOON,
            check=False,
            cwd=daemons.ROOT,
            env={**host.environ(), **ENCODINGS[encoding]},
        )
        assert (name, done.returncode) == (name, status), done.stderr.decode(errors="replace")
        assert done.stdout, name
        assert b"Traceback" not in done.stderr, name
    assert {ended.outcome for ended in history.recall(backups.configured(host.base))} == {"complete"}


@pytest.mark.parametrize("place", PLACES)
def test_where_the_output_goes_changes_nothing_that_was_done(host: daemons.Host, place: str) -> None:
    """A backup that is complete is; what exists to be printed alone has failed where it was not."""
    for name, (arguments, well, badly) in calls(host).items():
        done = shell(host, PLACES[place], arguments)
        said = done.stderr.decode()
        assert "Traceback" not in said, (name, said)
        assert "this is a bug" not in said, (name, said)
        if place.startswith("a full disk"):
            assert (name, done.returncode) == (name, badly), said
            if place == "a full disk":
                assert said.count("sysbackup: cannot write to standard output: No space left on device") == 1, name
        elif place.startswith(("closed", "a closed")):
            assert (name, done.returncode) == (name, well), said
        else:  # as with any command: who left has what was wanted
            assert (name, done.returncode) in ((name, well), (name, 141)), said
            assert badly or done.returncode == well, (name, done.returncode)
    assert {ended.outcome for ended in history.recall(backups.configured(host.base))} == {"complete"}


def test_a_run_with_problems_says_so_wherever_it_prints(host: daemons.Host) -> None:
    """Status 3 is no more lost than 0 is."""
    host.program("pickers.d", "bad", "#!/bin/sh\nexit 5\n")
    assert shell(host, PLACES["a full disk"], ["run"]).returncode == 3


def test_mistakes_of_a_configuration_are_told_where_nothing_can_be_printed(host: daemons.Host) -> None:
    """Their status is 78, with a line for each."""
    host.configure({"content": {"pack_size": "never"}})
    done = shell(host, PLACES["a full disk"], ["check-config"])
    assert done.returncode == 78
    assert b"pack_size" in done.stderr


def test_a_snapshot_that_cannot_be_written_is_said(host: daemons.Host) -> None:
    """It is data that somebody waits for: status 1, and why."""
    host.program("snapshots.d", "dump", "#!/bin/sh\necho data >&$1\n")
    assert host.call("run").returncode == 0
    done = shell(host, PLACES["a full disk"], ["restore-snapshot", "latest", "dump"])
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["sysbackup: cannot write to standard output: No space left on device"]


def test_json_is_the_same_in_every_encoding(host: daemons.Host) -> None:
    """It is UTF-8 by its own rules (RFC 8259)."""
    found = [json.loads(host.call("run", "--json", **environ).stdout) for environ in ENCODINGS.values()]
    assert {summary["outcome"] for summary in found} == {"complete"}
