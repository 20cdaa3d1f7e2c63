"""How runs end, as other versions have written it: what is on disk and what others read stays what it was."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sysbackup.errors import FormatError
from sysbackup.formats import run_result
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.run_result import Outcome, RunResult, Summary, without_manifest
from sysbackup.model import RunIdentity
from sysbackup.service import history, messages, status_file
from sysbackup.service.messages import Over
from tests.support import backups
from tests.support.clock import START
from tests.support.daemons import Host

# Made by 0.1.0 before the format had a module of its own: real runs and a real daemon, on a clock of 2026.
GOLDEN = Path(__file__).parent / "golden" / "run_results"

LINES = (GOLDEN / "history.jsonl").read_bytes().splitlines(keepends=True)


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def changed(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The line with its JSON changed in place."""
    said = json.loads(line)
    change(said)
    return json.dumps(said).encode()


# ---- what 0.1.0 has written


def test_a_history_is_read_and_would_be_written_again_byte_by_byte() -> None:
    """Complete, with problems, stopped by hand, stopped by the daemon, failed."""
    found = [run_result.read(line) for line in LINES]
    assert [(one.outcome, one.exit_code, one.stored, one.by_hand) for one in found] == [
        ("complete", 0, True, False),
        ("incomplete", 3, True, False),
        ("stopped", 143, False, True),
        ("stopped", 1, False, False),
        ("failed", 1, False, False),
    ]
    assert [run_result.write(one) for one in found] == LINES
    complete = found[0].summary
    assert complete is not None
    assert (complete.files, complete.bytes, complete.entries) == (3, 3011, {"d": 4, "f": 3, "s": 1})
    assert complete.promise == datetime(2026, 12, 10, 5, 30, 4, tzinfo=UTC)


@pytest.mark.parametrize("name", ["complete", "incomplete"])
def test_run_json_and_what_hooks_read_of_a_backup(name: str) -> None:
    """The same keys in the same order."""
    printed = golden(f"{name}.run.json")
    summary = msgspec.json.decode(printed, type=Summary)
    assert run_result.printed(summary) + b"\n" == printed
    assert run_result.end_told(run_result.with_manifest(summary)) == golden(f"{name}.hook.json")


@pytest.mark.parametrize(("line", "name"), [(2, "stopped"), (4, "failed")])
def test_what_hooks_read_of_a_run_without_a_manifest(line: int, name: str) -> None:
    """The same keys in the same order."""
    assert run_result.end_told(run_result.read(LINES[line])) == golden(f"{name}.hook.json")


def test_what_hooks_read_at_the_start() -> None:
    """The working name, and the promise."""
    promise = datetime(2026, 12, 10, 5, 30, 4, tzinfo=UTC)
    started = datetime(2026, 11, 26, 5, 30, 4, 772520, tzinfo=UTC)
    run = RunIdentity("alpha", "20261126T053004Z-c5c340cb", started, promise)
    assert run_result.start_told(run) == golden("started.hook.json")


@pytest.mark.parametrize("name", ["failed", "never"])
def test_trigger_json(name: str) -> None:
    """All of it, of a run that never began, too."""
    printed = golden(f"{name}.trigger.json")
    assert run_result.printed(run_result.read(printed)) + b"\n" == printed


@pytest.mark.parametrize("name", ["running", "waiting"])
def test_a_daemons_status(tmp_path: Path, name: str) -> None:
    """An older daemon that still runs is understood; what is written is what it was."""
    path = tmp_path / "status.json"
    path.write_bytes(golden(f"{name}.status.json"))
    found = status_file.read(path)
    assert found is not None
    assert (found.state, found.last_complete) == (name, run_result.read(LINES[0]))
    status_file.write(path, found)
    assert path.read_bytes() == golden(f"{name}.status.json")


# ---- fewer fields, and more


