"""`sysbackup status`: whether backups happen."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from sysbackup.cli import streams
from sysbackup.cli.display import count, doing, one_line, source, when
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import legible, put_json
from sysbackup.config.loading import read_config
from sysbackup.config.sections import Config
from sysbackup.config.units import amount, elapsed, rough_duration
from sysbackup.errors import SpoolError
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.run_result import Outcome, RunResult
from sysbackup.programs import timers
from sysbackup.service import client, history
from sysbackup.service.status_file import Status, born, conf_changed, lives, status_path
from sysbackup.service.verdict import FAILING, FRESH, STALE, Facts, Verdict, ago, report

TIMER = "sysbackup.timer"

SYSTEM_RUNTIME, SYSTEM_STATE = Path("/run/sysbackup"), Path("/var/lib/sysbackup")
_NAMED = ("RUNTIME_DIRECTORY", "SYSBACKUP_RUNTIME_DIR", "STATE_DIRECTORY", "SYSBACKUP_STATE_DIR")

_PROBLEMS_AT_MOST = 5
_COLOURS = {FRESH: "green", STALE: "yellow", FAILING: "red"}
_OUTCOMES: dict[str, str] = {
    Outcome.COMPLETE: "green",
    Outcome.INCOMPLETE: "yellow",
    Outcome.FAILED: "red",
    Outcome.STOPPED: "red",
}
_ENDINGS: dict[str, str] = {
    Outcome.COMPLETE: "complete",
    Outcome.INCOMPLETE: "with problems",
    Outcome.FAILED: "failed",
    Outcome.STOPPED: "was stopped",
}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON object.")
@pass_invocation
def command(invocation: Invocation, *, as_json: bool) -> int:
    """
    Tell whether backups happen, by the exit status too.

    \b
    0  fresh: the last complete backup is recent enough ([daemon] stale_after)
    1  stale: it is older, or there is none yet
    2  failing: the last run left no manifest, or no daemon runs

    A backup with problems does not count as complete. 69: this user may not
    know, being neither root nor in the group that the daemon runs as.

    --json prints: verdict (fresh, stale, failing), exit_code, reasons,
    warnings, time, daemon (waiting, running, stopping, dead, absent; unknown
    where it is of a later version), pid,
    since, asked (one more run will follow), current (the run that goes on:
    run, started, promise, progress with percent and seconds_left), last,
    last_complete, last_stored, next, next_by (schedule, timer), promises
    (last_until, backups, first_end, last_end), refused, conf_changed (true
    where conf was not reloaded), stale_after (seconds), runs. Each run has
    outcome, exit_code, host, run, started, finished, reason, summary, and
    sent_as, the name of a manifest that may be stored all the same.
    """
    streams.done_anyway()
    said = report(gather(invocation))
    if as_json:
        put_json(msgspec.json.format(msgspec.json.encode(said)))
    else:
        colour = False if "NO_COLOR" in os.environ else None  # None: where standard output is a terminal
        for line in _lines(legible(said)):
            click.echo(line.rstrip(), color=colour)
    return said.exit_code


def gather(invocation: Invocation) -> Facts:
    """Look at the daemon, the history and systemd. `DaemonUnreachable` where the daemon's status may not be read."""
    warnings: list[str] = []
    places = _places(invocation, warnings)
    path = status_path(places)
    status, refused = None, None
    try:
        status = client.look(path)
    except LaterFormat as exc:
        refused = str(exc)
    alive = status is not None and _alive(status, warnings)
    if status is not None and alive:
        stale_after = status.stale_after
        scheduled = status.next is not None
    else:
        stale_after, scheduled = _expected(invocation, warnings), False
    return Facts(
        now=datetime.now(UTC),
        runtime=str(path.parent),
        status=status,
        alive=alive,
        past=_past(places, warnings),
        stale_after=stale_after,
        next_timer=None if scheduled else timers.next_elapse(TIMER),
        warnings=warnings,
        conf_changed=conf_changed(status) if status is not None and alive else None,
        refused=refused,
    )


def _alive(status: Status, warnings: list[str]) -> bool:
    """Whether the process that wrote it is there; one that is hidden from us (hidepid, proc(5)) has our trust."""
    if lives(status):
        return True
    if born(status.pid) is not None:
        return False
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    warnings.append(f"/proc hides process {status.pid} from this user: it is taken for the daemon")
    return True


def _expected(invocation: Invocation, warnings: list[str]) -> float:
    """What the configuration says of `stale_after`, or the default where it cannot be read."""
    reading = read_config(invocation.directory, os.environ)
    if reading.config is not None:
        return reading.config.daemon.stale_after
    warnings += [f"the configuration cannot be used: {mistake}" for mistake in reading.mistakes]
    return invocation.places().daemon.stale_after


def _places(invocation: Invocation, warnings: list[str]) -> Config:
    """Whose daemon is meant: where this user has none and has named no place, the machine's own."""
    own = invocation.places()
    if any(os.environ.get(name) for name in _NAMED) or status_path(own).exists():
        return own
    system = msgspec.structs.replace(own, runtime=SYSTEM_RUNTIME, state=SYSTEM_STATE)
    try:
        there = status_path(system).exists()
    except PermissionError:
        warnings.append(
            f"a daemon of this machine's may be in {SYSTEM_RUNTIME}, which this user may not read: be root, or in the"
            " group sysbackup"
        )
        return own
    return system if there else own


