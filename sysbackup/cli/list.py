"""`sysbackup list`: what the bucket holds."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from msgspec import UNSET, Struct
from rich.table import Table
from rich.text import Text

from sysbackup.api.restorer import Restorer
from sysbackup.cli.display import count, when
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.ls import host_option, json_option
from sysbackup.cli.terminal import Terminal, put_json, say
from sysbackup.concurrency.event_loop import run
from sysbackup.config.sections import Config
from sysbackup.config.units import amount
from sysbackup.errors import RestoreError
from sysbackup.model import LockMode, shown
from sysbackup.recovery.judging import StoredRun
from sysbackup.recovery.outlines import Outline

_DETAILED = 100  # backups whose manifests are looked at unless all are asked for
_VERSIONS = 20  # versions of one disputed manifest that are looked at
_TOLD = 8  # manifests of which it is told what is wrong with them


class Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a manifest says of itself, as far as it could be read; a part of `list --json`.

    `outcome` is `complete` or `incomplete`; `lock` the mode of its locks, `none`
    where it promises nothing and `promise` is left out. `trouble` is why it is
    not known.
    """

    outcome: str | None = None
    files: int | None = None
    bytes: int | None = None
    problems: int | None = None
    promise: datetime | None = None
    lock: str | None = None
    tool: str | None = None
    trouble: str | None = None


class Rival(Told, frozen=True, kw_only=True, omit_defaults=True):
    """One version of a disputed manifest; the genuine one, as far as can be known, is `used`."""

    version: str | None
    stored: datetime
    size: int
    used: bool


class Listed(Told, frozen=True, kw_only=True, omit_defaults=True):
    """
    One run, as `list --json` prints it.

    `manifest`, `version`, `size` and `stored` are the manifest's key, version,
    bytes and time in the store. `versions` has those of a disputed one which could
    be read, or some of them where there are many.
    """

    run: str
    host: str
    started: datetime
    manifest: str
    version: str | None
    size: int
    stored: datetime
    oddity: str | None = None
    versions: tuple[Rival, ...] = ()


@click.command("list")
@host_option
@click.option("--long", "-l", "long", is_flag=True, help="Also show until when each is promised, and what wrote it.")
@click.option("--all", "every", is_flag=True, help=f"Look into all manifests, not the newest {_DETAILED} alone.")
@json_option
@pass_invocation
def list_command(invocation: Invocation, *, host: str | None, long: bool, every: bool, as_json: bool) -> int:
    """
    List the backups in the bucket, the newest last.

    OUTCOME, FILES and HOLDS are what their manifests say: ? where one could not
    be read, - where it was not looked at. Each costs one or two small requests.
    """
    found, denied = run(_list(invocation.config(), host, every=every))
    if as_json:
        put_json(msgspec.json.encode(found))
        return 0
    if not found:
        if host is not None:
            raise RestoreError(f"there is no backup of {shown(host.encode())}; sysbackup list shows those of all hosts")
        Terminal().print("There is no backup yet.")
        return 0
    unseen = 0 if every else max(0, len(found) - _DETAILED)
    _show(found, unseen, long=long)
    for note in _notes(found, denied, unseen):
        say(note)
    return 0


async def _list(config: Config, host: str | None, *, every: bool) -> tuple[list[Listed], int]:
    """The runs, and how many of their manifests we may not read."""
    async with Restorer.of(config).backups() as backups:
        known = await backups.runs(host)
        seen = known if every else known[-_DETAILED:]
        versions = [(r, r.distinct[:_VERSIONS] if r.disputed else (r.used,)) for r in seen]
        several = [r.but(v.version) if v.version else r for r, some in versions for v in some]
        said = iter(await backups.outlines(several))
    blank = [_listed(r, ()) for r in known[: len(known) - len(seen)]]
    looked = [(r, [next(said) for _ in some]) for r, some in versions]
    return [*blank, *(_listed(r, outline) for r, outline in looked)], sum(o[0].denied for _, o in looked)


