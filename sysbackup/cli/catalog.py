"""`sysbackup catalog`: what is known of the bucket, and learning it anew."""

import click
import msgspec

from sysbackup.api.connecting import open_store
from sysbackup.catalog.interface import Info
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.cli.display import count, show_rows, when
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import Terminal, put, put_json
from sysbackup.concurrency.event_loop import run
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.config.units import amount
from sysbackup.contents.cache_directory import catalog_path
from sysbackup.contents.rebuilding import rebuild
from sysbackup.disk.sorting import spooling
from sysbackup.errors import UsageError
from sysbackup.model import shown


@click.group("catalog")
def command() -> None:
    """Show or rebuild the catalog, the local cache of what is stored."""


@command.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
@pass_invocation
def info_command(invocation: Invocation, as_json: bool) -> None:
    """Show what the catalog knows."""
    config = invocation.config()
    path = catalog_path(config.cache)
    with spooling(config.cache):
        exists = path.exists()
    if not exists:
        raise UsageError(f"there is no catalog yet at {path}: the first run makes it (sysbackup run)")
    with SqliteCatalog(path, read_only=True) as catalog:
        info = catalog.info()
    if as_json:
        put_json(msgspec.json.encode({"path": str(path), "bytes": path.stat().st_size, **_plain(info)}))
        return
    rows = [
        ("catalog", f"{path}, {amount(path.stat().st_size)}"),
        ("bucket", info.bucket or "none yet"),
        ("knows", f"{count(info.contents, 'content')} in {count(info.objects, 'object')}, {amount(info.stored)}"),
        ("files", f"{count(info.files, 'file')} that need not be read while unchanged"),
    ]
    if info.locks:
        rows.append(("locks", f"the first ends {when(info.locks[0])}, the last {when(info.locks[1])}"))
    rows += [
        ("from", f"{shown(host.encode())}: {count(number, 'object')}") for host, number in sorted(info.hosts.items())
    ]
    if info.unpublished:
        rows.append(("unpublished", f"{count(info.unpublished, 'object')}, in the next run's index"))
    show_rows(Terminal(), rows)


def _plain(info: Info) -> dict[str, object]:
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


@command.command("rebuild")
@click.option(
    "--from-objects",
    is_flag=True,
    help="Read the packs' own lists and the content objects instead of the index (needs s3:GetObject; slower).",
)
@pass_invocation
def rebuild_command(invocation: Invocation, from_objects: bool) -> None:
    """
    Make a new catalog from the bucket alone.

    Nothing in the bucket changes. The old catalog is kept beside the new one. The
    next run reads every file once, and stores only what the bucket does not hold.
    """
    run(_rebuild(invocation.config(), from_objects=from_objects))


async def _rebuild(config: Config, *, from_objects: bool) -> None:
    async with open_store(config) as store:
        info = await rebuild(config, store, SystemClock(), from_objects=from_objects)
        put(
            f"The new catalog knows {count(info.contents, 'content')} in {count(info.objects, 'object')},"
            f" {amount(info.stored)}. It took {count(store.requests.total, 'request')}."
        )
