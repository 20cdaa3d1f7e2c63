"""Who hears of backups: metrics over HTTP and as a file, hooks, the shipped samples, and each line of the log."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
import uvloop

from sysbackup.contents.cache_directory import catalog_path
from sysbackup.formats import run_result
from sysbackup.formats.run_result import with_manifest
from sysbackup.model import worked_under
from sysbackup.service import metrics_endpoint
from sysbackup.service.metrics_endpoint import MetricsEndpoint
from tests.support import backups, daemons
from tests.support.daemons import Host
from tests.support.servers import Server
from tests.unit.test_hooks import BEGAN, badly, summary
from tests.unit.test_metrics import values

SAMPLES = Path(__file__).parents[2] / "systemd" / "samples" / "hooks.d"


@pytest.fixture
def host(tmp_path: Path, moto: Server) -> Host:
    return Host(tmp_path / "machine", uvloop.run(moto.bucket()))


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetched(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return values(answer.read().decode())


def refused(port: int) -> bool:
    """Whether nothing listens there."""
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


# ---- over HTTP


async def asked(port: int, request: bytes) -> bytes:
    """What the endpoint answers to these bytes, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        with suppress(ConnectionResetError):
            return await reader.read()
        return b""
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def exposition() -> bytes:
    return b"up 1\n"


