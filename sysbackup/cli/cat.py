"""`sysbackup cat`: one file of a backup, on standard output."""

import sys
from contextlib import aclosing

import click

from sysbackup.api.restorer import Restorer
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.ls import Choice, selected, version_option, whose_option
from sysbackup.cli.output import into_output
from sysbackup.concurrency.event_loop import run
from sysbackup.errors import UsageError


@click.command("cat")
@click.argument("name", metavar="RUN")
@click.argument("path", type=click.UNPROCESSED)
@whose_option
@version_option
@click.option("--force", is_flag=True, help="Write to a terminal all the same.")
@pass_invocation
def cat_command(
    invocation: Invocation, *, name: str, path: str, host: str | None, version: str | None, force: bool
) -> int:
    """
    Print one file of a backup to standard output.

    It is checked against its SHA-256; of a file above 8 MiB the last bytes are
    held back until it is known to be right. PATH is as `sysbackup ls` has it;
    links are not followed.
    """
    if sys.stdout.isatty() and not force:
        raise UsageError("a file's bytes are not for a terminal: pipe them into less, redirect them, or say --force")
    (wanted,) = selected([path])
    run(_cat(invocation, Choice(name, host, version), wanted))
    return 0


async def _cat(invocation: Invocation, choice: Choice, path: bytes) -> None:
    async with Restorer.of(invocation.config()).backups() as backups:
        file = await backups.file(await choice.find(backups, invocation), path)
        async with aclosing(backups.file_content(file)) as data:
            await into_output(data)
