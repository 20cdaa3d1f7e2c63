"""The history of runs: kept whatever happens to the file."""

import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sysbackup.config.sections import Config
from sysbackup.errors import SpoolError
from sysbackup.formats.run_result import Counts, Outcome, RunResult, Summary, with_manifest, without_manifest
from sysbackup.service import history
from sysbackup.service.forecast import Forecast, Yardstick
from tests.support import backups
from tests.support.clock import START
from tests.unit.test_hooks import summary

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def ended(number: int, reason: str | None = None) -> RunResult:
    at = NOON + timedelta(hours=number)
    return RunResult(
        outcome="failed", exit_code=1, host="alpha", run=f"{number}", started=at, finished=at, reason=reason or "late"
    )


def numbers(found: list[RunResult]) -> list[int]:
    return [int(one.run or "-1") for one in found]


def test_runs_are_remembered_the_latest_first(tmp_path: Path) -> None:
    """As many as asked for; where there is no history it is empty."""
    config = backups.configured(tmp_path)
    assert history.recall(config) == []
    for number in range(5):
        history.remember(config, ended(number))
    assert history.recall(config) == [ended(number) for number in (4, 3, 2, 1, 0)]
    assert numbers(history.recall(config, 2)) == [4, 3]
    assert history.recall(config, 0) == []


def test_its_owner_and_group_alone_may_read_it(tmp_path: Path) -> None:
    """It names files."""
    config = backups.configured(tmp_path)
    old = os.umask(0)
    try:
        history.remember(config, ended(1))
    finally:
        os.umask(old)
    assert stat.S_IMODE(history.history_path(config).stat().st_mode) == 0o640
    assert stat.S_IMODE(config.state.stat().st_mode) == 0o750


@pytest.mark.parametrize(
    "rubbish", [b'{"outcome": "fai', b"\0\0\0\0", b"\n\n", b"[" * 100_000, b"\xff\n{}\n", b'{"outcome":1}\n']
)
def test_a_damaged_line_costs_itself_alone(tmp_path: Path, rubbish: bytes) -> None:
    """A crash, a full disk: what was remembered before and after it is still known."""
    config = backups.configured(tmp_path)
    history.remember(config, ended(1))
    with history.history_path(config).open("ab") as file:
        file.write(rubbish)
    assert numbers(history.recall(config)) == [1]
    history.remember(config, ended(2))
    history.remember(config, ended(3))
    assert numbers(history.recall(config)) == [3, 2, 1]


def test_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays within bounds, by number and by size; the latest are always there."""
    config = backups.configured(tmp_path)
    monkeypatch.setattr(history, "KEPT", 10)
    for number in range(100):
        history.remember(config, ended(number))
        assert numbers(history.recall(config))[0] == number
    assert len(history.history_path(config).read_bytes().splitlines()) <= 20
    assert numbers(history.recall(config, 10)) == list(range(99, 89, -1))


def test_long_lines_do_not_grow_it_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasons may be long: the size is bounded too."""
    config = backups.configured(tmp_path)
    monkeypatch.setattr(history, "_TAIL", 100_000)
    for number in range(60):
        history.remember(config, ended(number, "x" * 10_000))
        assert history.history_path(config).stat().st_size <= 2 * 100_000 + 2 * 11_000
        assert numbers(history.recall(config))[0] == number
    assert len(numbers(history.recall(config))) >= 8


def hostile(number: int) -> RunResult:
    """A run with problems at the longest paths that there are, of bytes that take the most room."""
    at = NOON + timedelta(hours=number)
    path = "/srv/" + "\\x1b" * 4000 + "é" * 100
    found = [{"event": "file.skipped", "path": path, "reason": "\x00" * 5000}] * 50
    return with_manifest(summary("incomplete", finished=at, problems=5000, first_problems=found))


def test_runs_with_many_problems_do_not_crowd_out_the_others(tmp_path: Path) -> None:
    """However long the names are that somebody gives to files: a thousand runs are remembered."""
    config = backups.configured(tmp_path)
    complete = with_manifest(summary())
    history.remember(config, complete)
    history.remember(config, hostile(1))
    path = history.history_path(config)
    line = path.read_bytes().splitlines(keepends=True)[-1]
    with path.open("ab") as file:
        file.writelines([line] * (history.KEPT - 3))
    history.remember(config, hostile(2))
    found = history.recall(config)
    assert len(found) == history.KEPT
    assert found[-1] == complete == history.recall_past(config)[0].complete


