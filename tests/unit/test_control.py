"""The control socket: whoever asks hears how its run goes, and nothing that a client does wrong harms anybody."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.errors import DaemonUnreachable, SpoolError
from sysbackup.formats.run_result import RunResult
from sysbackup.service import client as control_client
from sysbackup.service import control
from sysbackup.service.attempts import Heard
from sysbackup.service.control import Accepted, Going, listening
from sysbackup.service.history import Past
from sysbackup.service.messages import Began, Over, Progress
from sysbackup.service.notify import Notify
from sysbackup.service.scheduler import Scheduler
from sysbackup.service.status_file import socket_path
from tests.support.backups import configured, run

SOON = 30.0
NOBODY = 65534


class Staged:
    """A run that goes on until the test ends it."""

    def __init__(self, name: str, heard: Heard) -> None:
        now = SystemClock().now()
        self.began = Began("alpha", name, now, now)
        self._over: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        heard(self.began)
        heard(Progress(stage="reading", files=7))

    def finish(self, outcome: str = "complete", reason: str | None = None) -> None:
        began = self.began
        status = 0 if outcome == "complete" else 1
        ended = RunResult(
            outcome=outcome,
            exit_code=status,
            host=began.host,
            run=began.run,
            started=began.started,
            finished=began.started,
            reason=reason,
        )
        if not self._over.done():
            self._over.set_result(ended)

    async def end(self) -> RunResult:
        return await self._over

    def stop(self) -> None:
        self.finish("stopped", "stopped by SIGTERM")

    def kill(self) -> None:
        self.stop()

    def describe(self) -> None: ...


class Stage:
    """Starts them."""

    def __init__(self) -> None:
        self.runs: list[Staged] = []

    async def start(self, config: Config, heard: Heard) -> Staged:
        self.runs.append(Staged(f"run-{len(self.runs)}", heard))
        return self.runs[-1]


class Nobody:
    """Hears of nothing."""

    def configured(self, config: Config) -> None: ...
    async def began(self, began: Began) -> None: ...
    async def ended(self, ended: RunResult) -> None: ...
    async def close(self) -> None: ...


class Noting(Scheduler):
    """Notes who has asked."""

    def __init__(self, config: Config, stage: Stage) -> None:
        super().__init__(config, lambda: config, stage, Nobody(), SystemClock(), Notify({}), Past())
        self.asked: list[str] = []

    def trigger(self, who: str) -> "asyncio.Future[RunResult]":
        self.asked.append(who)
        return super().trigger(who)


class Served:
    """A daemon with staged runs that listens."""

    def __init__(self, config: Config) -> None:
        config.runtime.mkdir(parents=True, exist_ok=True)
        self.path = socket_path(config)
        self.stage = Stage()
        self.daemon = Noting(config, self.stage)

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(os.fspath(self.path))
        writer.write(sent)
        with suppress(ConnectionError):
            await writer.drain()
        return reader, writer


@asynccontextmanager
async def serving(base: Path) -> AsyncIterator[Served]:
    served = Served(configured(base))
    async with listening(served.path, served.daemon):
        life = asyncio.create_task(served.daemon.serve())
        try:
            yield served
        finally:
            served.daemon.stop("the test is over")
            await asyncio.wait_for(life, SOON)


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not met():
            await asyncio.sleep(0.01)


async def hear(path: Path, heard: list[Accepted | Going | Over] | None = None) -> list[Accepted | Going | Over]:
    """All that the daemon answers."""
    heard = [] if heard is None else heard
    async with asyncio.timeout(SOON), aclosing(control_client.ask(path)) as answers:
        async for answer in answers:
            heard.append(answer)
    return heard


def over(answers: list[Accepted | Going | Over]) -> RunResult:
    assert isinstance(answers[-1], Over)
    return answers[-1].ended


async def refusal(work: Coroutine[Any, Any, object]) -> str:
    with pytest.raises(DaemonUnreachable) as caught:
        await work
    return str(caught.value)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon speaks more often than it would, so that nobody waits for it."""
    monkeypatch.setattr(control, "TOLD_EVERY", 0.02)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_whoever_asks_hears_of_the_run_and_its_end(tmp_path: Path, loop: str) -> None:
    """Accepted, how it goes, and how it ended."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            heard: list[Accepted | Going | Over] = []
            hearing = asyncio.create_task(hear(served.path, heard))
            await until(lambda: any(isinstance(a, Going) and a.current is not None for a in heard))
            served.stage.runs[0].finish()
            await hearing
            assert heard[0] == Accepted(later=False)
            going = [a for a in heard if isinstance(a, Going)]
            assert all(a.ours for a in going)
            assert {(a.current.run, a.current.progress.files) for a in going if a.current} == {("run-0", 7)}
            assert (over(heard).outcome, over(heard).run) == ("complete", "run-0")

    run(work(), loop=loop)


def test_during_a_run_the_one_after_it_is_waited_for(tmp_path: Path) -> None:
    """What has begun before the request may have passed by what it is about: two clients share the next run."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            first = asyncio.create_task(hear(served.path))
            await until(lambda: len(served.stage.runs) == 1)
            heard: list[Accepted | Going | Over] = []
            later = [asyncio.create_task(hear(served.path, heard)), asyncio.create_task(hear(served.path))]
            await until(lambda: len(served.daemon.asked) == 3 and len(heard) > 2)
            assert heard[0] == Accepted(later=True)
            assert all(isinstance(a, Going) and not a.ours and a.current for a in heard[1:])
            served.stage.runs[0].finish("failed", "the store is away")
            assert over(await first).outcome == "failed"
            await until(lambda: len(served.stage.runs) == 2)
            before = len(heard)
            await until(lambda: len(heard) > before + 1)
            assert isinstance(heard[-1], Going)
            assert heard[-1].ours
            served.stage.runs[1].finish()
            assert [over(await task).run for task in later] == ["run-1", "run-1"]
            assert len(served.stage.runs) == 2

    run(work())


