"""What `sysbackup status` makes of what it knows."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from sysbackup.formats.run_result import RunResult, Summary, with_manifest
from sysbackup.service.messages import Progress
from sysbackup.service.status_file import Current, Status
from sysbackup.service.verdict import Facts, Verdict, report
from tests.support.clock import START

HOUR = timedelta(hours=1)
DAY = 24 * HOUR


def stored(ago: timedelta, problems: int = 0, promised: timedelta = 14 * DAY) -> RunResult:
    """A run that ended so long ago, with a manifest."""
    finished = START - ago
    started = finished - HOUR / 2
    summary = Summary(
        outcome="incomplete" if problems else "complete",
        exit_code=3 if problems else 0,
        host="alpha",
        run=f"run-{started:%d-%H}",
        bucket="bucket",
        started=started,
        finished=finished,
        seconds=1800.0,
        promise=started + promised,
        manifest="manifests/alpha/x",
        manifest_version=None,
        entries={},
        files=0,
        bytes=0,
        unchanged=0,
        read=0,
        reused=0,
        renewed=0,
        contents=0,
        objects=0,
        stored=0,
        snapshots=0,
        sockets_skipped=0,
        warnings=0,
        problems=problems,
        first_problems=[],
        requests={},
        price=0.0,
        next_lock_end=None,
    )
    return with_manifest(summary)


def lost(ago: timedelta, outcome: str = "failed") -> RunResult:
    """A run that ended so long ago, without one."""
    instant = START - ago
    return RunResult(
        outcome=outcome,
        exit_code=1,
        host="alpha",
        run=None,
        started=instant,
        finished=instant,
        reason="the store does not answer",
    )


def interrupted(ago: timedelta) -> RunResult:
    """A `sysbackup run` that somebody stopped."""
    return msgspec.structs.replace(lost(ago, "stopped"), exit_code=130, reason="stopped by SIGINT")


WAITING = Status(
    pid=4711,
    born=1,
    since=START - 2 * HOUR,
    written=START,
    directory="/etc/backup",
    state="waiting",
    asked=False,
    current=None,
    last=None,
    last_complete=None,
    last_stored=None,
    next=None,
    refused=[],
    stale_after=36 * 3600.0,
)

RUNNING: dict[str, Any] = {
    "state": "running",
    "current": Current(started=START - HOUR, run="run-now", progress=Progress(stage="reading")),
}


def said(*past: RunResult, alive: bool = True, left: bool = True, timer: Any = START + HOUR, **more: Any) -> Verdict:
    """The report on a daemon that knows this past, the latest run first; `more` is what its status says besides."""
    known: dict[str, Any] = {
        "last": past[0] if past else None,
        "last_complete": next((e for e in past if e.outcome == "complete"), None),
        "last_stored": next((e for e in past if e.stored), None),
    }
    status = msgspec.structs.replace(WAITING, **(known | more))
    return report(
        Facts(
            now=START,
            runtime="/run/sysbackup",
            status=status if alive or left else None,
            alive=alive,
            past=list(past),
            stale_after=36 * 3600.0,
            next_timer=timer,
            warnings=[],
        )
    )


@pytest.mark.parametrize(
    ("found", "verdict", "reasons"),
    [
        (said(stored(HOUR)), "fresh", []),
        (said(stored(36 * HOUR)), "fresh", []),
        (said(stored(36.1 * HOUR)), "stale", ["the last complete backup ended 1 d 12 h ago: stale_after is 1 d 12 h"]),
        (said(stored(HOUR, problems=2), stored(DAY)), "fresh", []),
        (
            said(stored(HOUR, problems=2), stored(2 * DAY)),
            "stale",
            ["the last complete backup ended 2 d ago: stale_after is 1 d 12 h"],
        ),
        (said(stored(HOUR, problems=2)), "stale", ["there is no complete backup yet: each has had problems"]),
        (
            said(lost(HOUR), stored(2 * HOUR)),
            "failing",
            ["the last run failed 1 h ago, without a manifest: the store does not answer"],
        ),
        (
            said(lost(HOUR, "stopped"), stored(2 * HOUR)),
            "failing",
            ["the last run was stopped 1 h ago, without a manifest: the store does not answer"],
        ),
        (said(interrupted(HOUR), stored(2 * HOUR)), "fresh", []),
        (said(interrupted(HOUR), interrupted(2 * HOUR), stored(3 * HOUR)), "fresh", []),
        (said(interrupted(HOUR)), "stale", ["there is no complete backup yet"]),
        (
            said(interrupted(HOUR), stored(3 * DAY)),
            "stale",
            ["the last complete backup ended 3 d ago: stale_after is 1 d 12 h"],
        ),
        (
            said(interrupted(HOUR), lost(2 * HOUR), stored(3 * HOUR)),
            "failing",
            ["the last run that nobody stopped failed 2 h ago, without a manifest: the store does not answer"],
        ),
        (
            said(lost(HOUR), stored(3 * DAY)),
            "failing",
            [
                "the last run failed 1 h ago, without a manifest: the store does not answer",
                "the last complete backup ended 3 d ago: stale_after is 1 d 12 h",
            ],
        ),
        (said(), "stale", ["there is no complete backup yet"]),
        (said(**RUNNING), "stale", ["there is no complete backup yet"]),
        (said(since=START - 3 * DAY, **RUNNING), "stale", ["there is no complete backup yet"]),
        (
            said(since=START - 3 * DAY),
            "failing",
            ["the daemon started 3 d ago, and there has been no run yet", "there is no complete backup yet"],
        ),
        (said(lost(HOUR), stored(2 * HOUR), **RUNNING), "failing", None),
        (said(stored(HOUR), alive=False), "failing", None),
        (said(stored(HOUR), alive=False, left=False), "failing", None),
        (said(stored(-HOUR / 2)), "fresh", []),
        (
            said(stored(-3 * DAY)),
            "stale",
            ["the last complete backup ended in the future, at 2026-11-26 04:15 UTC: the clock is wrong, or was then"],
        ),
    ],
)
def test_the_verdict_and_why(found: Verdict, verdict: str, reasons: list[str] | None) -> None:
    """Failing where the last run left no manifest or no daemon runs, stale without a recent complete backup."""
    assert found.verdict == verdict
    assert found.exit_code == {"fresh": 0, "stale": 1, "failing": 2}[verdict]
    if reasons is not None:
        assert found.reasons == reasons


MINUTE = HOUR / 60


@pytest.mark.parametrize(
    ("found", "due"),
    [
        (said(stored(HOUR), next=START - 6 * MINUTE), "2026-11-23 04:09 UTC"),
        (said(stored(HOUR), next=START - 6 * MINUTE, asked=True, written=START - HOUR), "2026-11-23 03:15 UTC"),
        (said(stored(HOUR), asked=True, written=START - 3 * MINUTE), "2026-11-23 04:12 UTC"),
        (said(next=START - HOUR), "2026-11-23 03:15 UTC"),
    ],
)
def test_a_daemon_that_stands_still_is_failing(found: Verdict, due: str) -> None:
    """It lives, and what it says was good once: nothing but its own account shows that it does nothing."""
    assert (found.verdict, found.exit_code) == ("failing", 2)
    assert f"(process 4711) should have started a run at {due} and has not: it hangs, was stopped" in found.reasons[0]


@pytest.mark.parametrize(
    "found",
    [
        said(stored(HOUR), next=START - 4 * MINUTE, written=START - HOUR),
        said(stored(HOUR), next=START + HOUR, written=START - HOUR),
        said(stored(HOUR), asked=True, written=START - MINUTE),
        said(stored(HOUR), written=START - HOUR),
        said(stored(HOUR), asked=True, next=START - HOUR, written=START - HOUR, **RUNNING),
    ],
    ids=["due", "waits", "asked", "no schedule", "runs"],
)
def test_one_that_waits_or_runs_does_not_stand_still(found: Verdict) -> None:
    """What was asked for a moment ago begins soon; what falls into a run has to wait."""
    assert (found.verdict, found.reasons) == ("fresh", [])


def test_a_daemon_that_is_gone_is_told_from_one_that_was_stopped() -> None:
    """A status without its process was left behind by a crash."""
    dead = said(stored(HOUR), alive=False, **RUNNING)
    assert (dead.daemon, dead.pid, dead.current) == ("dead", None, None)
    assert "(process 4711) is gone: it was killed, or crashed during a run. Start it" in dead.reasons[0]
    absent = said(stored(HOUR), alive=False, left=False)
    assert absent.daemon == "absent"
    assert absent.reasons[0].startswith("no daemon runs: there is nothing in /run/sysbackup. Start it")
    assert absent.last is not None


def test_what_the_daemon_remembers_stands_in_for_a_history_that_cannot_be_read() -> None:
    """A monitoring user may read the one and not the other."""
    found = said(stored(HOUR, problems=1), stored(DAY))
    facts = Facts(
        now=START,
        runtime="/run/sysbackup",
        status=msgspec.structs.replace(WAITING, last=found.last, last_complete=found.last_complete),
        alive=True,
        past=[],
        stale_after=36 * 3600.0,
        next_timer=None,
        warnings=["the history cannot be read"],
    )
    told = report(facts)
    assert told.runs == found.runs
    assert told.promises.backups == 2
    assert "the history cannot be read" in told.warnings


def test_a_run_that_was_not_the_daemons_counts() -> None:
    """What `sysbackup run` adds to the history is later than what the daemon knows."""
    by_hand, own = stored(HOUR), lost(2 * HOUR)
    found = said(by_hand, own, stored(DAY), last=own, last_complete=stored(DAY), last_stored=stored(DAY))
    assert (found.verdict, found.last, found.last_complete) == ("fresh", by_hand, by_hand)


def test_a_run_that_the_history_could_not_take_counts() -> None:
    """The daemon knows it all the same."""
    missing = lost(HOUR)
    found = said(stored(DAY), last=missing)
    assert (found.verdict, found.last) == ("failing", missing)


def test_a_clock_that_was_wrong_once_does_not_hide_what_came_after() -> None:
    """The history's order holds, not its times."""
    found = said(stored(HOUR), stored(-300 * DAY), last=stored(-300 * DAY), last_complete=stored(-300 * DAY))
    assert (found.verdict, found.last_complete) == ("fresh", stored(HOUR))


