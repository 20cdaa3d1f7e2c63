"""Hooks as they are called: with which event and what to read, in which order, and what becomes of bad ones."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sysbackup.config.sections import Config, Daemon
from sysbackup.formats.run_result import RunResult, Summary, with_manifest
from sysbackup.service.messages import Began
from sysbackup.service.observers import Telling
from tests.support import backups
from tests.support.clock import START

RUN = "20261123T041500Z-3fa9"

PROMISE = START + timedelta(days=14)


def summary(outcome: str = "complete", **fields: Any) -> Summary:
    """That of a run that took 90 seconds."""
    said = Summary(
        outcome=outcome,
        exit_code=0 if outcome == "complete" else 3,
        host="alpha",
        run=RUN,
        bucket="bucket",
        started=START,
        finished=START + timedelta(seconds=90),
        seconds=90.0,
        promise=PROMISE,
        manifest=f"manifests/alpha/{RUN}.jsonl.gz",
        manifest_version="v1",
        entries={"f": 3},
        files=3,
        bytes=3000,
        unchanged=1,
        read=2000,
        reused=1000,
        renewed=0,
        contents=2,
        objects=2,
        stored=1500,
        snapshots=1,
        sockets_skipped=0,
        warnings=4,
        problems=0 if outcome == "complete" else 2,
        first_problems=[],
        requests={"PutObject": 2, "ListObjectsV2": 1},
        price=0.000015,
        next_lock_end=START + timedelta(days=3),
    )
    return msgspec.structs.replace(said, **fields)


def badly(outcome: str = "failed", **fields: Any) -> RunResult:
    """The end of a run without a manifest, an hour later than that of `summary`."""
    later = START + timedelta(hours=1)
    ended = RunResult(
        outcome=outcome,
        exit_code=1,
        host="alpha",
        run="20261123T051500Z-0001",
        started=later,
        finished=later + timedelta(seconds=5),
        reason="the store does not answer",
    )
    return msgspec.structs.replace(ended, **fields)


BEGAN = Began("alpha", RUN, START, PROMISE)


def configured(base: Path, limit: float = 20.0) -> Config:
    return msgspec.structs.replace(backups.configured(base), daemon=Daemon(hook_limit=limit))


def recorder(config: Config, name: str = "50-record") -> None:
    """A hook that sets down what it was called with and what it read, one call after the other."""
    told = config.directory / "told"
    backups.program(config.hooks, name, f'#!/bin/sh\necho "{name} $1 $(cat)" >>{told}\n')


def told(config: Config) -> list[tuple[str, str, dict[str, Any]]]:
    """Which hook was called with which event, and read what."""
    lines = (line.split(" ", 2) for line in (config.directory / "told").read_text().splitlines())
    return [(name, event, json.loads(text)) for name, event, text in lines]


def tell(config: Config, *events: Began | RunResult) -> list[Any]:
    """Tell of these, all at once as the daemon does; what was logged."""

    async def work() -> None:
        telling = Telling(single=True)
        telling.configured(config)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for event in events:
                group.create_task(telling.began(event) if isinstance(event, Began) else telling.ended(event))
        await telling.close()

    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as said:
        backups.run(work())
    return list(said)


def test_at_the_start_what_is_not_known_yet_is_null(tmp_path: Path) -> None:
    """All the keys are there for scripts to ask for."""
    config = configured(tmp_path)
    recorder(config)
    tell(config, BEGAN)
    ((_, event, read),) = told(config)
    assert event == "started"
    assert read == {
        "outcome": None,
        "exit_code": None,
        "host": "alpha",
        "run": RUN,
        "started": "2026-11-23T04:15:00Z",
        "finished": None,
        "seconds": None,
        "reason": None,
        "promise": "2026-12-07T04:15:00Z",
    }


def test_at_the_end_of_a_backup_all_of_its_summary_is_told(tmp_path: Path) -> None:
    """What `sysbackup run --json` prints, and the reason, which there is none for."""
    config = configured(tmp_path)
    recorder(config)
    tell(config, with_manifest(summary()), with_manifest(summary("incomplete")))
    (_, good, first), (_, half, second) = told(config)
    assert (good, half) == ("succeeded", "incomplete")
    assert first == json.loads(msgspec.json.encode(summary())) | {"reason": None}
    assert (second["exit_code"], second["problems"]) == (3, 2)


def test_a_run_without_a_manifest_has_failed_stopped_or_not(tmp_path: Path) -> None:
    """With the reason, and without the keys of a summary that there is none of."""
    config = configured(tmp_path)
    recorder(config)
    tell(config, badly(), badly("stopped", run=None))
    (_, failed, first), (_, stopped, second) = told(config)
    assert (failed, stopped) == ("failed", "failed")
    assert first == {
        "outcome": "failed",
        "exit_code": 1,
        "host": "alpha",
        "run": "20261123T051500Z-0001",
        "started": "2026-11-23T05:15:00Z",
        "finished": "2026-11-23T05:15:05Z",
        "seconds": 5.0,
        "reason": "the store does not answer",
    }
    assert (second["outcome"], second["run"]) == ("stopped", None)


def test_hooks_are_called_by_name_one_at_a_time_and_events_keep_their_order(tmp_path: Path) -> None:
    """A slow hook at the start of a run is waited for before any hears of its end."""
    config = configured(tmp_path)
    for name in ("20-b", "10-a"):
        recorder(config, name)
    slow = f'#!/bin/sh\n[ $1 = started ] && sleep 0.5\necho "15-slow $1 $(cat)" >>{config.directory}/told\n'
    backups.program(config.hooks, "15-slow", slow)
    tell(config, BEGAN, with_manifest(summary()))
    assert [(name, event) for name, event, _ in told(config)] == [
        ("10-a", "started"),
        ("15-slow", "started"),
        ("20-b", "started"),
        ("10-a", "succeeded"),
        ("15-slow", "succeeded"),
        ("20-b", "succeeded"),
    ]


def test_whatever_a_hook_does_is_a_warning_and_the_next_is_called(tmp_path: Path) -> None:
    """One fails, one hangs, one may be changed by others, one does not read; all is said with the run's name."""
    config = configured(tmp_path, limit=1.0)
    backups.program(config.hooks, "10-fails", "#!/bin/sh\necho no server; exit 4\n")
    backups.program(config.hooks, "20-hangs", "#!/bin/sh\nexec sleep 600\n")
    backups.program(config.hooks, "30-unsafe", "#!/bin/sh\n", mode=0o777)
    backups.program(config.hooks, "30-left.dpkg-old", "#!/bin/sh\nexit 9\n")
    backups.program(config.hooks, "40-reads-nothing", "#!/bin/sh\nexec <&-\n")
    backups.program(config.hooks, "45-no-program", "nothing\n")
    recorder(config)
    said = tell(config, badly(reason="x" * 200_000))
    assert [name for name, *_ in told(config)] == ["50-record"]
    assert {line["run"] for line in said} == {"20261123T051500Z-0001"}
    warnings = {line["program"]: line["reason"] for line in said if line["log_level"] == "warning"}
    assert warnings.pop("45-no-program").startswith("could not be started: the kernel does not know")
    assert warnings == {
        "10-fails": "ended with exit status 4; its last words: no server",
        "20-hangs": "had not ended after 1 s and was stopped",
        "30-unsafe": "it is writable by everybody (chmod go-w)",
    }
    assert [line["line"] for line in said if line["event"] == "program.said"] == ["no server"]


