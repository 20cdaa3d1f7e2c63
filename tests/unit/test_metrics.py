"""What Prometheus is told, after which runs, and the textfile that it is written to."""

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from sysbackup.config import sections
from sysbackup.config.sections import Config
from sysbackup.errors import SpoolError
from sysbackup.formats.run_result import RunResult, with_manifest
from sysbackup.service import history
from sysbackup.service.metrics import RunMetrics
from sysbackup.service.observers import Telling
from tests.support import backups
from tests.support.clock import START
from tests.unit.test_hooks import BEGAN, PROMISE, badly, summary


def configured(base: Path) -> Config:
    return msgspec.structs.replace(
        backups.configured(base), metrics=sections.Metrics(textfile=base / "collected" / "sysbackup.prom")
    )


def values(text: str) -> dict[str, float]:
    """`name{label="value"}`, without the host alpha, to its value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [f'{key}="{value}"' for key, value in sample.labels.items() if (key, value) != ("host", "alpha")]
            name = sample.name.removeprefix("sysbackup_") + ("{" + ",".join(labels) + "}" if labels else "")
            assert name not in found
            found[name] = sample.value
    return found


def told(metrics: RunMetrics) -> dict[str, float]:
    return values(backups.run(metrics.exposition()).decode())


def after(base: Path, *runs: RunResult) -> dict[str, float]:
    """What is told after these runs of one daemon."""
    metrics = RunMetrics(configured(base), counting=True)
    for ended in runs:
        metrics.began()
        metrics.ended(ended)
    return told(metrics)


def test_a_daemon_without_a_past_tells_what_it_is(tmp_path: Path) -> None:
    """No success counts as one in 1970: alarms are raised. All outcomes are counted from nought: increases are seen."""
    found = after(tmp_path)
    (build,) = (name for name in found if name.startswith("build_info"))
    assert found.pop(build) == 1
    assert found == {
        "run_in_progress": 0,
        "last_success_timestamp_seconds": 0,
        "last_backup_timestamp_seconds": 0,
        **{f'runs_total{{outcome="{outcome}"}}': 0 for outcome in ("complete", "incomplete", "failed", "stopped")},
    }


def test_a_complete_run_tells_all_of_itself(tmp_path: Path) -> None:
    """Times since 1970 in seconds, sizes in bytes, requests by their kind."""
    found = after(tmp_path, with_manifest(summary()))
    start = START.timestamp()
    expected = {
        "last_run_start_timestamp_seconds": start,
        "last_run_end_timestamp_seconds": start + 90,
        "last_run_duration_seconds": 90,
        "last_run_exit_code": 0,
        'last_run_outcome{outcome="complete"}': 1,
        'last_run_outcome{outcome="failed"}': 0,
        "last_success_timestamp_seconds": start + 90,
        "last_backup_timestamp_seconds": start + 90,
        "last_backup_duration_seconds": 90,
        "last_backup_files": 3,
        "last_backup_snapshots": 1,
        "last_backup_bytes": 3000,
        "last_backup_read_bytes": 2000,
        "last_backup_stored_bytes": 1500,
        "last_backup_problems": 0,
        "last_backup_notes": 0,
        "last_backup_warnings": 4,
        "last_backup_price_dollars": 0.000015,
        "last_backup_promise_timestamp_seconds": PROMISE.timestamp(),
        'last_backup_requests{kind="PutObject"}': 2,
        'last_backup_requests{kind="ListObjectsV2"}': 1,
        "next_lock_end_timestamp_seconds": start + 3 * 86400,
        'runs_total{outcome="complete"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("outcome", ["failed", "stopped"])
def test_a_run_that_fails_leaves_the_last_good_one_as_it_was(tmp_path: Path, outcome: str) -> None:
    """It is the last run, and nothing else: neither a success nor a backup."""
    good = after(tmp_path, with_manifest(summary()))
    bad = after(tmp_path, with_manifest(summary()), badly(outcome))
    kept = {name for name in good if name.startswith(("last_success", "last_backup", "next_lock"))}
    assert {name: bad[name] for name in kept} == {name: good[name] for name in kept}
    assert bad["last_run_end_timestamp_seconds"] == START.timestamp() + 3605
    assert bad["last_run_exit_code"] == 1
    assert bad[f'last_run_outcome{{outcome="{outcome}"}}'] == 1
    assert (bad['runs_total{outcome="complete"}'], bad[f'runs_total{{outcome="{outcome}"}}']) == (1, 1)


def test_an_incomplete_run_is_a_backup_and_no_success(tmp_path: Path) -> None:
    """There is a manifest, and something is missing in it."""
    later = summary("incomplete", finished=START + timedelta(days=1), next_lock_end=None)
    found = after(tmp_path, with_manifest(summary()), with_manifest(later))
    assert found["last_success_timestamp_seconds"] == START.timestamp() + 90
    assert found["last_backup_timestamp_seconds"] == START.timestamp() + 86400
    assert (found["last_backup_problems"], found["last_run_exit_code"]) == (2, 3)
    assert "next_lock_end_timestamp_seconds" not in found


def test_a_new_daemon_knows_of_the_runs_before_it(tmp_path: Path) -> None:
    """And of those that `sysbackup run` makes beside it, as soon as they have ended; its own are not lost thereby."""
    config = configured(tmp_path)
    history.remember(config, with_manifest(summary()))
    history.remember(config, badly())
    metrics = RunMetrics(config, counting=True)
    first = told(metrics)
    assert first["last_success_timestamp_seconds"] == START.timestamp() + 90
    assert first['last_run_outcome{outcome="failed"}'] == 1
    assert first['runs_total{outcome="complete"}'] == 0

    history.remember(config, with_manifest(summary(finished=START + timedelta(days=1))))
    assert told(metrics)["last_success_timestamp_seconds"] == START.timestamp() + 86400
    metrics.ended(with_manifest(summary(finished=START + timedelta(days=2))))  # which the history could not take
    history.remember(config, badly())
    assert told(metrics)["last_success_timestamp_seconds"] == START.timestamp() + 2 * 86400


def test_many_runs_of_others_do_not_bring_back_what_was_before_them(tmp_path: Path) -> None:
    """The daemon's own last run is no longer among those that are read: it is older, all the same."""
    config = configured(tmp_path)
    metrics = RunMetrics(config, counting=True)
    own = with_manifest(summary())
    metrics.ended(own)
    history.remember(config, own)
    for day in range(1, 18):
        history.remember(config, with_manifest(summary(finished=START + timedelta(days=day))))
    found = told(metrics)
    latest = START.timestamp() + 17 * 86400
    assert found["last_success_timestamp_seconds"] == found["last_backup_timestamp_seconds"] == latest
    assert found["last_run_end_timestamp_seconds"] == latest


