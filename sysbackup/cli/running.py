"""`sysbackup run`: one backup now."""

from contextlib import nullcontext

import click
import msgspec
from rich.console import Console

from sysbackup.cli import process
from sysbackup.cli.display import Progress, show_summary
from sysbackup.cli.frame import Frame, pass_frame
from sysbackup.cli.looping import run
from sysbackup.cli.opening import open_store
from sysbackup.config import Config
from sysbackup.model import SystemClock
from sysbackup.pipeline.report import Summary
from sysbackup.pipeline.run import back_up


@click.command("run")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--rescan", is_flag=True, help="Read every file, also those that look unchanged.")
@pass_frame
def command(frame: Frame, as_json: bool, rescan: bool) -> int:
    """
    Make one backup now.

    Runs all pickers and snapshotters, stores what is new, and last of all the
    manifest. Exit status 0: complete. 3: the manifest is stored, some sources
    had problems. Any other: there is no manifest of this run; what it had
    stored stays locked and serves the next one.
    """
    process.prepare()
    config = frame.config()
    errors = Console(stderr=True)
    progress = Progress(errors)
    with progress.live(frame.log_level) if errors.is_terminal else nullcontext():
        summary = run(_run(config, progress, rescan=rescan))
    if as_json:
        click.echo(msgspec.json.encode(summary))
    else:
        show_summary(Console(), summary)
    return summary.exit_code


async def _run(config: Config, progress: Progress, *, rescan: bool) -> Summary:
    async with open_store(config) as store:
        return await back_up(config, store, store.bucket, SystemClock(), progress.watch, rescan=rescan)
