"""Which backup a name on the command line means: on a machine that makes backups, one of its own."""

import os
from pathlib import Path

from sysbackup.api.restorer import Backups
from sysbackup.cli.invocation import Invocation
from sysbackup.config.loading import read_config
from sysbackup.errors import NoSuchRun
from sysbackup.recovery import stored_runs

_NAMED = 8


def own_host(invocation: Invocation) -> str | None:
    """
    The host whose backups this configuration makes; None where it makes none.

    It makes some where it says who it is (`[content] host`) or has a program.
    What a rescue system is given, a bucket's name and no more, is nobody's: the
    machine's own name means nothing there.
    """
    reading = read_config(invocation.directory, os.environ)
    config = reading.config
    if config is None:
        return None
    known = ("content", "host") in reading.given or any(map(_holds_some, (config.pickers, config.snapshotters)))
    return config.content.host if known else None


async def choose(
    backups: Backups, invocation: Invocation, name: str, host: str | None, version: str | None
) -> stored_runs.Found:
    """
    The run of that name: of `host`, else of this machine itself, else of any.

    `NoSuchRun` where there is none; it names the hosts that have one, if nobody
    has asked for another than this machine. See `Backups.find` for the rest.
    """
    own = own_host(invocation) if host is None else None
    try:
        return await backups.find(name, host or own, version)
    except NoSuchRun as exc:
        if own is None:
            raise
        others = await backups.runs()
        hosts = sorted({run.host for run in others if name == stored_runs.LATEST or run.run.startswith(name)})
        if not hosts:
            raise
        named = ", ".join(hosts[:_NAMED]) + (", …" if len(hosts) > _NAMED else "")
        what = "no backup" if name == stored_runs.LATEST else f"no run {name!r}"
        raise NoSuchRun(
            f"the bucket holds {what} of {own}, which is this machine; there is one of {named}: choose with --host"
        ) from exc


def _holds_some(directory: Path) -> bool:
    try:
        return any(not name.startswith(".") for name in os.listdir(directory))
    except OSError:
        return False