@pytest.mark.parametrize("line", LINES, ids=["complete", "incomplete", "by-hand", "by-daemon", "failed"])
def test_a_line_that_lacks_a_field_is_that_run_all_the_same(line: bytes) -> None:
    """Whichever it is, of the summary or besides: all else is there."""
    whole = run_result.read(line)
    for name in json.loads(line):
        found = run_result.read(changed(line, lambda said, name=name: said.pop(name)))  # type: ignore[misc]  # a lambda's default
        others = {key for key in whole.__struct_fields__ if key != name}
        assert {key: getattr(found, key) for key in others} == {key: getattr(whole, key) for key in others}
    for name in json.loads(line)["summary"] or {}:
        found = run_result.read(changed(line, lambda said, name=name: said["summary"].pop(name)))  # type: ignore[misc]  # a lambda's default
        others = {key for key in Summary.__struct_fields__ if key != name}
        assert {key: getattr(found.summary, key) for key in others} == {
            key: getattr(whole.summary, key) for key in others
        }


def test_what_a_line_lacks_is_taken_from_what_it_says() -> None:
    """Its summary, its other date; a run of which no end is known has failed."""
    whole = run_result.read(LINES[0])

    def summary_alone(said: dict[str, Any]) -> None:
        for name in [name for name in said if name != "summary"]:
            del said[name]

    assert run_result.read(changed(LINES[0], summary_alone)) == whole
    bare = run_result.read(b'{"started":"2026-11-26T05:30:04Z"}')
    assert (bare.outcome, bare.exit_code, bare.finished) == ("failed", 1, bare.started)
    bare = run_result.read(b'{"outcome":"complete","finished":"2026-11-26T05:30:04Z"}')
    assert (bare.exit_code, bare.started) == (0, bare.finished)


@pytest.mark.parametrize("line", LINES, ids=["complete", "incomplete", "by-hand", "by-daemon", "failed"])
def test_unknown_fields_are_passed_over(line: bytes) -> None:
    """On every level; a number of the format that is known, or was before, is none of them."""

    def more(said: dict[str, Any]) -> None:
        said |= {"format": 1, "mood": "good", "more": [{"a": None}]}
        if said["summary"]:
            said["summary"] |= {"format": 1, "carbon": 1.5}
            said["summary"]["examined"]["chunks"] = 7

    found = run_result.read(changed(line, more))
    assert msgspec.structs.replace(found, format=msgspec.UNSET) == run_result.read(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"outcome":"complete","exit_code":0,"host":"alpha"}',
        b'{"started":"2026-11-26T05:30:04"}',
        b'{"started":"9999-12-31T23:59:59-12:00"}',
        b'{"started":"2026-11-26T05:30:04Z","exit_code":"1"}',
        b'{"started":"2026-11-26T05:30:04Z","format":"one"}',
    ],
)
def test_what_is_no_result_is_refused(line: bytes) -> None:
    """No date, a date that cannot be reckoned with, another type; it is not said to be a later version's."""
    with pytest.raises(FormatError) as raised:
        run_result.read(line)
    assert not isinstance(raised.value, LaterFormat)


@given(st.recursive(st.none() | st.integers() | st.text() | st.booleans(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from([*RunResult.__struct_fields__, *Summary.__struct_fields__]), x)))  # fmt: skip
def test_whatever_a_line_says_it_is_a_result_or_refused(said: object) -> None:
    """Nothing else comes of reading."""
    try:
        found = run_result.read(json.dumps(said).encode())
    except FormatError:
        return
    assert run_result.read(run_result.write(found)) == found


# ---- a later format


def later(said: dict[str, Any]) -> None:
    """What nobody can know yet: other types, and another meaning."""
    said |= {"format": 99, "started": 1764135004, "outcome": {"complete": True}}


def only_numbered(said: dict[str, Any]) -> None:
    said["format"] = 99


@pytest.mark.parametrize("change", [later, only_numbered])
def test_a_later_format_is_named_and_not_guessed_at(change: Callable[[dict[str, Any]], None]) -> None:
    """Even where each field has a type that is known."""
    with pytest.raises(LaterFormat, match=r"later version of sysbackup \(format 99, this one reads 1\)"):
        run_result.read(changed(LINES[0], change))