def test_without_hooks_there_is_nothing_to_say(tmp_path: Path) -> None:
    """No directory is as good as an empty one; one that is none is a warning."""
    config = configured(tmp_path)
    assert tell(config, BEGAN, with_manifest(summary())) == []
    config.directory.mkdir()
    config.hooks.write_text("")
    (line,) = tell(config, badly())
    assert (line["event"], line["log_level"]) == ("hooks.unreadable", "warning")
    assert line["reason"] == f"{config.hooks} cannot be read: Not a directory"


def test_where_another_run_is_in_progress_nobody_is_told_of_a_failure(tmp_path: Path) -> None:
    """That one will tell how it ends."""
    config = configured(tmp_path)
    recorder(config)
    assert tell(config, badly(exit_code=75, run=None)) == []
    assert not (config.directory / "told").exists()


def test_a_cancelled_telling_ends_the_hook_that_runs_and_calls_no_other(tmp_path: Path) -> None:
    """A daemon that is stopped has no time to wait."""
    config = configured(tmp_path, limit=600.0)
    backups.program(config.hooks, "10-hangs", f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 600\n")
    recorder(config)

    async def work() -> None:
        telling = Telling(single=True)
        telling.configured(config)
        async with asyncio.timeout(60):
            task = asyncio.create_task(telling.ended(badly()))
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
            await telling.close()

    backups.run(work())
    assert not (config.directory / "told").exists()
