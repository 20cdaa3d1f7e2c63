"""
The `sysbackup` command: its options, its commands, and how it ends.

Commands live in modules of their own, loaded when they are called: `--help`
answers at once, and lists them all.
"""

import difflib
import errno
import importlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import click

from sysbackup import logs
from sysbackup.cli import streams
from sysbackup.cli.invocation import Invocation
from sysbackup.cli.streams import NobodyReads
from sysbackup.cli.terminal import say
from sysbackup.concurrency.event_loop import Stopped
from sysbackup.config.directories import config_directory
from sysbackup.errors import ConfigError, SysbackupError, expected
from sysbackup.model import printable, shown
from sysbackup.version import VERSION

_COMMANDS = {
    "run": ("sysbackup.cli.run:command", "Make one backup now."),
    "daemon": ("sysbackup.cli.daemon:command", "Wait, and make backups when asked or scheduled."),
    "trigger": ("sysbackup.cli.trigger:command", "Have the daemon make a backup."),
    "status": ("sysbackup.cli.status:command", "Tell whether backups happen."),
    "list": ("sysbackup.cli.list:list_command", "List the backups in the bucket."),
    "ls": ("sysbackup.cli.ls:ls_command", "List what a backup holds."),
    "cat": ("sysbackup.cli.cat:cat_command", "Print one file of a backup."),
    "restore": ("sysbackup.cli.restore:restore_command", "Restore files from a backup."),
    "restore-snapshot": (
        "sysbackup.cli.restore_snapshot:restore_snapshot_command",
        "Fetch a snapshot, or run its restore command with it.",
    ),
    "catalog": ("sysbackup.cli.catalog:command", "Show or rebuild the local cache of what is stored."),
    "check-config": ("sysbackup.cli.check_config:command", "Check the configuration and show what holds."),
    "demo": ("sysbackup.cli.demo:command", "Try it all out on a store of its own."),
}

_EPILOG = """\b
Exit status: 0 all went well; 3 the backup was made, some sources had problems;
1 it failed; 2 wrong usage; 69 no daemon answers; 75 another run is in progress;
77 access denied; 78 the configuration cannot be used.
"""


class _Later(click.Command):
    """A command that is loaded when it is called; until then its name and one line are enough."""

    def __init__(self, name: str, target: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help, help=short_help)
        self._target = target

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        module, _, attribute = self._target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self._target} is no command")
        return command.make_context(info_name, args, parent, **extra)


class _Commands(click.Group):
    """The commands in the order of the table; a mistyped one is answered with the nearest."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            # click ends quietly on any EPIPE. A connection's is no reason to be quiet; that of `| head` is.
            if error.errno != errno.EPIPE:
                raise
            if _read_by_nobody(sys.stdout):
                raise NobodyReads from None
            raise SysbackupError(f"a pipe or connection was closed by its other end: {error}") from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    commands={name: _Later(name, target, line) for name, (target, line) in _COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    envvar="SYSBACKUP_CONFIG_DIR",
    show_envvar=True,
    help="Where conf, pickers.d and snapshots.d are.  [default: /etc/backup]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    envvar="SYSBACKUP_LOG_LEVEL",
    show_envvar=True,
    help="The least of what is logged, on standard error.",
)
@click.version_option(VERSION, prog_name="sysbackup", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context, config_dir: Path | None, log_level: str) -> None:
    """Back this machine up to S3 under Object Lock: what is promised, nobody can change or delete."""
    logs.configure(log_level)
    ctx.obj = Invocation(config_directory(config_dir, os.environ), log_level)


def main() -> int:
    """The program: runs the command line and returns its status."""
    streams.prepare()
    return invoke(sys.argv[1:])


def invoke(arguments: Sequence[str]) -> int:
    """
    Run a command line and return its exit status.

    A command's own status is the number it returns, or gives to `ctx.exit`.
    Errors are told on standard error, for people: a traceback is a bug. That a
    backup's summary could not be printed is told there, too: its status stands.
    """
    status = _invoke(arguments)
    if reason := streams.unprinted():
        _say(f"cannot write to standard output: {reason}. All else is done, as the exit status says", status=status)
    return status


def _invoke(arguments: Sequence[str]) -> int:
    try:
        status = group.main(args=list(arguments), prog_name="sysbackup", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Abort:
        return _say("stopped by SIGINT", status=128 + signal.SIGINT)
    except Stopped as stopped:
        return _say(str(stopped), status=stopped.exit_code)
    except click.ClickException as error:
        told = StringIO()
        error.show(told)
        # a word of the command line is in the message: no line of it is to pass for one of ours
        message = shown(error.message.encode("utf-8", "surrogateescape"))
        click.echo(printable(told.getvalue().replace(error.message, message)), err=True, nl=False)
        return error.exit_code
    except (NobodyReads, BrokenPipeError):
        return _be_quiet()
    except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, its exit status must be ours
        return _failed(error)


def _failed(error: Exception) -> int:
    causes = expected(error)
    if causes is None:
        # without local variables, which may hold credentials
        click.echo(printable("".join(traceback.format_exception(error))), err=True, nl=False)
        return _say(
            f"this is a bug, please report it with what stands above: {type(error).__name__}: {error}", status=1
        )
    for cause in causes:
        _say(*(cause.mistakes if isinstance(cause, ConfigError) else (str(cause),)), status=cause.exit_code)
    return causes[0].exit_code


def _say(*sentences: str, status: int) -> int:
    say(*sentences)
    return status


def _read_by_nobody(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _be_quiet() -> int:
    """`sysbackup ls | head`: no complaint either when Python flushes its output at the very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
