"""Whether backups happen: what `sysbackup status` answers, to people and to monitoring."""

from datetime import datetime, timedelta

import msgspec

from sysbackup.config.units import duration_text, rough_duration
from sysbackup.formats.run_result import Outcome, RunResult
from sysbackup.service.status_file import Current, Status

FRESH, STALE, FAILING = "fresh", "stale", "failing"

EXIT_CODES = {FRESH: 0, STALE: 1, FAILING: 2}

_SILENT = 120.0
"""Seconds after which a run that says nothing is worth a word: it speaks once a second."""

_LATE = 300.0
"""Seconds after which a run that is due and has not begun is no accident: the daemon looks at the clock each minute."""

_START = "Start it: systemctl start sysbackup, or elsewhere sysbackup daemon"

NOT_RELOADED = (
    "was changed and not reloaded: runs go by what it was. systemctl reload sysbackup, or send the daemon SIGHUP"
)
"""What is said of the configuration file then."""

# By how much an end may lie ahead of us and be believed: a clock that is being set right.
_AHEAD = timedelta(hours=1)


class Promises(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is promised: `last_until`, how long the last backup with a manifest stays; None where nothing keeps it.

    `backups` of the history are still promised now; the first of these
    promises ends at `first_end`, the last at `last_end`.
    """

    last_until: datetime | None
    backups: int
    first_end: datetime | None
    last_end: datetime | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known. `status` is the daemon's, or what a dead one has left behind (`alive`).

    It was looked for in `runtime`. `past` is the history, the latest run first.
    `next_timer` is when systemd's timer elapses. `warnings` are what was in the way of knowing more.
    `conf_changed`: the file is not the one that the daemon works by; None where that is not known.
    `refused` says why the daemon's status could not be understood, where there is one.
    """

    now: datetime
    runtime: str
    status: Status | None
    alive: bool
    past: list[RunResult]
    stale_after: float
    next_timer: datetime | None
    warnings: list[str]
    conf_changed: bool | None = None
    refused: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """
    What `sysbackup status --json` prints.

    `verdict` is `fresh` (exit code 0), `stale` (1) or `failing` (2); `reasons`
    has a sentence for each thing that keeps it from being fresh, `warnings` for
    what else somebody should know. `daemon` is `waiting`, `running`,
    `stopping`, `dead` (it left its status behind), `absent` or `unknown` (of a later version), `pid` and
    `since` its process and start. `current` is the run that goes on (how far it
    is: its `progress`, see `messages.Progress`), `asked`
    whether one more will follow it. `last` is this machine's last run,
    `last_complete` the last without any problem, `last_stored` the last with a
    manifest; `runs` are the last few, the latest first, each
    with its `summary` where it has a manifest, as `sysbackup run --json` prints
    it. `next` is when the next run starts, as far as is known, by the daemon's
    `schedule` or systemd's `timer` (`next_by`). `refused` has the mistakes of a
    configuration that the daemon did not take; `conf_changed` is true where the
    file is not the one that it works by, null where that is not known. `stale_after` in seconds; all
    times in UTC.
    """

    verdict: str
    exit_code: int
    reasons: list[str]
    warnings: list[str]
    time: datetime
    daemon: str
    pid: int | None
    since: datetime | None
    asked: bool
    current: Current | None
    last: RunResult | None
    last_complete: RunResult | None
    last_stored: RunResult | None
    next: datetime | None
    next_by: str | None
    promises: Promises
    refused: list[str]
    conf_changed: bool | None
    stale_after: float
    runs: list[RunResult]


def report(facts: Facts, most: int = 5) -> Verdict:
    """All of it, with the last `most` runs."""
    status, now = facts.status, facts.now
    living = status if facts.alive else None
    runs = _runs(facts)
    last, last_complete, last_stored = _lasts(facts, runs)
    failing = _failing(facts, last, next((e for e in _since(last, runs) if not e.by_hand), None))
    reasons = [*failing, *_stale(facts, last_complete, last_stored)]
    verdict = FAILING if failing else STALE if reasons else FRESH
    next_run, next_by = (living.next, "schedule") if living and living.next else (facts.next_timer, "timer")
    return Verdict(
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        reasons=reasons,
        warnings=[*_warnings(facts, living, last, next_run), *facts.warnings],
        time=now,
        daemon=living.state if living else "dead" if status else "unknown" if facts.refused else "absent",
        pid=living.pid if living else None,
        since=living.since if living else None,
        asked=living is not None and living.asked,
        current=living.current if living else None,
        last=last,
        last_complete=last_complete,
        last_stored=last_stored,
        next=next_run,
        next_by=next_by if next_run else None,
        promises=_promises(runs, last_stored, now),
        refused=living.refused if living else [],
        conf_changed=facts.conf_changed if living else None,
        stale_after=facts.stale_after,
        runs=runs[:most],
    )


def ago(seconds: float) -> str:
    """`3 h 12 min ago`."""
    return f"{rough_duration(seconds)} ago" if seconds >= 1 else "just now"


def _runs(facts: Facts) -> list[RunResult]:
    """The history, or where there is none to be read what the daemon remembers."""
    if facts.past or facts.status is None:
        return facts.past
    status = facts.status
    known = {e.started: e for e in (status.last_complete, status.last_stored, status.last) if e is not None}
    return [known[started] for started in sorted(known, reverse=True)]


def _lasts(facts: Facts, runs: list[RunResult]) -> tuple[RunResult | None, RunResult | None, RunResult | None]:
    """The last run, the last complete one and the last with a manifest."""
    said = facts.status
    return (
        _last(said.last if said else None, runs),
        _last(said.last_complete if said else None, [e for e in runs if e.complete]),
        _last(said.last_stored if said else None, [e for e in runs if e.stored]),
    )


def _last(said: RunResult | None, remembered: list[RunResult]) -> RunResult | None:
    """
    The later of what the daemon says and what is in the history.

    The history goes by the order of its lines, not by a clock that may have
    been wrong. It has runs that were not the daemon's, and may lack some where
    it could not be written.
    """
    if said is None or not remembered or said in remembered:
        return remembered[0] if remembered else said
    return max(said, remembered[0], key=lambda ended: ended.finished)


def _since(last: RunResult | None, runs: list[RunResult]) -> list[RunResult]:
    """The runs with the last one first, which the history may lack."""
    return runs if last is None or last in runs else [last, *runs]


def _failing(facts: Facts, last: RunResult | None, judged: RunResult | None) -> list[str]:
    """`judged`: the last run that nobody stopped by hand, which says nothing of whether backups can be made."""
    found, status = [], facts.status
    if facts.refused is not None:
        found.append(f"nothing is known of the daemon: {facts.refused}")
    elif status is None:
        found.append(f"no daemon runs: there is nothing in {facts.runtime}. {_START}")
    elif not facts.alive:
        during = " during a run" if status.current else ""
        found.append(f"the daemon (process {status.pid}) is gone: it was killed, or crashed{during}. {_START}")
    elif due := _overdue(facts.now, status):
        found.append(
            f"the daemon (process {status.pid}) should have started a run at {due:%Y-%m-%d %H:%M} UTC and has not: it"
            " hangs, was stopped (SIGSTOP), or cannot write its status. Restart it: systemctl restart sysbackup"
        )
    elif last is None and status.current is None:
        up = (facts.now - status.since).total_seconds()
        if up > facts.stale_after:
            found.append(f"the daemon started {ago(up)}, and there has been no run yet")
    if judged is not None and not judged.stored:
        how = "was stopped" if judged.outcome == Outcome.STOPPED else "failed"
        age = ago((facts.now - judged.finished).total_seconds())
        which = "the last run" if judged is last else "the last run that nobody stopped"
        found.append(f"{which} {how} {age}, {_unstored(judged)}: {judged.reason or 'nobody knows why'}")
    return found


def _unstored(ended: RunResult) -> str:
    return "and its manifest may be stored all the same" if ended.sent_as else "without a manifest"


def _overdue(now: datetime, status: Status) -> datetime | None:
    """When a daemon that lives, and waits, should have started a run by its own account; None where all is well."""
    if status.current is not None:
        return None
    if status.asked and (now - status.written).total_seconds() > _SILENT:
        return status.written
    late = status.state == "waiting" and status.next is not None and (now - status.next).total_seconds() > _LATE
    return status.next if late else None


def _stale(facts: Facts, complete: RunResult | None, stored: RunResult | None) -> list[str]:
    limit = f"stale_after is {duration_text(facts.stale_after)}"
    if complete is None:
        return ["there is no complete backup yet" + (": each has had problems" if stored else "")]
    if complete.finished > facts.now + _AHEAD:
        instant = f"{complete.finished:%Y-%m-%d %H:%M} UTC"
        return [f"the last complete backup ended in the future, at {instant}: the clock is wrong, or was then"]
    age = (facts.now - complete.finished).total_seconds()
    return [f"the last complete backup ended {ago(age)}: {limit}"] if age > facts.stale_after else []


def _warnings(facts: Facts, living: Status | None, last: RunResult | None, next_run: datetime | None) -> list[str]:
    found = []
    if last is not None and last.summary is not None and last.summary.problems:
        number = last.summary.problems
        found.append(f"the last run could not back up {number:,} source{'s' if number > 1 else ''} as asked")
    if last is not None and last.by_hand:
        age = ago((facts.now - last.finished).total_seconds())
        found.append(f"the last run was stopped by hand {age}, {_unstored(last)}: {last.reason}")
    if living is None:
        return found
    found += [f"the daemon has refused a changed configuration: {mistake}" for mistake in living.refused]
    if facts.conf_changed and not living.refused:
        found.append(f"{living.directory}/conf {NOT_RELOADED}")
    silent = (facts.now - living.written).total_seconds()
    if living.current is not None and silent > _SILENT:
        found.append(f"the run, or the daemon, has said nothing for {rough_duration(silent)}: it may hang")
    elif living.state == "waiting" and silent > _LATE:
        found.append(f"the daemon has said nothing for {rough_duration(silent)}: it may hang, or was stopped (SIGSTOP)")
    if next_run is None and living.state == "waiting":
        found.append("nothing is known to start the next run: no schedule in [daemon], no sysbackup.timer")
    return found


def _promises(runs: list[RunResult], stored: RunResult | None, now: datetime) -> Promises:
    promises = [e.summary.promise for e in runs if e.summary is not None]
    ends = sorted(end for end in promises if end is not None and end > now)
    return Promises(
        last_until=stored.summary.promise if stored is not None and stored.summary is not None else None,
        backups=len(ends),
        first_end=ends[0] if ends else None,
        last_end=ends[-1] if ends else None,
    )
