"""`sysbackup ls`: what a backup holds."""

import os
import stat
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click
from msgspec import UNSET

from sysbackup.api.restorer import Backups, Restorer
from sysbackup.cli.chosen_run import choose
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import put, put_json, say
from sysbackup.concurrency.event_loop import run
from sysbackup.errors import FormatError, UsageError
from sysbackup.files import acl
from sysbackup.files.owners import Owners
from sysbackup.files.permissions import flags_bits
from sysbackup.formats import manifest
from sysbackup.formats.manifest import (
    BlockDevice,
    CharDevice,
    Directory,
    Entry,
    Fifo,
    File,
    FileNode,
    Link,
    Snapshot,
)
from sysbackup.model import shown
from sysbackup.recovery import stored_runs
from sysbackup.recovery.selecting import Selection, check_length

_NAMED = 10  # so many entries that make no sense are named one by one

host_option = click.option("--host", metavar="HOST", help="Backups of this host alone.")
version_option = click.option(
    "--version", "version", metavar="ID", help="This version of its manifest, where `sysbackup list` shows several."
)
whose_option = click.option(
    "--host", metavar="HOST", help="Take this host's backup.  [default: this machine's own, where it makes backups]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("ls")
@click.argument("name", metavar="RUN")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.UNPROCESSED)
@whose_option
@version_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's entries, one JSON object on each line.")
@pass_invocation
def ls_command(
    invocation: Invocation, *, name: str, paths: tuple[str, ...], host: str | None, version: str | None, as_json: bool
) -> int:
    """
    List what a backup holds: all of it, or each PATH and what lies beneath it.

    RUN is a name that `sysbackup list` shows, its beginning, or `latest`. Times
    are in UTC. A + after the permissions tells of an ACL.
    """
    missing, senseless = run(_ls(invocation, Choice(name, host, version), selected(paths), as_json=as_json))
    for path in missing:
        say(f"the backup holds no {shown(path)}")
    if senseless > _NAMED:
        say(f"… and {senseless - _NAMED:,} more entries make no sense")
    return 1 if missing or senseless else 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which run a command line means."""

    name: str
    host: str | None
    version: str | None

    async def find(self, backups: Backups, invocation: Invocation) -> stored_runs.StoredRun:
        """That run; what is odd about it, or how it was chosen, is told on standard error."""
        found = await choose(backups, invocation, self.name, self.host, self.version)
        for note in (*found.notes, found.run.oddity):
            if note:
                say(note)
        return found.run


def selected(paths: Sequence[str]) -> list[bytes]:
    """The paths of a command line as bytes. `UsageError` for one that no backup can hold."""
    found = [os.fsencode(path) for path in paths]
    for path in found:
        if not path.startswith(b"/"):
            raise UsageError(f"{shown(path)} is no absolute path: a backup holds whole paths, like /etc/hosts")
    return found


async def _ls(
    invocation: Invocation, choice: Choice, paths: Sequence[bytes], *, as_json: bool
) -> tuple[list[bytes], int]:
    """Print the entries; returns the paths that met none, and how many entries made no sense (the first are named)."""
    selection = Selection(paths)
    owners = Owners()
    senseless = 0
    async with Restorer.of(invocation.config()).backups() as backups:
        found = await choice.find(backups, invocation)
        async with aclosing(backups.batches(found, selection)) as batches:
            async for batch in batches:
                lines: list[bytes] = []
                for entry in batch:
                    try:
                        if _is_meant(entry, selection, everything=not paths):
                            lines.append(manifest.encode(entry) if as_json else _line(entry, owners).encode())
                    except FormatError as exc:
                        senseless += 1
                        if senseless <= _NAMED:
                            say(f"an entry of the manifest makes no sense: {exc}")
                if lines:
                    _print(lines, as_json=as_json)
    return selection.unmatched, senseless


def _print(lines: list[bytes], *, as_json: bool) -> None:
    if as_json:
        put_json(b"\n".join(lines))
    else:
        put(b"\n".join(lines).decode())


def _is_meant(entry: Entry, selection: Selection, *, everything: bool) -> bool:
    if isinstance(entry, Snapshot):
        return everything
    if not isinstance(entry, manifest.Node):
        return False
    path = entry.path_bytes
    check_length(path)
    return path in selection


_KINDS: dict[type[Entry], int] = {
    File: stat.S_IFREG,
    Link: stat.S_IFLNK,
    Directory: stat.S_IFDIR,
    Fifo: stat.S_IFIFO,
    CharDevice: stat.S_IFCHR,
    BlockDevice: stat.S_IFBLK,
}


def _line(entry: Entry, owners: Owners) -> str:
    """An entry as `ls -l` would show it, safe for a terminal."""
    if isinstance(entry, Snapshot):
        about = f"  ({shown(entry.description.splitlines()[0].encode())})" if entry.description.strip() else ""
        moment = entry.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return f"snapshot   {'':<17} {entry.size:>13} {moment} {shown(entry.name.encode())}{about}"
    if not isinstance(entry, FileNode):
        raise TypeError(entry)
    owner, group = (shown(str(name).encode()) for name in (entry.owner, entry.group))
    path = shown(entry.path_bytes)
    if isinstance(entry, Link):
        path += f" -> {shown(entry.target_bytes)}"
    return f"{_mode(entry, owners)} {owner:<8} {group:<8} {_extent(entry):>13} {_moment(entry.mtime)} {path}"


def _mode(entry: FileNode, owners: Owners) -> str:
    kind = _KINDS[type(entry)]
    if isinstance(entry, Link):
        return stat.filemode(kind | 0o777) + " "
    try:
        flags = 0 if entry.flags is UNSET else flags_bits(entry.flags)
        if entry.acl is not UNSET:
            rights = acl.parse(entry.acl, owners)
            mark = " " if rights.access is None and rights.default is None else "+"
            return stat.filemode(kind | flags | rights.mode) + mark
    except FormatError:
        return stat.filemode(kind)[0] + "????????? "
    return stat.filemode(kind | flags | (0 if entry.mode is UNSET else entry.mode & 0o777)) + " "


def _extent(entry: FileNode) -> str:
    if isinstance(entry, File):
        return str(entry.size)
    if isinstance(entry, CharDevice | BlockDevice):
        return f"{entry.major}, {entry.minor}"
    return str(len(entry.target_bytes)) if isinstance(entry, Link) else "-"


def _moment(mtime: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=mtime // 1_000_000_000)
    except OverflowError:
        return f"{'?':<19}"
    return moment.strftime("%Y-%m-%d %H:%M:%S")