def _past(places: Config, warnings: list[str]) -> list[RunResult]:
    try:
        return history.recall(places, later=warnings.append)
    except SpoolError as error:
        warnings.append(f"{error}: what stands here may not be all")
        return []


# ---- for people


def _lines(said: Verdict) -> Iterator[str]:
    yield from _headline(said)
    yield ""
    for label, text in _rows(said):
        yield f"{click.style(f'{label:<15}', dim=True)}{text}"
    yield from _problems(said)
    if said.runs:
        yield ""
        yield click.style(f"the last {count(len(said.runs), 'run')}", dim=True)
        yield from _runs(said.runs)


def _headline(said: Verdict) -> Iterator[str]:
    colour = _COLOURS[said.verdict]
    if said.last_complete is not None and not said.reasons:
        said_of = [f"the last complete backup ended {_age(said, said.last_complete.finished)}"]
    else:
        said_of = said.reasons
    for number, reason in enumerate(said_of):
        head = f"{said.verdict}: " if number == 0 else " " * (len(said.verdict) + 2)
        yield click.style(head, fg=colour, bold=True) + one_line(reason)
    for warning in said.warnings:
        yield click.style("warning: ", fg="yellow") + one_line(warning)


def _rows(said: Verdict) -> Iterator[tuple[str, str]]:
    yield "daemon", _daemon(said)
    if (current := said.current) is not None:
        passed = (said.time - current.started).total_seconds()
        text = f"{doing(current.progress, passed)}: {current.run or 'a run that has no name yet'}"
        yield "now", text + ("; one more run will follow" if said.asked else "")
    yield "last run", _run(said, said.last)
    yield "last complete", _run(said, said.last_complete)
    if said.last_stored not in (said.last, said.last_complete):
        yield "last stored", _run(said, said.last_stored)
    yield "next run", _next(said)
    yield "promised", _promised(said)


def _daemon(said: Verdict) -> str:
    if said.since is None:
        return click.style("gone" if said.daemon == "dead" else "none", fg="red")
    up = rough_duration((said.time - said.since).total_seconds())
    return f"{said.daemon}, process {said.pid}, since {when(said.since)} ({up})"


def _run(said: Verdict, ended: RunResult | None) -> str:
    if ended is None:
        return "none"
    ending = click.style(_ENDINGS.get(ended.outcome, ended.outcome), fg=_OUTCOMES.get(ended.outcome))
    took = elapsed((ended.finished - ended.started).total_seconds())
    name = f": {one_line(ended.run)}" if ended.run else ""
    return f"{ending}, {_age(said, ended.finished)} ({when(ended.finished)}), took {took}{name}"


def _next(said: Verdict) -> str:
    if said.next is None:
        return "unknown: when somebody asks for it"
    by = "the daemon's schedule" if said.next_by == "schedule" else TIMER
    rest = (said.next - said.time).total_seconds()
    ahead = f"in {rough_duration(rest)}" if rest >= 1 else "due"
    return f"{ahead} ({when(said.next)}), by {by}"


def _promised(said: Verdict) -> str:
    promises = said.promises
    if promises.last_until is None:
        if said.last_stored is None:
            return "nothing: there is no backup"
        return "nothing: the last backup was made with lock_mode = none, and can be deleted at any time"
    text = f"the last backup until {when(promises.last_until)}"
    if promises.first_end is None or promises.last_end is None:
        return text + ": that is over"
    if promises.backups == 1:
        return text
    known = count(promises.backups, "backup")
    return f"{text}; {known} in the history, the first until {when(promises.first_end)}"


def _problems(said: Verdict) -> Iterator[str]:
    summary = said.last.summary if said.last else None
    if summary is None or not summary.problems:
        return
    yield ""
    yield click.style(f"{count(summary.problems, 'source')} of the last run could not be backed up as asked", dim=True)
    shown = summary.first_problems[:_PROBLEMS_AT_MOST]
    for problem in shown:
        yield f"  {one_line(source(problem))}: {one_line(problem.get('reason', ''))}"
    if summary.problems > len(shown):
        yield f"  and {summary.problems - len(shown):,} more: all of them are in the manifest"


def _runs(runs: list[RunResult]) -> Iterator[str]:
    for ended in runs:
        ending = click.style(f"{_ENDINGS.get(ended.outcome, ended.outcome):<13}", fg=_OUTCOMES.get(ended.outcome))
        took = elapsed((ended.finished - ended.started).total_seconds())
        if (summary := ended.summary) is not None:
            text = f"{count(summary.files, 'file')}, {amount(summary.bytes)}, {amount(summary.stored)} stored"
        else:
            text = one_line(ended.reason or "")
        yield f"  {when(ended.finished)}  {ending}  {took:>12}  {text}"


def _age(said: Verdict, instant: datetime) -> str:
    return ago((said.time - instant).total_seconds())
