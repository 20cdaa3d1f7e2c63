"""`sysbackup list` and `sysbackup ls`: what the bucket holds, and what a backup holds."""

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import click
import msgspec
from msgspec import UNSET, Struct
from rich.table import Table
from rich.text import Text

from sysbackup.cli.choosing import choose
from sysbackup.cli.display import size, when
from sysbackup.cli.frame import Frame, pass_frame
from sysbackup.cli.looping import run
from sysbackup.cli.opening import open_store
from sysbackup.cli.terminal import Terminal, put, put_json, say
from sysbackup.config import Config
from sysbackup.errors import FormatError, ObjectGone, RestoreError, UsageError
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
    RunHeader,
    Snapshot,
)
from sysbackup.model import shown
from sysbackup.recovery import history
from sysbackup.recovery.selecting import Selection, check_length
from sysbackup.sources import acl
from sysbackup.sources.owners import Owners
from sysbackup.store.port import ObjectStore

_NAMED = 10  # so many entries that make no sense are named one by one

_AT_ONCE = 8  # manifests whose first line is read at the same time

host_option = click.option("--host", metavar="HOST", help="Backups of this host alone.")
whose_option = click.option(
    "--host", metavar="HOST", help="Take this host's backup.  [default: this machine's own, where it makes backups]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Listed(Struct, frozen=True, omit_defaults=True):
    """One run, as `list --json` prints it."""

    run: str
    host: str
    started: datetime
    manifest: str
    version: str | None
    size: int
    promise: datetime | None = None
    tool: str | None = None
    oddity: str | None = None


@click.command("list")
@host_option
@click.option("--long", "-l", "long", is_flag=True, help="Read each manifest's first line: until when it is promised.")
@json_option
@pass_frame
def list_command(frame: Frame, *, host: str | None, long: bool, as_json: bool) -> int:
    """List the backups in the bucket, the newest last."""
    found = run(_list(frame.config(), host, long=long))
    if as_json:
        put_json(msgspec.json.encode(found))
        return 0
    console = Terminal()
    if not found:
        if host is not None:
            raise RestoreError(f"there is no backup of {shown(host.encode())}; sysbackup list shows those of all hosts")
        console.print("There is no backup yet.")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "HOST", "STARTED", *(("PROMISED UNTIL", "BY") if long else ())):
        table.add_column(column, no_wrap=True)
    table.add_column("MANIFEST", justify="right", no_wrap=True)
    for row in found:
        promised = (when(row.promise) if row.promise else "?", _plain(row.tool or "?")) if long else ()
        table.add_row(row.run, _plain(row.host), when(row.started), *promised, size(row.size))
    # Never narrower than what is in it: a name that was cut cannot be given to `restore`.
    Terminal(width=max(console.width, 240)).print(table)
    for row in found:
        if row.oddity:
            say(f"{row.run}: {row.oddity}")
    return 0


@click.command("ls")
@click.argument("name", metavar="RUN")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.UNPROCESSED)
@whose_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's entries, one JSON object on each line.")
@pass_frame
def ls_command(frame: Frame, *, name: str, paths: tuple[str, ...], host: str | None, as_json: bool) -> int:
    """
    List what a backup holds: all of it, or each PATH and what lies beneath it.

    RUN is a name that `sysbackup list` shows, its beginning, or `latest`. Times
    are in UTC. A + after the permissions tells of an ACL.
    """
    missing, senseless = run(_ls(frame, name, selected(paths), host, as_json=as_json))
    for path in missing:
        say(f"the backup holds no {shown(path)}")
    if senseless > _NAMED:
        say(f"… and {senseless - _NAMED:,} more entries make no sense")
    return 1 if missing or senseless else 0


def selected(paths: Sequence[str]) -> list[bytes]:
    """The paths of a command line as bytes. `UsageError` for one that no backup can hold."""
    found = [os.fsencode(path) for path in paths]
    for path in found:
        if not path.startswith(b"/"):
            raise UsageError(f"{shown(path)} is no absolute path: a backup holds whole paths, like /etc/hosts")
    return found


async def _list(config: Config, host: str | None, *, long: bool) -> list[Listed]:
    async with open_store(config) as store:
        found = await history.runs(store, host)
        if not long:
            return [_listed(r, None) for r in found]
        slots = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            headers = [group.create_task(_header(store, r, slots)) for r in found]
        return [_listed(r, header.result()) for r, header in zip(found, headers, strict=True)]


async def _header(store: ObjectStore, found: history.Run, slots: asyncio.Semaphore) -> RunHeader | None:
    async with slots:
        try:
            return await history.header(store, found)
        except (FormatError, ObjectGone):
            return None  # shown as '?': a restore of it would say what is wrong


def _listed(found: history.Run, header: RunHeader | None) -> Listed:
    return Listed(
        found.run,
        found.host,
        found.started,
        found.key,
        found.version,
        found.size,
        header.promise if header else None,
        header.tool if header else None,
        found.oddity,
    )


async def _ls(
    frame: Frame, name: str, paths: Sequence[bytes], host: str | None, *, as_json: bool
) -> tuple[list[bytes], int]:
    """Print the entries; returns the paths that met none, and how many entries made no sense (the first are named)."""
    selection = Selection(paths)
    owners = Owners()
    senseless = 0
    async with open_store(frame.config()) as store:
        found = await choose(store, frame, name, host)
        if found.oddity:
            say(found.oddity)
        async with aclosing(history.batches(store, found)) as batches:
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
        flags = 0 if entry.flags is UNSET else acl.flags_bits(entry.flags)
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


def _plain(text: str) -> Text:
    """Text from the bucket, which may hold markup or terminal commands."""
    return Text(shown(text.encode()))