def test_there_is_get_metrics_and_nothing_else() -> None:
    """Each with the status that HTTP has for it; the connection is closed."""
    cases = {
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n": b"200",
        b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n": b"200",
        b"GET / HTTP/1.1\r\n\r\n": b"404",
        b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n": b"404",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n": b"405",
        b"HEAD /metrics HTTP/1.1\r\n\r\n": b"405",
        b"\x16\x03\x01 hello\r\n\r\n": b"400",
        b"GET /metrics HTTP/1.1\r\nA: " + bytes(100_000): b"431",
    }

    async def work() -> None:
        endpoint = MetricsEndpoint(exposition)
        port = free_port()
        await endpoint.listen(("127.0.0.1", port))
        for request, status in cases.items():
            answer = await asked(port, request)
            # What we did not read of too long a request may cost the client the answer.
            assert answer.split(b" ")[1:2] in ([status], [] if status == b"431" else [status]), request[:40]
            assert answer.endswith(b"up 1\n") == (status == b"200")
        await endpoint.close()

    backups.run(work())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_clients_that_say_nothing_or_go_away_do_no_harm(monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """No more of them are kept than a few, and not for long; closing leaves no socket, whoever is connected."""
    monkeypatch.setattr(metrics_endpoint, "WITHIN", 1.0)

    async def work() -> None:
        tasks = asyncio.all_tasks()
        endpoint = MetricsEndpoint(exposition)
        port = free_port()
        await endpoint.listen(("127.0.0.1", port))
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * metrics_endpoint.AT_ONCE)]
        for _, writer in silent[:2]:
            writer.write(b"GET /met")
        for reader, _ in silent:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        for _, writer in silent:
            writer.close()
        assert (await asked(port, b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"up 1\n")

        monkeypatch.setattr(metrics_endpoint, "WITHIN", 600.0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.1)
        await endpoint.close()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert refused(port)
        assert asyncio.all_tasks() == tasks

    threads = threading.active_count()
    backups.run(asyncio.wait_for(work(), 60), loop=loop)
    assert threading.active_count() == threads


def test_a_port_in_use_is_an_error_in_words_and_is_tried_again() -> None:
    """The daemon lives on without it; a reload mends it once the port is free."""
    port = free_port()

    async def work() -> None:
        endpoint = MetricsEndpoint(exposition)
        with closing(socket.socket()) as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            with structlog.testing.capture_logs() as said:
                await endpoint.listen(("127.0.0.1", port))
            (line,) = said
            assert (line["event"], line["log_level"]) == ("metrics.unserved", "error")
            assert line["address"] == f"127.0.0.1:{port}"
            assert "already in use" in line["reason"].lower()
        await endpoint.listen(("127.0.0.1", port))
        assert (await asked(port, b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"up 1\n")
        await endpoint.close()

    backups.run(work())


def test_a_daemon_serves_metrics_where_its_configuration_says(host: Host, tmp_path: Path) -> None:
    """From a run's begin to its end, over a restart, and after a reload at another port or none."""
    first, second = free_port(), free_port()
    collected = tmp_path / "sysbackup.prom"
    host.configure({"metrics": {"listen": first, "textfile": collected}})
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    host.program("pickers.d", "slow", f"#!/bin/sh\ncat {gate} >/dev/null\necho /etc/passwd\n")
    with daemons.daemon(host) as daemon:
        daemon.signal(signal.SIGUSR1)
        with gate.open("w"):  # somebody reads: the picker runs
            assert until(lambda: fetched(first)["run_in_progress"] == 1)
            assert until(lambda: values(collected.read_text())["run_in_progress"] == 1)
        daemon.until(lambda status: status.last is not None)
        assert until(lambda: fetched(first)["run_in_progress"] == 0)
        found = fetched(first)
        assert (found["last_backup_files"], found['runs_total{outcome="complete"}']) == (1, 1)
        assert until(lambda: values(collected.read_text()) == found)
        host.configure({"metrics": {"listen": second}})
        daemon.signal(signal.SIGHUP)
        assert until(lambda: not refused(second))
        assert refused(first)
        again = fetched(second)
        host.configure({})
        daemon.signal(signal.SIGHUP)
        assert until(lambda: refused(second))
        assert daemon.stop() == 0
    assert again["last_success_timestamp_seconds"] == found["last_success_timestamp_seconds"]
    host.configure({"metrics": {"listen": first}})
    with daemons.daemon(host) as daemon:
        assert until(lambda: not refused(first))
        restarted = fetched(first)
    assert restarted["last_success_timestamp_seconds"] == found["last_success_timestamp_seconds"]
    assert restarted['runs_total{outcome="complete"}'] == 0


def until(met: Any) -> bool:
    """Wait for something to be so."""
    deadline = time.monotonic() + daemons.SOON
    while time.monotonic() < deadline:
        with suppress(OSError, KeyError):
            if met():
                return True
        time.sleep(0.05)
    return False


# ---- sysbackup run, without a daemon


def watched(host: Host, tmp_path: Path) -> Path:
    """Give a machine a hook that sets down its events, and a textfile; where the events are."""
    told = tmp_path / "told"
    host.configure({"metrics": {"textfile": tmp_path / "sysbackup.prom"}})
    host.program("hooks.d", "record", f'#!/bin/sh\necho "$1 $(cat)" >>{told}\n')
    return told


def events(told: Path) -> list[tuple[str, dict[str, Any]]]:
    if not told.exists():
        return []
    lines = (line.split(" ", 1) for line in told.read_text().splitlines())
    return [(event, json.loads(text)) for event, text in lines]


def remembered(host: Host) -> list[dict[str, Any]]:
    path = host.state / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_by_hand_or_cron_is_told_of_as_well(host: Host, tmp_path: Path) -> None:
    """Its hooks hear of it in order, the history and the textfile have it, and its own output is as before."""
    told = watched(host, tmp_path)
    host.program("pickers.d", "files", "#!/bin/sh\necho /etc/passwd\n")
    done = host.call("run", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    (started, first), (succeeded, second) = events(told)
    assert (started, first["run"], first["outcome"]) == ("started", worked_under(printed["run"]), None)
    assert (succeeded, second) == ("succeeded", printed | {"reason": None})
    (line,) = remembered(host)
    assert (line["outcome"], line["summary"]) == ("complete", printed)
    found = values((tmp_path / "sysbackup.prom").read_text())
    assert (found["run_in_progress"], found["last_run_exit_code"], found["last_backup_files"]) == (0, 0, 1)


def test_a_run_that_fails_or_leaves_something_out_is_told_of(host: Host, tmp_path: Path) -> None:
    """Incomplete with its summary; failed with its reason, also where it came to no run; the good one stays good."""
    told = watched(host, tmp_path)
    host.program("pickers.d", "files", "#!/bin/sh\necho /etc/passwd\n")
    assert host.call("run").returncode == 0
    host.program("pickers.d", "files", "#!/bin/sh\necho /etc/passwd; exit 1\n")
    assert host.call("run").returncode == 3
    assert host.bucket is not None
    nowhere = f"http://127.0.0.1:{free_port()}"
    host.configure({"s3": {"endpoint_url": nowhere}, "metrics": {"textfile": tmp_path / "sysbackup.prom"}})
    refused = host.call("run")
    assert refused.returncode == 1
    seen = events(told)
    assert [event for event, _ in seen if event != "started"] == ["succeeded", "incomplete", "failed"]
    assert (seen[3][1]["problems"], seen[3][1]["reason"]) == (1, None)
    assert seen[-1][1]["reason"] in refused.stderr
    assert [line["outcome"] for line in remembered(host)] == ["complete", "incomplete", "failed"]
    found = values((tmp_path / "sysbackup.prom").read_text())
    assert found['last_run_outcome{outcome="failed"}'] == 1
    assert found["last_success_timestamp_seconds"] < found["last_backup_timestamp_seconds"]
    assert found["last_backup_timestamp_seconds"] < found["last_run_end_timestamp_seconds"]


def test_a_run_stopped_by_a_signal_is_told_of_and_keeps_its_exit_status(host: Host, tmp_path: Path) -> None:
    """`failed` for the hooks, with the outcome `stopped`."""
    told = watched(host, tmp_path)
    host.program("pickers.d", "endless", f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 600\n")
    process = subprocess.Popen(daemons.command("run"), stderr=subprocess.DEVNULL, cwd=daemons.ROOT, env=host.environ())
    assert until((tmp_path / "begun").exists)
    assert until(lambda: events(told))
    process.terminate()
    assert process.wait(daemons.SOON) == 128 + signal.SIGTERM
    (_, _), (event, read) = events(told)
    assert (event, read["outcome"], read["reason"]) == ("failed", "stopped", "stopped by SIGTERM")
    assert read["exit_code"] == 128 + signal.SIGTERM
    assert read["run"] is not None
    assert [line["outcome"] for line in remembered(host)] == ["stopped"]
    with daemons.daemon(host):
        found = json.loads(host.call("status", "--json").stdout)
        assert (found["verdict"], found["reasons"]) == ("stale", ["there is no complete backup yet"])
        assert [w for w in found["warnings"] if "stopped by hand" in w]


def test_a_run_that_begins_again_is_told_of_once(host: Host, tmp_path: Path) -> None:
    """Its catalog was about another bucket: hooks hear of one start and one end."""
    told = watched(host, tmp_path)
    host.program("pickers.d", "files", "#!/bin/sh\necho /etc/passwd\n")
    assert host.call("run").returncode == 0
    with closing(sqlite3.connect(catalog_path(host.base / "cache"))) as db, db:
        db.execute("UPDATE bucket SET name = 'elsewhere'")
    again = host.call("run")
    assert (again.returncode, "catalog.set_aside" in again.stderr) == (0, True)
    assert [event for event, _ in events(told)] == ["started", "succeeded"] * 2


def test_a_signal_while_hooks_are_called_ends_them_and_not_what_the_run_came_to(host: Host, tmp_path: Path) -> None:
    """The backup is made: the exit status says so, and the summary is printed."""
    host.program("pickers.d", "files", "#!/bin/sh\necho /etc/passwd\n")
    host.program("hooks.d", "slow", f"#!/bin/sh\n[ $1 = started ] || {{ touch {tmp_path}/begun; sleep 600; }}\n")
    process = subprocess.Popen(
        daemons.command("run", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=daemons.ROOT,
        env=host.environ(),
    )
    assert until((tmp_path / "begun").exists)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=daemons.SOON)
    assert process.returncode == 0
    assert json.loads(out)["outcome"] == "complete"
    assert [line["outcome"] for line in remembered(host)] == ["complete"]


def test_a_run_that_finds_another_in_progress_or_mistakes_is_not_told_of(host: Host, tmp_path: Path) -> None:
    """A cron job that comes too early does not make backups look as if they failed."""
    told = watched(host, tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    host.program("pickers.d", "slow", f"#!/bin/sh\ntouch {tmp_path}/begun\ncat {gate}\necho /etc/passwd\n")
    first = subprocess.Popen(daemons.command("run"), stderr=subprocess.DEVNULL, cwd=daemons.ROOT, env=host.environ())
    assert until((tmp_path / "begun").exists)
    assert host.call("run").returncode == 75
    gate.write_text("")
    assert first.wait(daemons.SOON) == 0
    host.configure({"daemon": {"schedul": "x"}})
    assert host.call("run").returncode == 78
    assert [event for event, _ in events(told)] == ["started", "succeeded"]
    assert [line["outcome"] for line in remembered(host)] == ["complete"]


def test_what_goes_wrong_with_telling_changes_nothing(host: Host, tmp_path: Path) -> None:
    """No room for the history, none for the textfile, a hook that fails: warnings, and exit status 0."""
    host.configure({"metrics": {"textfile": tmp_path / "missing" / "sysbackup.prom"}})
    host.program("pickers.d", "files", "#!/bin/sh\necho /etc/passwd\n")
    host.program("hooks.d", "fails", "#!/bin/sh\nexit 1\n")
    host.state.write_text("a file where the directory should be")
    done = host.call("run", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["outcome"] == "complete"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"history.unwritable", "metrics.unwritten", "hook.failed"} <= {line["event"] for line in lines}


def test_check_config_lists_hooks_and_looks_at_metrics(host: Host, tmp_path: Path) -> None:
    """Which are called, which passed over and why; where metrics could not be written or can be read by others."""
    host.program("pickers.d", "files", "#!/bin/sh\n")
    (host.directory / "snapshots.d").mkdir()
    assert json.loads(host.call("check-config", "--json").stdout)["programs"]["hooks"] == []
    said = host.call("check-config").stdout
    assert not [line for line in said.splitlines() if "warning" in line and ("hooks" in line or "metrics" in line)]
    host.program("hooks.d", "ping", "#!/bin/sh\n")
    host.program("hooks.d", "ping.dpkg-old", "#!/bin/sh\n")
    (host.directory / "hooks.d" / "mail").write_text("#!/bin/sh\n")
    host.configure({"metrics": {"listen": "0.0.0.0:9797", "textfile": tmp_path / "missing" / "backup.txt"}})
    said = host.call("check-config").stdout
    assert "# hooks: ping\n" in said
    assert "# hooks: mail: not run: it is not executable (chmod +x)\n" in said
    assert "# hooks: ping.dpkg-old: not run: its name ends in .dpkg-old\n" in said
    assert "# warning: [metrics] listen: whoever reaches this address can read how backups go" in said
    assert "node_exporter reads only files whose names end in .prom" in said
    assert f"the directory {tmp_path}/missing does not exist: no metrics will be written" in said
    shutil.rmtree(host.directory / "pickers.d")
    assert "nothing will be backed up" in host.call("check-config").stdout


# ---- the shipped samples


class Pings(ThreadingHTTPServer):
    """Takes pings as healthchecks.io does; `status` is what it answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Ping)
        self.got: list[tuple[str, bytes]] = []
        self.status = 200


class _Ping(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast("Pings", self.server)
        server.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that it has
        pass


@contextmanager
def pinged() -> Iterator[Pings]:
    with Pings() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sample(name: str, directory: Path) -> Path:
    """A sample, installed in a configuration directory as its header says."""
    target = directory / "hooks.d" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SAMPLES / name, target)
    target.chmod(0o755)
    return target


def called(hook: Path, event: str, told: bytes, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [hook, event],
        input=told.decode(),
        capture_output=True,
        text=True,
        timeout=daemons.SOON,
        check=False,
        env={"PATH": os.environ["PATH"], **environ},
    )


def secret(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_samples_are_shipped_ready_to_run() -> None:
    """Executable, with a first line that the kernel knows."""
    for path in SAMPLES.iterdir():
        assert os.access(path, os.X_OK)
        assert path.read_text().startswith("#!/usr/bin/env python3\n")


def test_the_ping_says_each_event_where_such_services_expect_it(tmp_path: Path) -> None:
    """Start, success, exit code, failure; with what sysbackup says as the body."""
    hook = sample("ping", tmp_path)
    with pinged() as server:
        secret(tmp_path / "ping-url", f"http://127.0.0.1:{server.server_port}/check/\n")
        calls = [
            ("started", run_result.start_told(BEGAN)),
            ("succeeded", run_result.end_told(with_manifest(summary()))),
            ("incomplete", run_result.end_told(with_manifest(summary("incomplete")))),
            ("failed", run_result.end_told(badly(exit_code=77))),
            ("failed", run_result.end_told(badly("stopped", exit_code=0))),
        ]
        for event, told in calls:
            done = called(hook, event, told)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    paths = ["/check/start", "/check", "/check/3", "/check/77", "/check/fail"]
    assert server.got == [(path, told) for path, (_, told) in zip(paths, calls, strict=True)]


def test_the_ping_prefers_systemds_credentials_and_cuts_a_long_message(tmp_path: Path) -> None:
    """The URL beside hooks.d is not looked at then."""
    hook = sample("ping", tmp_path)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    with pinged() as server:
        secret(tmp_path / "ping-url", "http://127.0.0.1:1/wrong")
        secret(credentials / "ping-url", f"http://127.0.0.1:{server.server_port}/right", 0o440)
        told = run_result.end_told(badly(reason="x" * 100_000))
        assert called(hook, "failed", told, CREDENTIALS_DIRECTORY=str(credentials)).returncode == 0
    assert server.got == [("/right/1", told[:10_000])]


def test_a_ping_that_cannot_be_sent_says_why_and_never_its_url(tmp_path: Path) -> None:
    """It is tried again; what it says goes to the log, and whoever knows the URL can send false signals."""
    hook = sample("ping", tmp_path)
    told = run_result.end_told(with_manifest(summary()))

    def why() -> str:
        done = called(hook, "succeeded", told)
        assert done.returncode == 1
        assert "hunter2" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "there is no file ping-url" in why()
    with pinged() as server:
        server.status = 503
        secret(tmp_path / "ping-url", f"http://127.0.0.1:{server.server_port}/hunter2")
        assert why() == "the server answered with status 503 (tried 3 times)\n"
        assert len(server.got) == 3
    secret(tmp_path / "ping-url", "http://127.0.0.1:1/hunter2")
    assert "could not be reached" in why()
    secret(tmp_path / "ping-url", "ftp://hunter2")
    assert "must hold one http or https URL" in why()
    secret(tmp_path / "ping-url", "http://127.0.0.1:1/hunter2", 0o644)
    assert why() == f"{tmp_path}/ping-url can be read by everybody: chmod 600 {tmp_path}/ping-url\n"


def mailed(tmp_path: Path, event: str, told: bytes, status: int = 0) -> tuple[int, str]:
    """The mail hook's exit status and the mail, as a sendmail on PATH got it."""
    folder = tmp_path / "bin"
    backups.program(
        folder, "sendmail", f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\ncat >{tmp_path}/mail\nexit {status}'
    )
    (tmp_path / "mail").unlink(missing_ok=True)
    done = called(sample("mail", tmp_path), event, told, PATH=f"{folder}:{os.environ['PATH']}")
    sent = tmp_path / "mail"
    return done.returncode, sent.read_text() if sent.exists() else done.stderr


def test_a_mail_is_sent_where_something_went_wrong_and_only_then(tmp_path: Path) -> None:
    """The subject has the host and the outcome, the body the reason or the first problems."""
    assert mailed(tmp_path, "started", run_result.start_told(BEGAN)) == (0, "")
    assert mailed(tmp_path, "succeeded", run_result.end_told(with_manifest(summary()))) == (0, "")
    _, mail = mailed(tmp_path, "failed", run_result.end_told(badly()))
    assert (tmp_path / "arguments").read_text() == "-t -i\n"
    head, _, body = mail.partition("\n\n")
    assert "To: root" in head.splitlines()
    assert "Subject: Backup of alpha: failed" in head.splitlines()
    assert "There is no backup of this run: the store does not answer" in body
    found = [{"event": "file.skipped", "path": f"/srv/{n}", "reason": "no permission"} for n in range(50)]
    half = summary("incomplete", problems=1234, first_problems=found)
    _, mail = mailed(tmp_path, "incomplete", run_result.end_told(with_manifest(half)))
    assert "Subject: Backup of alpha: incomplete" in mail
    assert "1234 source(s) could not be backed up" in mail
    assert "  /srv/0: no permission" in mail
    assert "and 1214 more: see the log" in mail


def test_a_mail_that_cannot_be_sent_is_a_failure_of_the_hook(tmp_path: Path) -> None:
    """Which is a warning in the log."""
    status, _ = mailed(tmp_path, "failed", run_result.end_told(badly()), status=75)
    assert status == 1
    (tmp_path / "bin" / "sendmail").unlink()
    done = called(
        tmp_path / "hooks.d" / "mail", "failed", run_result.end_told(badly()), PATH=os.path.dirname(sys.executable)
    )
    assert (done.returncode, done.stderr) in (
        (1, "there is no program sendmail: install a mail system, or take this hook away\n"),
        (0, ""),  # a machine that has one in /usr/sbin
    )


class _Post(socketserver.StreamRequestHandler):
    """As much of an SMTP server as takes one mail (RFC 5321)."""

    def handle(self) -> None:
        got = cast("Mails", self.server).got
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            got.append(line.decode().rstrip())
            word = line[:4].upper().strip()
            self.wfile.write({b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}.get(word, b"250 fine\r\n"))
            if word == b"DATA":
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    got.append(line.decode().rstrip())
                self.wfile.write(b"250 taken\r\n")


class Mails(socketserver.TCPServer):
    """Takes one mail; `got` has what was said to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.timeout = daemons.SOON
        self.got: list[str] = []


def test_in_the_services_sandbox_mail_goes_by_smtp(tmp_path: Path) -> None:
    """With NoNewPrivileges= no sendmail can queue mail, and Postfix's would wait for ever."""
    hook = sample("mail", tmp_path)
    backups.program(tmp_path / "bin", "sendmail", "#!/bin/sh\nsleep 600\n")

    def confined(port: int) -> "subprocess.Popen[str]":
        hook.write_text(hook.read_text().replace('("localhost", 25)', f'("127.0.0.1", {port})'))
        return subprocess.Popen(
            ["setpriv", "--no-new-privs", hook, "failed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        )

    told = run_result.end_told(badly()).decode()
    with Mails() as server, confined(server.server_address[1]) as process:
        taking = threading.Thread(target=server.handle_request)
        taking.start()
        assert process.communicate(told, timeout=daemons.SOON) == ("", "")
        taking.join()
    assert process.returncode == 0
    assert "rcpt TO:<root@localhost>" in server.got
    assert "Subject: Backup of alpha: failed" in server.got
    assert "There is no backup of this run: the store does not answer" in server.got
    sample("mail", tmp_path)
    with confined(1) as process:
        _, said = process.communicate(told, timeout=daemons.SOON)
    assert process.returncode == 1
    assert said.startswith("the mail server at 127.0.0.1, port 1, did not take the mail: ")


# ---- the log


def test_every_line_of_a_run_names_it(host: Host, tmp_path: Path) -> None:
    """Whatever goes wrong, whoever says it: pickers, snapshotters, files, threads, the signal to describe."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "fine").write_text("fine")
    (tree / "large").write_bytes(os.urandom(3 << 20))
    (tree / "locked").write_text("locked")
    host.program(
        "pickers.d", "failing", f"#!/bin/sh\necho oh no >&2\nfind {tree}\necho relative\necho /missing\nexit 3\n"
    )
    host.program("pickers.d", "slow", f"#!/bin/sh\ntouch {tmp_path}/begun\nread x <{tmp_path}/gate\n")
    host.program("pickers.d", "unsafe", "#!/bin/sh\n")
    (host.directory / "pickers.d" / "unsafe").chmod(0o777)
    host.program("snapshots.d", "failing", "#!/bin/sh\necho dump >&2\necho data >&$1\nexit 1\n")
    host.program("snapshots.d", "good", "#!/bin/sh\necho dump >&2\necho data >&$1\necho of something\n")
    host.program("hooks.d", "loud", "#!/bin/sh\necho $1\nexit 5\n")
    (host.base / "cache").mkdir()
    (host.base / "cache" / "catalog.sqlite").write_bytes(b"no catalog at all" * 1000)
    os.mkfifo(tmp_path / "gate")
    with (tree / "locked").open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with daemons.daemon(host, SYSBACKUP_LOG_LEVEL="debug") as daemon:
            daemon.signal(signal.SIGUSR1)
            assert until((tmp_path / "begun").exists)
            assert until(lambda: daemon.status().current.run is not None)  # type: ignore[union-attr]  # waited for
            daemon.signal(signal.SIGUSR2)
            assert until(lambda: daemon.events("run.described"))
            (tmp_path / "gate").write_text("\n")
            daemon.until(lambda status: status.last is not None)
            assert until(lambda: len(daemon.events("hook.failed")) == 2)
            daemon.stop()
    lines = [json.loads(line) for line in daemon.said().splitlines()]
    names = sorted({str(line["run"]) for line in lines if line.get("run")}, key=len)
    # the second half of the name is a secret until the manifest is written
    assert len(names) == 2
    assert names[1].startswith(names[0])
    nameless = {line["event"] for line in lines if not line.get("run")}
    assert nameless <= {
        *("daemon.started", "daemon.described", "daemon.stopping", "daemon.ended"),
        *("run.asked", "run.starting"),  # which have no name yet
    }
    seen = {line["event"] for line in lines if line.get("run")}
    assert seen >= {
        *("run.started", "program.refused", "program.said", "picker.failed", "path.refused", "file.vanished"),
        *("file.kept", "snapshotter.failed", "snapshot.stored", "object.stored", "run.described", "run.finished"),
        *("run.ended", "hook.failed", "catalog.set_aside"),
    }