def _listed(found: StoredRun, said: Sequence[Outline]) -> Listed:
    """A run and what its manifest says; of a disputed one what each of its versions does, the used one first."""
    return Listed(
        run=found.run,
        host=found.host,
        started=found.started,
        manifest=found.key,
        version=found.version,
        size=found.size,
        stored=found.stored,
        oddity=found.oddity,
        versions=tuple(_rivals(found, said)) if found.disputed else (),
        **(_said(said[0]) if said else {}),
    )


def _rivals(found: StoredRun, said: Sequence[Outline]) -> Iterator[Rival]:
    """Those versions that are manifests of that run."""
    for version, outline in zip(found.distinct, said, strict=False):
        if outline.header is not None or outline.denied:
            used = version == found.used
            yield Rival(
                version=version.version, stored=version.modified, size=version.size, used=used, **_said(outline)
            )


def _said(outline: Outline) -> dict[str, Any]:
    header, end = outline.header, outline.end
    said: dict[str, Any] = {"trouble": outline.trouble}
    if header is not None:
        lock = None if header.lock is UNSET else header.lock
        said |= {"promise": header.promised, "lock": lock, "tool": header.tool}
    if end is not None:
        outcome = "incomplete" if end.problems else "complete"
        said |= {"outcome": outcome, "files": end.counts.get("f", 0), "bytes": end.bytes, "problems": end.problems}
    return said


# ---- for people


def _show(found: Sequence[Listed], unseen: int, *, long: bool) -> None:
    table = _table("RUN", "HOST", "STARTED", "OUTCOME", *(("PROMISED UNTIL", "BY") if long else ()))
    for column in ("FILES", "HOLDS", "MANIFEST"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, row in enumerate(found):
        blank = "-" if number < unseen else "?"
        outcome, *holds = _cells(row, blank)
        promised = (_promise(row, blank), _plain(row.tool or blank)) if long else ()
        table.add_row(row.run, _plain(row.host), when(row.started), outcome, *promised, *holds, amount(row.size))
    _print(table)
    for row in found:
        if row.versions:
            how = "choose with --version" if len(row.versions) > 1 else "choose by the full name"
            _print(Text(f"\nDisputed: {row.run} of {shown(row.host.encode())}; {how}", "bold"))
            _print(_versions(row))


def _versions(row: Listed) -> Table:
    table = _table("VERSION", "STORED", "OUTCOME")
    for column in ("FILES", "HOLDS", "MANIFEST", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for rival in row.versions:
        version, mark = _plain(rival.version or "?"), "used" if rival.used else ""
        table.add_row(version, when(rival.stored), *_cells(rival, "?"), amount(rival.size), mark)
    return table


def _cells(said: Told, blank: str) -> tuple[str, str, str]:
    """Outcome, files and what they hold."""
    if said.problems is None or said.files is None or said.bytes is None:
        return blank, blank, blank
    outcome = count(said.problems, "problem") if said.problems else "complete"
    return outcome, f"{said.files:,}", amount(said.bytes)


def _promise(said: Told, blank: str) -> str:
    if said.lock == LockMode.NONE:
        return "nothing"
    return when(said.promise) if said.promise else blank


def _notes(found: Sequence[Listed], denied: int, unseen: int) -> Iterator[str]:
    """What standard error says beside the table."""
    for row in found:
        if row.oddity:
            yield f"{row.run}: {row.oddity}"
    bad = [row for row in found if row.trouble]
    if denied:
        yield f"{count(denied, 'manifest')} may not be read, so that ? is all that can be shown: {bad[0].trouble}"
    elif bad:
        for row in bad[:_TOLD]:
            yield f"{row.run}: {row.trouble}"
        if len(bad) > _TOLD:
            yield f"and {count(len(bad) - _TOLD, 'more manifest')} could not be read"
    if unseen:
        yield f"the manifests of the newest {_DETAILED} backups alone were looked into; --all does all {len(found):,}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print(what: Table | Text) -> None:
    # Never narrower than what is in it: a name that was cut cannot be given to `restore`.
    Terminal(width=max(Terminal().width, 2400)).print(what, soft_wrap=True)


def _plain(text: str) -> Text:
    """Text from the bucket, which may hold markup or terminal commands."""
    return Text(shown(text.encode()))