def test_lines_of_before_there_were_notes_are_read(tmp_path: Path) -> None:
    """An upgrade forgets no run."""
    config = backups.configured(tmp_path)
    history.remember(config, with_manifest(summary(notes=3, first_notes=[{"event": "e", "path": "/p", "reason": "r"}])))
    path = history.history_path(config)
    line = json.loads(path.read_bytes())
    assert line["summary"].pop("notes") == 3
    assert line["summary"].pop("first_notes") == []
    path.write_text(json.dumps(line) + "\n")
    assert history.recall(config) == [with_manifest(summary())]


def test_what_is_remembered_of_problems_can_be_read(tmp_path: Path) -> None:
    """Ten of them, their number, and of a very long path the beginning and the end. Any other can be copied whole."""
    config = backups.configured(tmp_path)
    names = ["/srv/" + "long/" * 500 + "file", "/srv/" + "long/" * 190, *(f"/srv/{n}" for n in range(48))]
    found = [{"event": "file.skipped", "path": name, "reason": "permission denied"} for name in names]
    history.remember(config, with_manifest(summary("incomplete", problems=1234, first_problems=found)))
    (remembered,) = history.recall(config)
    assert remembered.summary is not None
    assert remembered.summary.problems == 1234
    assert remembered.summary.first_problems[1:] == found[1:10]
    path = remembered.summary.first_problems[0]["path"]
    assert path.startswith("/srv/long/long/")
    assert path.endswith("long/file")
    assert 1000 < len(path) <= 1024
    whole = with_manifest(summary())
    for ended in (remembered, hostile(1), whole):
        assert history.brief(history.brief(ended)) == history.brief(ended)
    assert history.brief(whole) == whole


