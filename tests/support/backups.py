"""Backups for tests: a configuration directory made in a moment, a run, and what its manifest says."""

import asyncio
import os
import stat
import textwrap
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import S3, Config, Content, Run
from sysbackup.formats import manifest
from sysbackup.formats.run_result import Summary
from sysbackup.model import Clock
from sysbackup.pipeline.backup import back_up
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options, Report
from sysbackup.recovery.restoring import restore
from sysbackup.store.port import ObjectStore

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], *, loop: str = "uvloop") -> T:
    """Run a coroutine to its end on uvloop, as the command does, or on asyncio's own loop."""
    if loop == "uvloop":
        return uvloop.run(work)
    return asyncio.run(work)


def program(directory: Path, name: str, script: str, *, mode: int = 0o755) -> Path:
    """An executable script in a programs directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(textwrap.dedent(script).lstrip())
    path.chmod(mode)
    return path


def picker(config: Config, *paths: bytes | str | Path, name: str = "paths") -> Path:
    """A picker that prints these paths, NUL-separated, from a file beside the configuration."""
    listed = config.directory / f"{name}.list"
    config.directory.mkdir(parents=True, exist_ok=True)
    listed.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))
    return program(config.pickers, name, f"#!/bin/sh\nexec cat '{listed}'\n")


def finder(config: Config, tree: bytes | str | Path, name: str = "find") -> Path:
    """A picker that prints all there is in a tree."""
    return program(config.pickers, name, f"#!/bin/sh\nexec find '{os.fsdecode(tree)}' -print0\n")


def configured(base: Path, content: Mapping[str, Any] | None = None, run: Mapping[str, Any] | None = None) -> Config:
    """A configuration whose directory and cache lie in `base`; small limits, so that tests see them reached."""
    return Config(
        directory=base / "conf",
        cache=base / "cache",
        state=base / "state",
        runtime=base / "run",
        s3=S3(bucket="bucket"),
        content=msgspec.structs.replace(Content(host="alpha", lock_timeout=0.2), **dict(content or {})),
        run=msgspec.structs.replace(
            Run(workers=2, picker_idle_limit=20.0, snapshot_idle_limit=20.0), **dict(run or {})
        ),
    )


def backed_up(config: Config, store: ObjectStore, clock: Clock | None = None, loop: str = "uvloop") -> Summary:
    """One backup."""
    return run(back_up(config, store, clock or SystemClock()), loop=loop)


def entries(store: ObjectStore, summary: Summary) -> list[manifest.Entry]:
    """All that a run's manifest says."""

    async def read() -> list[manifest.Entry]:
        found = await stored_runs.find_run(store, summary.run, summary.host)
        return [entry async for entry in stored_runs.entries(store, found)]

    return run(read())


def restored(store: ObjectStore, summary: Summary, target: Path, *paths: bytes, spool: Path) -> Report:
    """Restore a run, or some paths of it, beneath `target`."""

    async def work() -> Report:
        found = await stored_runs.find_run(store, summary.run, summary.host)
        return await restore(store, found, paths, bytes(target), Options(spool=spool))

    return run(work())


def nodes(said: Iterable[manifest.Entry]) -> dict[bytes, manifest.FileNode]:
    """The entries of the file system by their paths."""
    return {entry.path_bytes: entry for entry in said if isinstance(entry, manifest.Node)}


def problems(said: Iterable[manifest.Entry]) -> dict[str, manifest.Log]:
    """What the manifest's log says, by path or program."""
    return {entry.path: entry for entry in said if isinstance(entry, manifest.Log)}


def kind(path: bytes) -> str:
    """The manifest's letter for what lies at a path."""
    mode = os.lstat(path).st_mode
    return {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p"}[stat.S_IFMT(mode)]
