"""Stops that come when the manifest is on its way, or stored: what is told of it is true, and names it."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.errors import AccessDenied, StoreUnavailable
from sysbackup.formats.run_result import Summary
from sysbackup.model import Lock, StoredObject
from sysbackup.pipeline import backup, ending
from sysbackup.pipeline.backup import back_up
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from sysbackup.recovery import stored_runs
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body, Version
from tests.support import backups
from tests.support.daemons import ROOT, SOON, Host, command, daemon
from tests.support.failing import FailingStore
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.processes import belonging
from tests.support.proxy import Fault, proxying
from tests.support.servers import OnServer, Server


class Slow(Delegating):
    """A store that answers a manifest's put, or the look after it, when `go` is set; `there`: it has been asked."""

    def __init__(self, bucket: MemoryBucket, what: str) -> None:
        super().__init__(MemoryStore(bucket))
        self._what = what
        self.there = asyncio.Event()
        self.go = asyncio.Event()

    async def _wait(self, what: str, key: str) -> None:
        if what == self._what and key.startswith("manifests/"):
            self.there.set()
            await self.go.wait()

    async def put(
        self,
        key: str,
        body: Body,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        sha256: bytes | None = None,
    ) -> StoredObject:
        stored = await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)
        await self._wait("put", key)
        return stored

    async def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        await self._wait("look", prefix)
        async for version in super().versions(prefix, after):
            yield version


class Stopped:
    """A run that was told to stop when the store was `there`; it has a summary, or ended without one."""

    def __init__(self, base: Path) -> None:
        self.bucket = MemoryBucket()
        self.config = backups.configured(base)
        backups.picker(self.config, "/etc/hostname")
        self.tally: Tally | None = None
        self.summary: Summary | None = None

    async def make(self, what: str, *, answers: bool, twice: bool = False) -> None:
        def watch(tally: Tally) -> None:
            self.tally = tally

        store = Slow(self.bucket, what)
        task = asyncio.create_task(back_up(self.config, store, SystemClock(), watch))
        await store.there.wait()
        task.cancel()
        if twice:
            await asyncio.sleep(0)
            task.cancel()
        if answers:
            asyncio.get_running_loop().call_soon(store.go.set)
        await asyncio.wait([task])
        self.summary = None if task.cancelled() else task.result()

    @property
    def listed(self) -> list[str]:
        """The names of the runs that are in the bucket."""
        return [run.run for run in backups.run(stored_runs.runs(MemoryStore(self.bucket)))]

    @property
    def reason(self) -> str:
        """What is told of a run that was stopped."""
        assert self.tally is not None
        return self.tally.at_the_end("stopped by SIGTERM")


@pytest.fixture
def stopped(tmp_path: Path) -> Stopped:
    return Stopped(tmp_path)


@pytest.mark.parametrize("what", ["put", "look"])
def test_a_stop_that_comes_too_late(stopped: Stopped, what: str) -> None:
    """The store answers in time: the run is complete under the name that it prints, and that one is in the bucket."""
    backups.run(stopped.make(what, answers=True))
    assert stopped.summary is not None
    assert (stopped.summary.exit_code, stopped.summary.unseen) == (0, None)
    assert stopped.listed == [stopped.summary.run]
    assert stopped.reason == "stopped by SIGTERM"


