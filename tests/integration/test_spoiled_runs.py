"""Whole commands whose requests are spoiled on their way to a real server: no promise is broken, no file is wrong."""

import dataclasses
import itertools
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import moto.s3.models
import pytest
import uvloop

from sysbackup.cli.main import invoke
from sysbackup.contents import shipping
from sysbackup.formats import keys
from sysbackup.pipeline import file_facts
from sysbackup.store import s3
from sysbackup.store.port import Limits
from tests.support import backups, comparing
from tests.support.asking import all_of
from tests.support.proxy import Fault, Proxy, proxying
from tests.support.servers import OnServer, Server

pytestmark = pytest.mark.lengthy

_FAULTS = [fault for fault in Fault if fault is not Fault.STALLED]

_ENDED = (0, 3)  # complete, or with problems: a manifest is there


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little data makes parts, as much data does; and files count as left alone at once."""
    monkeypatch.setattr(shipping, "PART", 400)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(s3, "LIMITS", Limits(1, s3.LIMITS.most_parts))
    monkeypatch.setattr(file_facts, "_SETTLED", 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass
class Host:
    """A machine that goes to the bucket by way of the proxy; `days` is what it promises, more at each run."""

    name: str
    base: Path
    bucket: OnServer
    proxy: Proxy
    terminal: "pytest.CaptureFixture[str]"
    patch: pytest.MonkeyPatch
    days: int = 1
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        self.tree = self.base / "tree"
        directory = self.base / self.name / "conf.d"
        backups.program(directory / "pickers.d", "find", f"#!/bin/sh\nexec find '{self.tree}' -print0\n")
        backups.program(directory / "snapshots.d", "db", f"#!/bin/sh\nexec cat '{self.tree}/new-alone' >&$1\n")

    def written(self, name: str) -> None:
        """Some small files and one that is stored alone, with bytes that nobody has seen."""
        self.tree.mkdir(exist_ok=True)
        for n in range(3):
            (self.tree / f"{name}{n}").write_bytes(self.dice.randbytes(300))
        (self.tree / f"{name}-alone").write_bytes(self.dice.randbytes(9_000))

    def __call__(self, *arguments: str) -> Ended:
        """Run a command."""
        (self.base / self.name / "conf.d" / "conf").write_text(
            f"[aws]\ncredentials_file = {self.bucket.server.credentials}\n"
            f"[s3]\nbucket = {self.bucket.name}\nendpoint_url = {self.proxy.url}\nregion = us-east-1\n"
            f"[content]\nhost = {self.name}\ndays_retained = {self.days}\nrenewal_slack = 0 days\npack_below = 1 KiB\n"
            "[run]\nworkers = 1\ngive_up_after = 1 s\n"
        )
        for name in ("CACHE", "STATE", "RUNTIME"):
            self.patch.setenv(f"{name}_DIRECTORY", str(self.base / self.name / name.lower()))
        self.terminal.readouterr()
        status = invoke(["--config-dir", str(self.base / self.name / "conf.d"), *arguments])
        out, err = self.terminal.readouterr()
        assert not re.search(r"Traceback|this is a bug|\(\)", out + err), err
        if status not in _ENDED:
            assert "sysbackup: " in err
        return Ended(status, out, err)

    def spoiled(self, fault: Fault, position: int, *arguments: str) -> Ended:
        """Run a command whose so-many-th request meets `fault`."""
        self.proxy.fail("", fault, position)
        try:
            return self(*arguments)
        finally:
            self.proxy.forgive()

    def restored(self, *spoiled: Any) -> tuple[Ended, list[str]]:
        """Restore the newest run, and compare; what is missing is told of as well."""
        target = self.base / "back"
        words = ("restore", "--host", self.name, "latest", "--target", str(target))
        ended = self.spoiled(*spoiled, *words) if spoiled else self(*words)
        target.joinpath(*self.tree.parts[1:]).mkdir(parents=True, exist_ok=True)
        try:
            told = comparing.differences(os.fsencode(self.tree), os.fsencode(target) + os.fsencode(self.tree))
            return ended, told
        finally:
            shutil.rmtree(target)

    def manifests(self) -> set[str]:
        """The keys of all manifests, seen past the proxy."""

        async def look() -> set[str]:
            async with self.bucket.store() as store:
                return {version.key for version in await all_of(store.list(keys.manifest_prefix(self.name)))}

        return uvloop.run(look())

    def runs(self) -> list[str]:
        """The names of all runs, as the command tells them."""
        return [run["run"] for run in json.loads(self("list", "--json", "--host", self.name).out)]


def pairs(shift: int) -> Iterator[tuple[int, Fault]]:
    """Each position in turn with one of the faults; another `shift` pairs them otherwise."""
    return ((position, _FAULTS[(5 * position + shift) % len(_FAULTS)]) for position in itertools.count(1))


@pytest.fixture
def host(
    moto: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """One that has a backup already."""
    with proxying(moto.endpoint) as proxy:
        host = Host("alpha", tmp_path, uvloop.run(moto.bucket()), proxy, capfd, monkeypatch)
        host.written("old")
        host.written("new")
        first = host("run")
        assert first.status == 0, first.err
        yield host


@pytest.mark.parametrize("shift", [0, 12])
def test_one_spoiled_request_costs_no_promise(host: Host, shift: int) -> None:
    """
    At whichever request of a run: either an error for people, or a manifest of which all comes back.

    What is old is renewed in each run, what is new is stored. Afterwards another machine
    that relies on all of this has a whole backup, and so has one whose catalog is rebuilt.
    """
    failed = 0
    after = host.manifests()
    for position, fault in pairs(shift):
        host.written("new")
        host.days += 1
        before, sent = after, len(host.proxy.heads)
        ended = host.spoiled(fault, position, "run")
        was_sent = len(host.proxy.heads) - sent >= position
        after = host.manifests()
        failed += ended.status not in _ENDED
        # the manifest stands before its lock is seen to, and may so be left by a run that fails in its last moment
        assert len(after - before) == 1 or (ended.status not in _ENDED and after == before), (fault, position, ended)
        if after != before:
            restored, differences = host.restored()
            assert (restored.status, differences) == (0, []), (fault, position, ended, restored)
        if not was_sent:
            break
    # contents, their locks, renewals, an index and a manifest in parts: fewer requests were no run
    assert position > 20
    assert failed < position / 3
    assert {keys.manifest_key(host.name, run) for run in host.runs()} == after
    beta = dataclasses.replace(host, name="beta")
    shutil.rmtree(host.base / host.name / "cache")
    assert host("catalog", "rebuild").status == 0
    for machine in (beta, host):
        assert machine("run").status == 0
        restored, differences = machine.restored()
        assert (restored.status, differences) == (0, [])


@pytest.mark.parametrize("command", [("list", "--long"), ("ls", "latest"), ("restore",), ("catalog", "rebuild")])
def test_what_reads_is_right_or_fails(host: Host, command: tuple[str, ...]) -> None:
    """With one spoiled answer a command says what it says else, or tells what is wrong; no wrong file is written."""
    honest = host(*command) if command != ("restore",) else host.restored()[0]
    for shift in (0, 3, 6, 9, 12):
        for position, fault in pairs(shift):
            sent = len(host.proxy.heads)
            if command == ("restore",):
                ended, differences = host.restored(fault, position)
                assert ended.status != 0 or differences == [], (fault, position, ended)
                assert all(told.endswith(": missing") for told in differences if _is_of_file(told)), (
                    fault,
                    position,
                    differences,
                )
            else:
                ended = host.spoiled(fault, position, *command)
                # what could not be looked at is said on standard error
                right = _but_requests(ended.out) == _but_requests(honest.out) or ended.err > honest.err
                assert ended.status != 0 or right, (fault, position, ended)
            if len(host.proxy.heads) - sent < position:
                break
        assert position > 2
    host.days += 1
    assert host("run").status == 0
    restored, differences = host.restored()
    assert (restored.status, differences) == (0, [])


def _but_requests(said: str) -> str:
    return re.sub(r"It took \d+ requests", "", said)


def _is_of_file(told: str) -> bool:
    """Whether a difference is one of a file: where a restore broke off, directories have not their times yet."""
    return not told.startswith("'.': ")
