"""`sysbackup demo`: a backup's whole life on a server of its own, in a few seconds."""

import os
import signal
import stat
import sys
from asyncio import get_running_loop
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from time import monotonic

import click

from sysbackup import logs
from sysbackup.cli import process_setup
from sysbackup.cli.display import count
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import Terminal
from sysbackup.concurrency.event_loop import run
from sysbackup.config.sections import GIB
from sysbackup.config.units import amount, elapsed
from sysbackup.demo.comparing import extent
from sysbackup.demo.embedded import embedded_s3, environment_of_its_own
from sysbackup.demo.screen import Screen
from sysbackup.demo.story import Story
from sysbackup.demo.tree_walk import made_up
from sysbackup.demo.workspace import workspace
from sysbackup.errors import UsageError
from sysbackup.model import shown

_DEFAULT = "/etc"
_AT_MOST = GIB


@click.command("demo")
@click.argument("path", type=click.UNPROCESSED, default=_DEFAULT)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="Leave the configuration and the restored files here to look at. It must be empty or not exist.",
)
@click.option("--all", "everything", is_flag=True, help=f"Take PATH even if it holds more than {amount(_AT_MOST)}.")
@pass_invocation
def command(invocation: Invocation, path: str, keep: Path | None, everything: bool) -> int:
    """
    Try it all out on an S3 server inside this program.

    Backs PATH up (a file or directory; /etc if none is named), attacks the
    backup, restores it and compares. Needs no network, no AWS account and no
    rights; nothing of it is left afterwards. Exit status 0: all went as
    promised. 1: something did not, and is named.
    """
    process_setup.prepare()
    # Problems are part of the story; the log's lines would only repeat them.
    logs.configure("error" if invocation.log_level == "info" else invocation.log_level)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal's character set has a check mark
    begun = monotonic()
    screen = Screen(Terminal(highlight=False))
    subject = _subject(path)
    run(_demo(screen, subject, keep, everything=everything))
    screen.console.print()
    where = "the server is stopped" if keep else "the server is stopped, nothing is left behind"
    screen.good(f"All as promised, in {elapsed(monotonic() - begun)}; {where}")
    return 0


async def _demo(screen: Screen, subject: bytes, keep: Path | None, *, everything: bool) -> None:
    """In one coroutine from its first file on, so that a signal finds it where it can clean up."""
    with ExitStack() as stack:
        stack.enter_context(_hangup_ends())
        stack.enter_context(environment_of_its_own())
        found = extent(subject, None if everything else _AT_MOST)
        if not everything and found.total > _AT_MOST:
            raise UsageError(
                f"{shown(subject)} holds more than {amount(_AT_MOST)}, and the demo's server keeps what it is given on "
                "this machine: name something smaller, or say --all"
            )
        place = stack.enter_context(workspace(keep, found.total))
        endpoint = stack.enter_context(embedded_s3())
        screen.title(
            "sysbackup demo: a backup's whole life in a few seconds",
            f"Of {shown(subject)}, to an S3 server inside this program. Nothing leaves this machine.",
        )
        screen.say(f"{shown(subject)} holds {count(found.entries, 'entry', 'entries')}, {amount(found.size)}.")
        if found.elsewhere:
            screen.say(f"Links in it lead to {amount(found.elsewhere)} of files elsewhere; a backup keeps those too.")
        if found.closed:
            screen.note(
                f"{count(found.closed, 'entry', 'entries')} not readable for this user: left out. Root gets all."
            )
        await Story(screen, subject, place, endpoint).tell()
        _whither(screen)
        if place.kept:
            screen.end(f"Kept in {place.root}")
            screen.say("config/ is the configuration, restored/ what came back, machine.txt the snapshot.")
            screen.say("The bucket is gone: it was the server's own, and ends with this command.")
            screen.say(f"When you have seen enough: rm -r {place.root}")


def _subject(path: str) -> bytes:
    """PATH, absolute and without links."""
    if path.startswith("~") and not os.path.lexists(path):
        path = os.path.expanduser(path)
    try:
        subject = os.path.realpath(os.fsencode(path), strict=True)
        mode = os.lstat(subject).st_mode
    except OSError as error:
        raise UsageError(f"{shown(os.fsencode(path))} cannot be backed up: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{shown(os.fsencode(path))} is no path: {error}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UsageError(f"{shown(subject)} is neither a file nor a directory")
    if made_up(subject):
        raise UsageError(f"{shown(subject)} holds what the kernel makes up, no files: name another path")
    if not os.access(subject, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise UsageError(f"{shown(subject)} may not be read by this user: name another path, or be root")
    return subject


@contextmanager
def _hangup_ends() -> Iterator[None]:
    """A closed terminal ends the demo as SIGTERM does, not without cleaning up; under nohup(1) it does not."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield
        return
    loop = get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _whither(screen: Screen) -> None:
    screen.end("Where to go from here")
    screen.say("A bucket, made once by an administrator (its name is yours to choose):")
    screen.commands("aws s3api create-bucket --bucket my-backups --object-lock-enabled-for-bucket")
    screen.say("(Outside us-east-1 add: --create-bucket-configuration LocationConstraint=REGION)")
    screen.say("As root, /etc/backup/conf with at least:")
    screen.commands("[s3]", "bucket = my-backups")
    screen.say("Pickers in /etc/backup/pickers.d, snapshotters in /etc/backup/snapshots.d, executable.")
    screen.say("Then:")
    screen.commands("sysbackup check-config", "sysbackup run", "sysbackup list")
    screen.say("README.rst goes on: the rights a machine needs, snapshotters for databases, restoring by hand.")