def test_a_run_asked_for_during_ours_does_not_make_ours_the_earlier_one(tmp_path: Path) -> None:
    """Somebody else's request changes nothing of what a client hears."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            heard: list[Accepted | Going | Over] = []
            hearing = asyncio.create_task(hear(served.path, heard))
            await until(lambda: len(served.stage.runs) == 1)
            served.daemon.trigger("somebody")
            before = len(heard)
            await until(lambda: len(heard) > before + 1)
            assert all(a.ours for a in heard if isinstance(a, Going))
            served.stage.runs[0].finish()
            assert over(await hearing).run == "run-0"

    run(work())


def test_a_client_that_goes_away_takes_nothing_with_it(tmp_path: Path) -> None:
    """Its run is made, and its place is free again."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            gone = asyncio.create_task(hear(served.path))
            await until(lambda: len(served.stage.runs) == 1)
            gone.cancel()
            await asyncio.wait((gone,))
            assert served.daemon.status().state == "running"
            after = asyncio.create_task(hear(served.path))
            await until(lambda: len(served.daemon.asked) == 2)
            served.stage.runs[0].finish()
            await until(lambda: len(served.stage.runs) == 2)
            served.stage.runs[1].finish()
            assert over(await after).outcome == "complete"

    run(work())


def test_a_client_that_stops_reading_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffer fills, it is given up; others hear all there is."""
    monkeypatch.setattr(control, "TAKEN_WITHIN", 0.2)
    monkeypatch.setattr(control, "TOLD_EVERY", 0.0005)

    async def work() -> None:
        async with serving(tmp_path) as served:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
                deaf.connect(os.fspath(served.path))
                deaf.sendall(control.written(control.Request()))
                await until(lambda: len(served.stage.runs) == 1)
                other = asyncio.create_task(hear(served.path))
                await until(lambda: len(_clients()) == 2)
                await until(lambda: len(_clients()) == 1)
                served.stage.runs[0].finish()
                await until(lambda: len(served.stage.runs) == 2)
                served.stage.runs[1].finish()
                assert over(await other).run == "run-1"

    run(work())


def _clients() -> list[asyncio.Task[Any]]:
    return [t for t in asyncio.all_tasks() if "_Reception._attend" in repr(t.get_coro())]


@pytest.mark.parametrize(
    "sent",
    [
        b"what is this?\n",
        b"\xff\xfe\x00\n",
        b"[" * 4000 + b"\n",
        b'{"type":"stop"}\n',
        b'{"type":"run"}\n{"type":"run"}\n',
        b"x" * 1_000_000,
        b"x" * (control.REQUEST_AT_MOST - 1) + b"\n",
    ],
    ids=["prose", "bytes", "deep", "another", "two", "flood", "long"],
)
def test_what_is_no_request_is_refused(tmp_path: Path, sent: bytes) -> None:
    """It gets an answer if it cares to read one, starts no run, and the next client is served."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            assert b'"refused"' in await asyncio.wait_for(said(served.path, sent), SOON)
            assert served.daemon.asked == []
            await _next_is_served(served)

    with capture_logs() as logged:
        run(work())
    assert not [line for line in logged if line["event"] == "control.failed"]