@pytest.mark.parametrize("change", [later, only_numbered])
def test_a_history_with_later_lines_says_so_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> None:
    """The others are there; going back to an older version loses no line, also where the history is shortened."""
    config = backups.configured(tmp_path)
    config.state.mkdir()
    path = history.history_path(config)
    strange = [changed(line, change) + b"\n" for line in LINES[:2]]
    path.write_bytes(LINES[4] + strange[0] + LINES[0] + strange[1])
    told: list[str] = []
    found = history.recall(config, later=told.append)
    assert [one.outcome for one in found] == ["complete", "failed"]
    (reason,) = told
    assert reason.startswith(f"2 runs are left out, which {path} tells of: ")
    assert "written by a later version of sysbackup (format 99, this one reads 1)" in reason
    with capture_logs() as log:
        past, _ = history.recall_past(config)
    assert past.complete == run_result.read(LINES[0])
    assert [(line["event"], line["log_level"]) for line in log] == [("history.later", "warning")]
    monkeypatch.setattr(history, "KEPT", 2)
    history.remember(config, run_result.read(LINES[2]))
    assert path.read_bytes() == strange[1] + LINES[2]


def test_a_word_of_a_later_version_is_not_understood() -> None:
    """The process of a run may be newer than its daemon: what is not known is no message."""
    line = messages.write(Over(run_result.read(LINES[0])))
    assert messages.read(line) == Over(run_result.read(LINES[0]))
    with pytest.raises(msgspec.DecodeError, match="format 99"):
        messages.read(changed(line, lambda said: said["ended"].update(format=99)))


def test_status_where_the_history_was_written_by_a_later_version(tmp_path: Path) -> None:
    """People, and monitoring, are told what is left out of what they see."""
    host = Host(tmp_path, None)
    host.state.mkdir()
    (host.state / "history.jsonl").write_bytes(LINES[0] + changed(LINES[1], later) + b"\n")
    done = host.call("status")
    assert "was written by a later version of sysbackup (format 99, this one reads 1)" in done.stdout
    assert done.stderr == ""
    said = json.loads(host.call("status", "--json").stdout)
    assert said["last"]["outcome"] == "complete"
    assert any("1 run is left out" in warning for warning in said["warnings"])


def test_status_and_trigger_where_the_daemon_is_of_a_later_version(tmp_path: Path) -> None:
    """Not 'no daemon runs', and no crash: what is known of runs is shown, and the daemon is not signalled."""
    host = Host(tmp_path, None)
    host.state.mkdir()
    host.runtime.mkdir()
    (host.state / "history.jsonl").write_bytes(LINES[0])
    path = host.runtime / "status.json"
    words = f"{path} was written by a later version of sysbackup (format 99, this one reads 1)"
    for change in (later, only_numbered):
        path.write_bytes(changed(golden("waiting.status.json"), change))
        done = host.call("status", "--json")
        said = json.loads(done.stdout)
        assert (done.returncode, said["verdict"], said["daemon"], said["pid"]) == (2, "failing", "unknown", None)
        assert said["reasons"][0].startswith(f"nothing is known of the daemon: {words}")
        assert said["last"]["outcome"] == "complete"
        assert words in host.call("status").stdout
        done = host.call("trigger")
        assert (done.returncode, words in done.stderr) == (69, True)


@pytest.mark.parametrize("lacking", ["asked", "current", "last", "next", "refused", "stale_after", "conf", "format"])
def test_a_status_that_lacks_something_is_one(tmp_path: Path, lacking: str) -> None:
    """A daemon of another version runs, and may be asked; one that names no process is none."""
    path = tmp_path / "status.json"
    path.write_bytes(changed(golden("running.status.json"), lambda said: said.pop(lacking)))
    found = status_file.read(path)
    assert found is not None
    assert (found.pid, found.state) == (486, "running")
    path.write_bytes(changed(golden("running.status.json"), lambda said: said.pop("pid")))
    assert status_file.read(path) is None


# ---- a manifest that may be stored


def test_the_name_of_a_manifest_that_may_be_stored_is_said_where_there_is_one() -> None:
    """It is a field of its own, since a program must know; other lines are as they always were."""
    ended: dict[str, Any] = {"host": "alpha", "run": "r", "started": START, "finished": START}
    result = without_manifest(Outcome.STOPPED, 143, "stopped", sent_as="r-and-more", **ended)
    assert run_result.read(run_result.write(result)) == result
    assert json.loads(run_result.write(result))["sent_as"] == "r-and-more"
    assert "sent_as" not in json.loads(run_result.write(without_manifest(Outcome.STOPPED, 143, "stopped", **ended)))
    assert "sent_as" not in json.loads(run_result.end_told(result))