def test_a_success_that_the_history_could_not_take_outlives_later_failures(tmp_path: Path) -> None:
    """Those of `sysbackup run`, which the history has."""
    config = configured(tmp_path)
    history.remember(config, with_manifest(summary()))
    metrics = RunMetrics(config, counting=True)
    metrics.ended(with_manifest(summary(finished=START + timedelta(days=1))))
    history.remember(config, badly(finished=START + timedelta(days=2)))
    found = told(metrics)
    assert found["last_success_timestamp_seconds"] == START.timestamp() + 86400
    assert found["last_run_end_timestamp_seconds"] == START.timestamp() + 2 * 86400


def test_a_run_with_many_problems_is_known_again(tmp_path: Path) -> None:
    """The history has less of it than the daemon has heard: it is the same run, and what follows it is later."""
    config = configured(tmp_path)
    metrics = RunMetrics(config, counting=True)
    found = [{"event": "file.skipped", "path": "/srv/" + "x" * 5000, "reason": "no permission"}] * 50
    later = START + timedelta(days=300)  # so was the clock
    wrong = with_manifest(summary("incomplete", finished=later, first_problems=found))
    metrics.ended(wrong)
    history.remember(config, wrong)
    history.remember(config, with_manifest(summary()))
    assert told(metrics)["last_run_end_timestamp_seconds"] == START.timestamp() + 90