async def _next_is_served(served: Served) -> None:
    hearing = asyncio.create_task(hear(served.path))
    await until(lambda: len(served.stage.runs) == 1)
    served.stage.runs[0].finish()
    assert over(await hearing).outcome == "complete"


def test_only_so_many_are_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one hears why it is not; when somebody has left there is room again."""
    monkeypatch.setattr(control, "CLIENTS_AT_MOST", 3)

    async def work() -> None:
        async with serving(tmp_path) as served:
            silent = [await served.connect() for _ in range(3)]
            assert "3 others are waiting" in await refusal(hear(served.path))
            for _, writer in silent:
                writer.close()
            await until(lambda: not _clients())
            await _next_is_served(served)

    run(work())


def test_a_client_that_says_nothing_is_shown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears why."""
    monkeypatch.setattr(control, "REQUEST_WITHIN", 0.1)

    async def work() -> None:
        async with serving(tmp_path) as served:
            for sent in (b"", b'{"type":'):
                assert b"nothing was asked" in await asyncio.wait_for(said(served.path, sent), SOON)

    run(work())


def test_a_client_that_vanishes_before_it_has_asked_is_forgotten(tmp_path: Path) -> None:
    """No run, and nothing left of it."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            for sent in (b"", b'{"type":'):
                _, writer = await served.connect(sent)
                writer.close()
            await until(lambda: not _clients())
            assert served.daemon.asked == []
            await _next_is_served(served)

    run(work())


def test_when_the_daemon_stops_everybody_gets_an_answer(tmp_path: Path) -> None:
    """Whose run goes on hears that it was stopped, whose was to follow that it is not made."""

    async def work() -> None:
        async with serving(tmp_path) as served:
            ours = asyncio.create_task(hear(served.path))
            await until(lambda: len(served.stage.runs) == 1)
            later = asyncio.create_task(hear(served.path))
            await until(lambda: len(served.daemon.asked) == 2)
            silent, writer = await served.connect()
            served.daemon.stop("the test")
        assert over(await ours).outcome == "stopped"
        assert over(await later).reason == "the daemon was stopped before the run began"
        assert await silent.read() == b""
        writer.close()
        assert len(served.stage.runs) == 1
        assert not served.path.exists()
        assert "no daemon runs here" in await refusal(hear(served.path))

    run(work())


async def said(path: Path, sent: bytes) -> bytes:
    """What comes back, however rudely the connection ends."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.connect(os.fspath(path))
        heard = b""
        with suppress(ConnectionError):
            await loop.sock_sendall(client, sent)
        with suppress(ConnectionError):
            while chunk := await loop.sock_recv(client, 4096):
                heard += chunk
        return heard