def test_a_stop_while_all_is_let_go_of(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is stored, and the run's name is told: it has ended well."""

    async def stop_then(run: RunContext) -> ending.Tidied:
        found = await ending.tidied(run)
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        return found

    monkeypatch.setattr(backup, "tidied", stop_then)

    async def work() -> Summary:
        return await back_up(stopped.config, MemoryStore(stopped.bucket), SystemClock())

    summary = backups.run(work())
    assert summary.exit_code == 0
    assert stopped.listed == [summary.run]


@pytest.mark.parametrize("twice", [False, True])
def test_a_stop_while_the_look_hangs(stopped: Stopped, monkeypatch: pytest.MonkeyPatch, twice: bool) -> None:
    """The manifest is stored all the same: the run says so under its name, and that something was not seen."""
    if not twice:  # whoever says so twice does not wait
        monkeypatch.setattr(ending, "_WITHIN", 0.05)
    backups.run(stopped.make("look", answers=False, twice=twice))
    assert stopped.summary is not None
    assert (stopped.summary.outcome, stopped.listed) == ("complete", [stopped.summary.run])
    assert "told to stop" in (stopped.summary.unseen or "")


def test_a_stop_while_the_put_hangs(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can know whether the manifest is stored; so its name is told."""
    monkeypatch.setattr(ending, "_WITHIN", 0.05)
    backups.run(stopped.make("put", answers=False))
    assert stopped.summary is None
    assert len(stopped.listed) == 1  # this store had stored it
    assert f"its manifest was on its way as {stopped.listed[0]}, and may be stored" in stopped.reason


@pytest.mark.parametrize(("error", "unsure"), [(StoreUnavailable, True), (AccessDenied, False)])
def test_a_put_whose_answer_is_lost_for_good(tmp_path: Path, error: type[StoreUnavailable], unsure: bool) -> None:
    """The run failed, but its manifest is in the bucket: its name is told, unless the store has refused it."""
    config = backups.configured(tmp_path)
    backups.picker(config, "/etc/hostname")
    bucket = MemoryBucket()
    tallies: list[Tally] = []

    class Lost(FailingStore):
        async def put(self, key: str, *args: object, **options: object) -> StoredObject:
            stored = await super().put(key, *args, **options)  # type: ignore[arg-type]
            if key.startswith("manifests/"):
                raise error("made to fail by the test")
            return stored

    store = Lost(MemoryStore(bucket), lambda *_: False)
    with pytest.raises(error):
        backups.run(back_up(config, store, SystemClock(), tallies.append))
    (run,) = backups.run(stored_runs.runs(MemoryStore(bucket)))
    assert (run.run in tallies[0].at_the_end("it failed")) == unsure


@pytest.fixture
def bucket(moto: Server) -> OnServer:
    return uvloop.run(moto.bucket())


@pytest.fixture
def host(tmp_path: Path, bucket: OnServer) -> Iterator[Host]:
    found = Host(tmp_path / "machine", bucket)
    yield found
    assert belonging(found.base) == {}


@contextmanager
def waiting(host: Host) -> Iterator["subprocess.Popen[str]"]:
    """A client that has asked for a run, and waits for its end."""
    with subprocess.Popen(
        command("trigger", "--wait"), stderr=subprocess.PIPE, text=True, cwd=ROOT, env=host.environ()
    ) as client:
        try:
            yield client
        finally:
            client.kill()


@pytest.mark.parametrize(
    ("request_line", "outcome"),
    [(r"^GET .*versions.*prefix=manifests", "complete"), (r"^PUT .*/manifests/", "stopped")],
)
def test_a_daemon_that_is_stopped_then(host: Host, bucket: OnServer, request_line: str, outcome: str) -> None:
    """The store falls silent at the look, or at the put: the history says what is true, and under which name."""
    host.program("pickers.d", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    with proxying(bucket.server.endpoint) as proxy:
        proxy.fail(request_line, Fault.STALLED, *range(1, 100))
        host.configure({"s3": {"endpoint_url": proxy.url}})
        with daemon(host) as service, waiting(host) as client:
            assert proxy.stalled.wait(SOON), service.said()
            service.signal(signal.SIGTERM)
            assert service.process.wait(SOON) == 0, service.said()
            _, told = client.communicate(timeout=SOON)
    (line,) = map(json.loads, (host.state / "history.jsonl").read_text().splitlines())
    assert line["outcome"] == outcome

    async def manifests() -> list[str]:
        async with bucket.store() as store:
            return [run.run for run in await stored_runs.runs(store)]

    listed = uvloop.run(manifests())
    if outcome == "complete":
        assert listed == [line["run"]]
        assert "told to stop" in line["summary"]["unseen"]
    else:
        assert listed == []  # the proxy has kept it
        assert f"its manifest was on its way as {line['run']}" in line["reason"]
        assert line["sent_as"].startswith(line["run"])
        seen = host.call("status").stdout
        for words in (told, seen):
            assert "its manifest may be stored all the same: stopped by SIGTERM" in words
            assert "there is no manifest" not in words
            assert "without a manifest" not in words