def test_a_history_that_could_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and as soon as it can be read what it says, though nobody has touched it."""
    config = configured(tmp_path)
    history.remember(config, with_manifest(summary()))
    metrics = RunMetrics(config, counting=False)
    readable = history.recall_past

    def unreadable(config: Config) -> Any:
        raise SpoolError("Input/output error")

    with structlog.testing.capture_logs() as said:
        monkeypatch.setattr(history, "recall_past", unreadable)
        assert told(metrics)["last_success_timestamp_seconds"] == 0
        told(metrics)
        monkeypatch.setattr(history, "recall_past", readable)
        assert told(metrics)["last_success_timestamp_seconds"] == START.timestamp() + 90
    assert [line["event"] for line in said] == ["metrics.outdated"]


@pytest.mark.parametrize("moved", [True, False])
def test_a_reload_leaves_no_old_textfile_behind(tmp_path: Path, moved: bool) -> None:
    """node_exporter would read it for ever, beside the new one or alone. What is not ours stays."""
    config = configured(tmp_path)
    path = config.metrics.textfile
    assert path is not None
    path.parent.mkdir()
    others = path.with_name("other.prom")
    others.write_text("up 1\n")
    fresh = tmp_path / "elsewhere.prom" if moved else None
    new = msgspec.structs.replace(config, metrics=msgspec.structs.replace(config.metrics, textfile=fresh))

    async def work() -> None:
        telling = Telling()
        for settings in (config, new):
            telling.configured(settings)
            await telling.ended(with_manifest(summary()))
            assert path.exists() == (settings is config)
        await telling.close()

    backups.run(work())
    assert os.listdir(path.parent) == ["other.prom"]
    if fresh is not None:
        assert values(fresh.read_text())["last_backup_files"] == 3


def test_an_old_textfile_that_cannot_be_removed_is_a_warning(tmp_path: Path) -> None:
    """It names the file, each time until it can be; the new one is written."""
    config = configured(tmp_path)
    path, fresh = config.metrics.textfile, tmp_path / "elsewhere.prom"
    assert path is not None
    path.parent.mkdir()
    metrics = RunMetrics(config, counting=False)
    backups.run(metrics.write())
    metrics.configure(msgspec.structs.replace(config, metrics=msgspec.structs.replace(config.metrics, textfile=fresh)))
    path.unlink()
    path.mkdir()
    with structlog.testing.capture_logs() as said:
        backups.run(metrics.write())
        path.rmdir()
        backups.run(metrics.write())
    assert [(line["event"], line["path"]) for line in said] == [("metrics.unremoved", str(path))]
    assert "last_success" in fresh.read_text()


def test_a_run_that_gave_way_to_another_is_no_run(tmp_path: Path) -> None:
    """Whatever wrote it into the history: backups are not failing."""
    config = configured(tmp_path)
    history.remember(config, with_manifest(summary()))
    history.remember(config, badly(exit_code=75, run=None))
    found = told(RunMetrics(config, counting=False))
    assert found['last_run_outcome{outcome="complete"}'] == 1
    assert not [name for name in found if name.startswith("runs_total")]


def test_the_textfile_is_replaced_as_a_whole_and_can_be_read_by_all(tmp_path: Path) -> None:
    """node_exporter is another user; it sees a run that goes on and the end of it, never half a file."""
    config = configured(tmp_path)
    path = config.metrics.textfile
    assert path is not None
    path.parent.mkdir()

    async def work(*events: Any) -> None:
        telling = Telling(single=True)
        telling.configured(config)
        for event in events:
            await (telling.ended(event) if isinstance(event, RunResult) else telling.began(event))
        await telling.close()

    before = os.umask(0o077)
    try:
        backups.run(work(BEGAN))
    finally:
        os.umask(before)
    assert values(path.read_text())["run_in_progress"] == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with path.open() as reader:
        backups.run(work(BEGAN, with_manifest(summary())))
        assert values(reader.read())["run_in_progress"] == 1
    found = values(path.read_text())
    assert (found["run_in_progress"], found["last_backup_files"]) == (0, 3)
    assert os.listdir(path.parent) == ["sysbackup.prom"]


def test_a_textfile_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    """A directory that is missing, or a directory in its place; nothing is left beside it."""
    config = configured(tmp_path)
    path = config.metrics.textfile
    assert path is not None

    def warned() -> str:
        metrics = RunMetrics(config, counting=False)
        with structlog.testing.capture_logs() as said:
            backups.run(metrics.write())
        ((event, level, reason),) = ((line["event"], line["log_level"], line["reason"]) for line in said)
        assert (event, level) == ("metrics.unwritten", "warning")
        return str(reason)

    assert warned() == "No such file or directory"
    path.mkdir(parents=True)
    assert warned() == "Is a directory"
    assert os.listdir(path.parent) == ["sysbackup.prom"]


def test_the_last_success_is_found_behind_many_failures(tmp_path: Path) -> None:
    """It is what an alarm goes by, the longer ago the more."""
    config = configured(tmp_path)
    history.remember(config, with_manifest(summary()))
    for _ in range(40):
        history.remember(config, badly())
    assert told(RunMetrics(config, counting=False))["last_success_timestamp_seconds"] == START.timestamp() + 90