def test_the_roots_umask_does_not_take_it_from_monitoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sysbackup run` by root under 077 makes it for the group all the same; what others make of it then holds."""
    monkeypatch.setattr(history, "KEPT", 2)
    config = backups.configured(tmp_path)
    path = history.history_path(config)
    old = os.umask(0o077)
    try:
        history.remember(config, ended(1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o640, 0o600):
            path.chmod(mode)
            for number in range(10):
                history.remember(config, ended(number))
            assert len(path.read_bytes().splitlines()) < 10  # it has been made anew
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old)


def test_many_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's run and `sysbackup run` may end at the same moment, while it is being shortened, too."""
    config = backups.configured(tmp_path)
    monkeypatch.setattr(history, "KEPT", 30)

    def remember(first: int) -> None:
        for number in range(first, first + 20):
            history.remember(config, ended(number))

    threads = [threading.Thread(target=remember, args=(1000 * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = numbers(history.recall(config))
    assert len(found) == len(set(found)) >= 30
    assert {1019, 2019, 3019, 4019} & set(found)
    last = [line for line in history.history_path(config).read_bytes().splitlines() if not line.startswith(b"{")]
    assert last == []


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Who may write to the directory shall not have us write elsewhere."""
    config = backups.configured(tmp_path)
    config.state.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    history.history_path(config).symlink_to(victim)
    with pytest.raises(SpoolError, match=r"history\.jsonl"):
        history.remember(config, ended(1))
    assert victim.read_text() == "untouched"


def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    """By name, with what is safe and what to do."""
    config = backups.configured(tmp_path)
    config.state.write_text("a file")
    with pytest.raises(SpoolError, match=r"backup itself is not affected.*SYSBACKUP_STATE_DIR"):
        history.remember(config, ended(1))
    with pytest.raises(SpoolError, match=str(config.state)):
        history.recall(config)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, at the state directory's place."""
    place = tmp_path / "state"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_costs_the_run_that_did_not_fit_alone(tmp_path: Path, small_disk: Path) -> None:
    """The line may be cut off in the middle; what comes when there is room again is whole."""
    config = backups.configured(tmp_path)
    history.remember(config, ended(1, "x" * 5000))
    (small_disk / "filler").write_bytes(bytes(4096 * os.statvfs(small_disk).f_bavail))
    with pytest.raises(SpoolError, match="No space left"):
        history.remember(config, ended(2, "x" * 9000))
    assert numbers(history.recall(config)) == [1]
    (small_disk / "filler").unlink()
    history.remember(config, ended(3))
    assert numbers(history.recall(config)) == [3, 1]


def test_a_reason_that_is_no_text_is_remembered(tmp_path: Path) -> None:
    """An error names a path as the system gave it; its bytes need not be UTF-8."""
    config = backups.configured(tmp_path)
    reason = f"cannot read {os.fsdecode(b'/etc/b' + bytes([0xFC]) + b'ckup')}"
    ended = without_manifest(Outcome.FAILED, 1, reason, host="alpha", run=None, started=START, finished=START)
    history.remember(config, ended)
    assert [found.reason for found in history.recall(config)] == ["cannot read /etc/b\\udcfcckup"]


# ---- what a run is judged by


HELD = Counts(5, 3000, 2000, 700)


def remembered(config: Config, *summaries: Summary) -> None:
    for said in summaries:
        history.remember(config, with_manifest(said))


def alpha(base: Path) -> Config:
    return backups.configured(base, {"host": "alpha"})


def test_the_last_complete_run_of_this_host_is_the_yardstick(tmp_path: Path) -> None:
    """Not another host's, nor one that lacks something, nor an attempt; how it was run is known, too."""
    config = alpha(tmp_path)
    assert history.yardstick(config) is None
    remembered(config, summary(examined=Counts(1)), summary(examined=HELD, rescan=True))
    remembered(config, summary("incomplete", examined=Counts(2)), summary(host="beta", examined=Counts(3)))
    history.remember(config, ended(1))
    assert history.yardstick(config) == Yardstick(HELD, 90.0, rescan=True)
    for number in range(100):
        history.remember(config, ended(number))
    assert history.yardstick(config) == Yardstick(HELD, 90.0, rescan=True)


def test_where_none_was_complete_it_is_the_last_that_stored_a_manifest(tmp_path: Path) -> None:
    """A file that can never be read would keep every run from telling how far it is."""
    config = alpha(tmp_path)
    remembered(config, summary("incomplete", examined=Counts(1)), summary("incomplete", examined=HELD))
    assert history.yardstick(config) == Yardstick(HELD, 90.0)
    remembered(config, summary(host="beta"))
    history.remember(config, ended(1))
    assert history.yardstick(config) == Yardstick(HELD, 90.0)


def test_lines_of_before_are_a_yardstick(tmp_path: Path) -> None:
    """They do not say what was examined: what the manifest held is near it."""
    config = alpha(tmp_path)
    remembered(config, summary())
    path = history.history_path(config)
    line = json.loads(path.read_bytes())
    del line["summary"]["examined"], line["summary"]["rescan"]
    path.write_text(json.dumps(line) + "\n")
    assert history.yardstick(config) == Yardstick(Counts(3, 3000, 2000), 90.0)


@pytest.mark.parametrize("number", [-1, -(10**30), 10**30, 0, 2**62])
def test_no_number_in_a_line_does_harm(tmp_path: Path, number: int) -> None:
    """A line may have been changed by hand or a bad disk and still be one."""
    config = alpha(tmp_path)
    remembered(config, summary(examined=HELD))
    path = history.history_path(config)
    line = json.loads(path.read_bytes())
    line["summary"] |= {"files": number, "bytes": number, "read": number, "seconds": number}
    line["summary"]["examined"] = {"files": number, "bytes": number, "read": number, "snapshots": number}
    path.write_text(json.dumps(line) + "\n")
    forecast = Forecast(history.yardstick(config))
    for second in range(20):
        outlook = forecast.look(Counts(second, second, second, second), second, gathered=second > 15)
        assert outlook.percent is None or 0 <= outlook.percent <= 99


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 5000, b'{"outcome": "complete"', b"[" * 100_000, b"\xff" * 100])
def test_a_history_that_cannot_be_read_is_no_yardstick(tmp_path: Path, rubbish: bytes) -> None:
    """Damaged, or not even a file: no error."""
    config = alpha(tmp_path)
    config.state.mkdir(parents=True)
    path = history.history_path(config)
    path.write_bytes(rubbish)
    assert history.yardstick(config) is None
    path.unlink()
    path.mkdir()
    assert history.yardstick(config) is None
