"""`sysbackup restore-snapshot`: what a snapshotter wrote, back again."""

import sys
from contextlib import aclosing
from pathlib import Path

import click

from sysbackup.api.restorer import Backups, Restorer
from sysbackup.cli.display import count
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.ls import Choice, version_option, whose_option
from sysbackup.cli.output import into_file, into_output
from sysbackup.cli.terminal import say
from sysbackup.concurrency.event_loop import run
from sysbackup.config.sections import Config
from sysbackup.errors import FormatError, ProgramError, RestoreError, UsageError
from sysbackup.formats.manifest import Snapshot
from sysbackup.model import shown
from sysbackup.programs.piping import pipe_into


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


async def _find(invocation: Invocation, choice: Choice, snapshot: str) -> Snapshot:
    async with Restorer.of(invocation.config()).backups() as backups:
        return await backups.snapshot(await choice.find(backups, invocation), snapshot)


async def _pour(config: Config, found: Snapshot, output: Path | None, *, through: bool, force: bool) -> None:
    async with Restorer.of(config).backups() as backups:
        try:
            await _pour_once(backups, found, output, through=through, force=force)
        except FormatError as exc:
            # It may have been the way: a file begins anew, what went into a pipe cannot be called back.
            if output is not None:
                await _pour_once(backups, found, output, through=through, force=force)
            elif await backups.is_whole(found):
                raise FormatError(
                    f"snapshot {found.name!r} was damaged on its way here; in the bucket it is whole. Its end was held"
                    " back: do not use what came before it, and fetch it again"
                ) from exc
            else:
                raise


async def _pour_once(backups: Backups, found: Snapshot, output: Path | None, *, through: bool, force: bool) -> None:
    async with aclosing(backups.snapshot_data(found)) as data:
        if output is not None:
            await into_file(data, output, overwrite=force)
            return
        if not through:
            await into_output(data)
            return
        status = await pipe_into(found.restore or "", data)
    if status:
        raise ProgramError(
            f"the restore command of {found.name!r} ended with status {status}: what it did is not complete"
        )


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