def test_the_next_run_is_the_schedules_or_the_timers() -> None:
    """Where neither is known somebody should know that."""
    found = said(stored(HOUR), next=START + 2 * HOUR)
    assert (found.next, found.next_by, found.warnings) == (START + 2 * HOUR, "schedule", [])
    found = said(stored(HOUR))
    assert (found.next, found.next_by, found.warnings) == (START + HOUR, "timer", [])
    found = said(stored(HOUR), timer=None)
    assert (found.next, found.next_by) == (None, None)
    assert "nothing is known to start the next run" in found.warnings[0]


def test_promises_count_what_has_not_ended() -> None:
    """The history's backups that are still promised, from the first end to the last."""
    found = said(stored(DAY), stored(5 * DAY, problems=1), lost(6 * DAY), stored(20 * DAY)).promises
    assert found.backups == 2
    assert found.first_end == START - 5 * DAY - HOUR / 2 + 14 * DAY
    assert found.last_end == found.last_until == START - DAY - HOUR / 2 + 14 * DAY
    over = said(stored(20 * DAY)).promises
    assert (over.backups, over.first_end) == (0, None)
    assert over.last_until is not None
    assert over.last_until < START


def test_what_somebody_should_know_is_a_warning() -> None:
    """Problems, a refused configuration, a run that says nothing: none of these is a verdict."""
    found = said(stored(HOUR, problems=1), stored(DAY), refused=["[s3] bucket = : no"])
    assert found.exit_code == 0
    assert found.warnings == [
        "the last run could not back up 1 source as asked",
        "the daemon has refused a changed configuration: [s3] bucket = : no",
    ]
    silent = said(stored(HOUR), written=START - HOUR / 2, **RUNNING)
    assert silent.warnings == ["the run, or the daemon, has said nothing for 30 min: it may hang"]
    silent = said(stored(HOUR), written=START - HOUR / 2, next=START + HOUR)
    assert silent.warnings == ["the daemon has said nothing for 30 min: it may hang, or was stopped (SIGSTOP)"]
    assert said(stored(HOUR), written=START - HOUR / 15, next=START + HOUR).warnings == []


def test_a_manifest_that_may_be_stored_is_not_said_to_be_missing() -> None:
    """The store had not answered when the run ended: who reads on finds the name to look for."""
    reason = "stopped; its manifest was on its way as run-full, and may be stored: see sysbackup list"
    late = msgspec.structs.replace(lost(HOUR, "stopped"), reason=reason, sent_as="run-full")
    words = f"1 h ago, and its manifest may be stored all the same: {reason}"
    assert said(late, stored(2 * HOUR)).reasons == [f"the last run was stopped {words}"]
    by_hand = msgspec.structs.replace(late, exit_code=143)
    assert said(by_hand, stored(2 * HOUR)).warnings == [f"the last run was stopped by hand {words}"]


def test_a_run_stopped_by_hand_is_a_word_and_no_failure() -> None:
    """It says nothing of whether backups can be made."""
    found = said(interrupted(HOUR), stored(2 * HOUR))
    assert found.exit_code == 0
    assert found.warnings == ["the last run was stopped by hand 1 h ago, without a manifest: stopped by SIGINT"]
