"""`sysbackup restore` and `sysbackup restore-snapshot`: back again."""

import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from sysbackup.cli import process_setup, streams
from sysbackup.cli.connecting import open_store
from sysbackup.cli.display import count
from sysbackup.cli.event_loop import run
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.list import list_command
from sysbackup.cli.ls import Choice, json_option, ls_command, selected, version_option, whose_option
from sysbackup.cli.output import into_descriptor, into_file
from sysbackup.cli.streams import NobodyReads, Unprinted
from sysbackup.cli.terminal import Terminal, put_json, say
from sysbackup.config.sections import Config
from sysbackup.config.units import amount, elapsed
from sysbackup.errors import FormatError, ProgramError, RestoreError, UsageError
from sysbackup.formats.manifest import Snapshot
from sysbackup.model import Problem, shown
from sysbackup.programs.piping import pipe_into
from sysbackup.recovery import snapshots, stored_runs
from sysbackup.recovery.restore_report import NAMED_IN_THE_WAY, Counts, Options, Report
from sysbackup.recovery.restoring import restore
from sysbackup.store.port import ObjectStore

__all__ = ["list_command", "ls_command", "restore_command", "restore_snapshot_command"]


class Summary(Struct, frozen=True):
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
    options = Options(overwrite=overwrite, numeric_owner=numeric_owner, spool=_spool(config))
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
        summary = Summary(
            found.run, found.host, found.version, where, seconds, report.counts, report.warnings, problems
        )
        put_json(msgspec.json.encode(summary))
    else:
        _show(found, report, seconds)
    return report.exit_code


@click.command("restore-snapshot")
@click.argument("name", metavar="RUN")
@click.argument("snapshot", metavar="NAME")
@whose_option
@version_option
@click.option("--run", "through", is_flag=True, help="Pipe the data into the command recorded with the snapshot.")
@click.option("--yes", is_flag=True, help="Run that command without asking.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the data to this file.")
@click.option("--force", is_flag=True, help="Write to a terminal all the same, or over an existing FILE.")
@pass_invocation
def restore_snapshot_command(
    invocation: Invocation,
    *,
    name: str,
    snapshot: str,
    host: str | None,
    version: str | None,
    through: bool,
    yes: bool,
    output: Path | None,
    force: bool,
) -> int:
    """
    Fetch what a snapshotter wrote: to standard output, a file, or its restore command.

    The data are checked against their SHA-256 as they come; the last of them
    are held back until it is known to be right. NAME is as `sysbackup ls` shows it.
    """
    config = invocation.config()
    _check_destination(output, through=through, force=force)
    found = run(_find(invocation, Choice(name, host, version), snapshot))
    if through:
        _confirm(found, yes=yes)
    run(_pour(config, found, output, through=through, force=force))
    return 0


async def _restore(
    invocation: Invocation,
    choice: Choice,
    paths: list[bytes],
    target: bytes,
    options: Options,
    watcher: "_Watcher",
) -> tuple[stored_runs.StoredRun, Report]:
    async with open_store(invocation.config()) as store:
        found = await choice.find(store, invocation)
        return found, await restore(store, found, paths, target, options, watcher)


async def _find(invocation: Invocation, choice: Choice, snapshot: str) -> Snapshot:
    async with open_store(invocation.config()) as store:
        found = await choice.find(store, invocation)
        return await snapshots.find_snapshot(store, found, snapshot)


async def _pour(config: Config, found: Snapshot, output: Path | None, *, through: bool, force: bool) -> None:
    async with open_store(config) as store:
        try:
            await _pour_once(store, found, output, through=through, force=force)
        except FormatError as exc:
            # It may have been the way: a file begins anew, what went into a pipe cannot be called back.
            if output is not None:
                await _pour_once(store, found, output, through=through, force=force)
            elif await snapshots.is_whole(store, found):
                raise FormatError(
                    f"snapshot {found.name!r} was damaged on its way here; in the bucket it is whole. Its end was held"
                    " back: do not use what came before it, and fetch it again"
                ) from exc
            else:
                raise


async def _pour_once(store: ObjectStore, found: Snapshot, output: Path | None, *, through: bool, force: bool) -> None:
    data = snapshots.data(store, found)
    if output is not None:
        await into_file(data, output, overwrite=force)
    elif not through:
        await _print(data)
    elif status := await pipe_into(found.restore or "", data):
        raise ProgramError(
            f"the restore command of {found.name!r} ended with status {status}: what it did is not complete"
        )


async def _print(data: AsyncGenerator[bytes, None]) -> None:
    try:
        await into_descriptor(data, sys.stdout.fileno())
    except BrokenPipeError:
        raise NobodyReads from None
    except OSError as exc:
        raise Unprinted(f"cannot write to standard output: {exc.strerror}") from exc


def _check_destination(output: Path | None, *, through: bool, force: bool) -> None:
    if through and output is not None:
        raise UsageError("--run and --output exclude each other")
    if output is not None and output.exists() and not force:
        raise UsageError(f"{output} is there already: choose another name, or say --force")
    if not through and output is None and sys.stdout.isatty() and not force:
        raise UsageError("a snapshot's data are not for a terminal: redirect them, or say --output FILE or --force")


def _confirm(found: Snapshot, *, yes: bool) -> None:
    """Show the recorded command and ask, unless that was answered already."""
    if not found.restore:
        raise RestoreError(
            f"no restore command was recorded with snapshot {found.name!r}; fetch its data without --run"
        )
    say(f"{count(found.size, 'byte')} go into: {shown(found.restore.encode())}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked whether to run this command: say --yes")
    if not click.confirm("Run this command now?", err=True):
        raise RestoreError("the command was not run, and nothing was changed")


def _spool(config: Config) -> Path:
    """Where sorted lists wait: the cache, or the temporary directory of whoever cannot write there."""
    if os.access(config.cache, os.W_OK | os.X_OK):
        return config.cache
    return Path(tempfile.gettempdir())


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
