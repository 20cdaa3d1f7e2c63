"""`sysbackup restore`: files back again."""

import os
from contextlib import nullcontext
from time import monotonic

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from sysbackup.api.restorer import Restorer, spool_of
from sysbackup.cli import process_setup, streams
from sysbackup.cli.display import count
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.ls import Choice, json_option, selected, version_option, whose_option
from sysbackup.cli.terminal import Terminal, put_json
from sysbackup.concurrency.event_loop import run
from sysbackup.config.units import amount, elapsed
from sysbackup.model import Problem, shown
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import NAMED_IN_THE_WAY, Counts, Options, Report


class RestoreSummary(Struct, frozen=True):
    """How a restore ended, as `restore --json` prints it."""

    run: str
    host: str
    manifest_version: str | None
    target: str
    seconds: float
    counts: Counts
    warnings: tuple[str, ...]
    problems: tuple[dict[str, str], ...]


@click.command("restore")
@click.argument("name", metavar="RUN")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--target",
    type=click.UNPROCESSED,
    required=True,
    metavar="DIRECTORY",
    help="Restore beneath this directory, made where missing. / restores over this machine.",
)
@whose_option
@version_option
@click.option("--overwrite", is_flag=True, help="Replace files that are in the way. Directories are never replaced.")
@click.option("--numeric-owner", is_flag=True, help="Restore owners by number even where their names exist here.")
@json_option
@pass_invocation
def restore_command(
    invocation: Invocation,
    *,
    name: str,
    paths: tuple[str, ...],
    target: str,
    host: str | None,
    version: str | None,
    overwrite: bool,
    numeric_owner: bool,
    as_json: bool,
) -> int:
    """
    Restore a backup: all of it, or each PATH and what lies beneath it.

    RUN is a name that `sysbackup list` shows, its beginning, or `latest`. Every
    file is checked against its SHA-256 before it gets its name. A file that is
    there and right is not fetched again; something else that is in the way is
    kept unless --overwrite is given. Exit status 0: all is back. 3:
    something is not; it is named on standard error.
    """
    process_setup.prepare()
    streams.done_anyway()
    config = invocation.config()
    wanted = selected(paths)
    options = Options(overwrite=overwrite, numeric_owner=numeric_owner, spool=spool_of(config))
    watcher = _Watcher(Terminal(stderr=True))
    begun = monotonic()
    with watcher.shown():
        found, report = run(
            _restore(invocation, Choice(name, host, version), wanted, os.fsencode(target), options, watcher)
        )
    seconds = monotonic() - begun
    if as_json:
        problems = tuple({"path": p.shown, "reason": p.reason} for p in report.problems)
        where = shown(os.fsencode(target))
        summary = RestoreSummary(
            found.run, found.host, found.version, where, seconds, report.counts, report.warnings, problems
        )
        put_json(msgspec.json.encode(summary))
    else:
        _show(found, report, seconds)
    return report.exit_code


async def _restore(
    invocation: Invocation,
    choice: Choice,
    paths: list[bytes],
    target: bytes,
    options: Options,
    watcher: "_Watcher",
) -> tuple[stored_runs.StoredRun, Report]:
    async with Restorer.of(invocation.config()).backups() as backups:
        found = await choice.find(backups, invocation)
        return found, await backups.restore(found, target, paths, options, watcher)


class _Watcher:
    """Shows a restore: a bar on a terminal, problems as they come."""

    def __init__(self, errors: Console) -> None:
        self._errors = errors
        self._bars = Bars(
            TextColumn("[cyan]Restoring"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[files]}"),
            console=errors,
            transient=True,
        )
        self._task = self._bars.add_task("", total=None, files="")
        self._files = self._all = 0

    def shown(self) -> "Bars | nullcontext[None]":
        """The display, to be entered for as long as the restore goes on."""
        return self._bars if self._errors.is_terminal else nullcontext()

    def planned(self, files: int, size: int) -> None:
        """How much is to come."""
        self._all = files
        self._bars.update(self._task, total=size)

    def done(self, files: int, size: int) -> None:
        """So much more has been dealt with."""
        self._files += files
        self._bars.update(self._task, advance=size, files=f"{self._files:,} of {self._all:,} files")

    def problem(self, problem: Problem) -> None:
        """Name it at once: a long list is no help at the end."""
        self._errors.print(
            f"sysbackup: {problem.shown}: {shown(problem.reason.encode())}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _show(found: stored_runs.StoredRun, report: Report, seconds: float) -> None:
    console = Terminal()
    counts = report.counts
    good = report.exit_code == 0
    mark, colour = ("✔", "green") if good else ("!", "yellow")
    console.print(
        f"[{colour}]{mark}[/] Restored {count(counts.files, 'file')} ({amount(counts.bytes)}) of {found.run}"
        f" in {elapsed(seconds)}.",
        highlight=False,
    )
    others = {
        "directory": (counts.directories, "directories"),
        "hard link": (counts.hard_links, ""),
        "symbolic link": (counts.symlinks, ""),
        "FIFO or device": (counts.specials, "FIFOs and devices"),
    }
    also = ", ".join(count(number, noun, plural) for noun, (number, plural) in others.items() if number)
    if also:
        console.print(f"  Also {also}.", highlight=False)
    if counts.present:
        console.print(f"  {count(counts.present, 'file')} there before {_was(counts.present)} right.", highlight=False)
    if counts.in_the_way:
        named = f" (the first {NAMED_IN_THE_WAY} are named above)" if counts.in_the_way > NAMED_IN_THE_WAY else ""
        console.print(
            f"  {count(counts.in_the_way, 'thing')} in the way {_was(counts.in_the_way)} kept{named}."
            " --overwrite replaces files.",
            highlight=False,
            soft_wrap=True,
        )
    if counts.kept:
        console.print(
            f"  {count(counts.kept, 'directory', 'directories')} there before kept their rights.", highlight=False
        )
    for warning in report.warnings:
        console.print(f"  Note: {shown(warning.encode())}", markup=False, highlight=False, soft_wrap=True)
    if not good:
        # of what is in the way a line above has told
        number = max(counts.failed, len(report.problems)) - counts.in_the_way
        if number > 0:
            console.print(f"[yellow]  {count(number, 'problem')}, named above.[/]", highlight=False)


def _was(number: int) -> str:
    return "was" if number == 1 else "were"
