"""`sysbackup check-config`: every mistake at once, what holds, and which programs will be run."""

import ipaddress
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec

from sysbackup.cli import streams
from sysbackup.cli.findings import Findings, Line, ProgramFile, print_plainly, show
from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.cli.terminal import Terminal, put_json
from sysbackup.config.directories import cache_directory, state_directory
from sysbackup.config.loading import ConfigFile, read_config
from sysbackup.config.sections import Config, Metrics
from sysbackup.config.settings import SETTINGS, Setting
from sysbackup.errors import ConfigError, SpoolError
from sysbackup.model import LockMode, shown
from sysbackup.programs.discovery import find_programs, unstartable
from sysbackup.service import history

_FOLDERS = {"pickers.d": "pickers", "snapshots.d": "snapshotters", "hooks.d": "hooks"}
_NEEDED = ("pickers", "snapshotters")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.command("check-config")
@click.option("--changed", is_flag=True, help="Of the settings, show those alone that differ from the defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@pass_invocation
def command(invocation: Invocation, *, changed: bool, as_json: bool) -> int:
    """
    Check the configuration and show what holds.

    Prints every mistake at once; each setting with its value, whether it comes
    from the file, and its meaning; and which pickers, snapshotters and hooks
    will be run. Asks nothing of the store. Exit status 78 where there are
    mistakes.
    """
    streams.done_anyway()
    findings = examine(invocation.directory, os.environ)
    if changed:
        findings = replace(findings, settings=[line for line in findings.settings if line.changed])
    if as_json:
        put_json(msgspec.json.format(msgspec.json.encode(findings)))
        return ConfigError.exit_code if findings.mistakes else 0
    if sys.stdout.isatty():
        show(Terminal(highlight=False), findings)
    else:
        print_plainly(findings)
    if findings.mistakes:
        sys.stdout.flush()
        raise ConfigError(findings.mistakes)
    return 0


def examine(directory: Path, environ: Mapping[str, str]) -> Findings:
    """Read the configuration and look at the programs, without running any."""
    reading = read_config(directory, environ)
    mistakes = list(reading.mistakes)
    warnings = [*_warnings(reading.config), *_compressed(reading.config)] if reading.config else []
    warnings += _open_to_others(directory)
    programs: dict[str, list[ProgramFile]] = {}
    for folder, called in _FOLDERS.items():
        path = directory / folder
        try:
            programs[called] = _files(path)
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        warnings += _open_to_others(path)
        warnings += _closed_to_service(path, programs[called], state_directory(environ))
        if called in _NEEDED and directory.is_dir() and not path.is_dir():
            warnings.append(f"{path} does not exist: there are no {called}")
    if directory.is_dir() and not any(file.run for called in _NEEDED for file in programs.get(called, [])):
        warnings.append("nothing will be backed up: there is neither a picker nor a snapshotter")
    return Findings(
        conf=str(reading.path),
        cache=str(cache_directory(environ)),
        mistakes=mistakes,
        warnings=warnings,
        settings=_lines(reading, reading.config) if reading.config else [],
        programs=programs,
    )


def _files(folder: Path) -> list[ProgramFile]:
    programs, passed_over = find_programs(folder)
    files = [
        ProgramFile(shown(file.name), run=False, reason=file.reason, expected=file.expected) for file in passed_over
    ]
    for program in programs:
        reason = unstartable(program.path)
        files.append(ProgramFile(shown(program.name), run=True, reason=reason, expected=reason is None))
    return sorted(files, key=lambda file: file.name)


def _lines(reading: ConfigFile, config: Config) -> list[Line]:
    default = Config(directory=config.directory, cache=config.cache, state=config.state, runtime=config.runtime)
    return [
        Line(
            setting.section,
            setting.name,
            _value(setting, config),
            (setting.section, setting.name) not in reading.given,
            _value(setting, config) != _value(setting, default),
            setting.meaning,
            setting.kind.allowed,
            setting.unset,
        )
        for setting in SETTINGS
    ]


def _value(setting: Setting, config: Config) -> str | None:
    value: object = getattr(getattr(config, setting.section), setting.name)
    return None if value is None else setting.kind.text(value)


def _warnings(config: Config) -> Iterator[str]:
    if config.content.lock_mode is LockMode.NONE:
        yield "[content] lock_mode = none: nothing is locked, anybody with the right to delete can delete backups"
    if config.s3.endpoint_url:
        url = urlsplit(config.s3.endpoint_url)
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            yield f"[s3] endpoint_url: contents travel to {url.hostname} unencrypted"
    keys = config.aws.credentials_file
    if keys is not None and keys.stat().st_mode & stat.S_IROTH:
        yield f"{keys} can be read by everybody: chmod 600 {keys}"
    yield from _unwatched(config.metrics)


def _compressed(config: Config) -> Iterator[str]:
    """Of the last run's snapshots those whose data were compressed, which their sample told."""
    try:
        last = history.recall(config, 1, later=lambda _: None)
    except SpoolError:
        return  # it is for `status` to say so
    for name in (last[0].summary.compressed or ()) if last and last[0].summary else ():
        yield (
            f"{config.snapshotters / name}: what it wrote in the last run is compressed or encrypted, so nothing of it"
            " is shared with other nights'. Have it write its data as they are (pg_dump -Z0, no gzip): sysbackup"
            " compresses what it stores"
        )


def _unwatched(metrics: Metrics) -> Iterator[str]:
    """Why Prometheus would not see what it is to see, or others would."""
    if metrics.listen is not None and not ipaddress.ip_address(metrics.listen[0]).is_loopback:
        yield "[metrics] listen: whoever reaches this address can read how backups go, without a password"
    if (path := metrics.textfile) is None:
        return
    if path.suffix != ".prom":
        yield f"[metrics] textfile = {path}: node_exporter reads only files whose names end in .prom"
    if not path.parent.is_dir():
        yield f"[metrics] textfile: the directory {path.parent} does not exist: no metrics will be written"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        yield f"[metrics] textfile: this user may not write to {path.parent}: no metrics will be written"


def _closed_to_service(folder: Path, files: Sequence[ProgramFile], state: Path) -> Iterator[str]:
    """
    What root may execute, and the user of the service may not: he owns the state directory.

    The right to read everything (CAP_DAC_READ_SEARCH) is none to execute it.
    """
    try:
        service = state.stat()
    except OSError:
        return
    if os.geteuid() != 0 or service.st_uid == 0:
        return
    for file in files:
        try:
            status = (folder / file.name).stat()
        except OSError:
            continue
        needed = 0o001
        if status.st_uid == service.st_uid:
            needed = 0o100
        elif status.st_gid == service.st_gid:
            needed = 0o010
        if file.run and not status.st_mode & needed:
            yield f"{folder / file.name} cannot be executed by user {service.st_uid}, whose service it is: chmod 755"


def _open_to_others(directory: Path) -> Iterator[str]:
    """Whoever may write a directory can put another file in the place of one that it holds."""
    try:
        status = directory.stat()
    except OSError:
        return
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield f"{directory} can be written by others than its owner, who then decide what is run: chmod go-w"
    if status.st_uid not in {0, os.geteuid()}:
        yield f"{directory} belongs to user {status.st_uid}, who then decides what is run"