def test_only_root_and_the_daemons_own_user_may_ask(tmp_path: Path) -> None:
    """Another user whom the socket's permissions let in hears that it may not; no run begins."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    async def work(base: Path) -> None:
        async with serving(base) as served:
            os.chmod(served.path, 0o666)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.setblocking(False)
                os.seteuid(NOBODY)
                try:
                    client.connect(os.fspath(served.path))  # the kernel notes who we are at this moment
                finally:
                    os.seteuid(0)
                heard = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), SOON)
            assert b"only root, and the user that the daemon runs as" in heard
            assert served.daemon.asked == []

    with tempfile.TemporaryDirectory() as base:  # pytest's own folders let nobody in
        os.chmod(base, 0o755)
        run(work(Path(base)))


def test_the_log_cannot_be_filled_by_those_who_may_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line at once, and later one with the number of those since."""
    monkeypatch.setattr(control, "_peer", lambda _: (4711, NOBODY))

    async def knock(served: Served, times: int) -> None:
        for _ in range(times):
            assert b"only root" in await asyncio.wait_for(said(served.path, b""), SOON)

    async def work() -> None:
        async with serving(tmp_path) as served:
            await knock(served, 20)
            monkeypatch.setattr(control, "REFUSALS_EVERY", 0.0)  # as if the time had passed
            await knock(served, 1)
            assert served.daemon.asked == []

    with capture_logs() as logged:
        run(work())
    refused = [line for line in logged if line["event"] == "control.refused"]
    assert [(line["log_level"], line["times"], line["uid"]) for line in refused] == [
        ("warning", 1, NOBODY),
        ("warning", 20, NOBODY),
    ]


def test_the_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    """Mode 0600, whatever the umask is: whom else it let in would hear no more than that it may not ask."""

    async def work() -> int:
        async with serving(tmp_path) as served:
            return stat.S_IMODE(served.path.stat().st_mode)

    before = os.umask(0)
    try:
        assert run(work()) == 0o600
    finally:
        os.umask(before)


def test_what_a_killed_daemon_left_behind_is_replaced(tmp_path: Path) -> None:
    """A socket that nobody listens at refuses connections; the next daemon makes its own."""

    async def work() -> None:
        path = socket_path(configured(tmp_path))
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(os.fspath(path))
        assert "Connection refused" in await refusal(hear(path))
        async with serving(tmp_path) as served:
            await _next_is_served(served)

    run(work())


def test_a_long_path_is_as_good_as_a_short_one(tmp_path: Path) -> None:
    """Beyond the 107 bytes that a socket's address has."""

    async def work() -> None:
        async with serving(tmp_path / ("d" * 120)) as served:
            assert stat.S_ISSOCK(served.path.lstat().st_mode)
            await _next_is_served(served)
        assert not served.path.exists()

    run(work())


def test_where_no_socket_can_be_made_it_is_said(tmp_path: Path) -> None:
    """A folder in its place is named."""
    path = socket_path(configured(tmp_path))
    path.mkdir(parents=True)

    async def work() -> None:
        async with serving(tmp_path):
            pass

    with pytest.raises(SpoolError, match=f"cannot make the control socket {path}"):
        run(work())


def test_a_daemon_that_goes_away_is_told_from_one_that_answers(tmp_path: Path) -> None:
    """The connection ends before the run does: the client neither waits on nor takes it for an end."""

    async def vanish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(control.written(Accepted(later=False)))
        await writer.drain()
        writer.close()

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"type":"accepted","later":"perhaps"}\n')
        await writer.drain()
        writer.close()

    async def work() -> None:
        path = tmp_path / "control"
        for handler, words in ((vanish, "went away before the run had ended"), (babble, "cannot be understood")):
            server = await asyncio.start_unix_server(handler, path)
            assert words in await refusal(hear(path))
            server.close()
            path.unlink(missing_ok=True)

    run(work(), loop="asyncio")


def test_a_daemon_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it accepts and says nothing, nor where it does not accept."""
    monkeypatch.setattr(control_client, "SILENT_AT_MOST", 0.2)
    monkeypatch.setattr(control_client, "_CONNECTED_WITHIN", 0.5)

    async def work() -> None:
        path = tmp_path / "control"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hanging:
            hanging.bind(os.fspath(path))
            hanging.listen(0)
            assert "has said nothing" in await refusal(hear(path))
            waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with waiting:
                waiting.setblocking(False)
                with suppress(BlockingIOError):
                    waiting.connect(os.fspath(path))
                assert "does not answer at" in await refusal(hear(path))

    run(work())
