"""How the daemon and its runs end, told to or not: in time, cleaned up, and with nothing left running."""

import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import uvloop

from sysbackup.contents.cache_directory import catalog_path
from tests.support import notified
from tests.support.daemons import ROOT, SOON, Host, Running, command, daemon
from tests.support.processes import belonging, zombies
from tests.support.proxy import Fault, Proxy, proxying
from tests.support.servers import OnServer, Server

MIB = 1 << 20

PROMISED = 10.0
"""Seconds within which a stop must have ended everything."""

DEAF = "trap '' TERM INT HUP"

HUNG = f"""
#!/bin/sh
{DEAF}
echo /etc/passwd
begun=%s
(setsid sh -c "{DEAF}; echo >'$begun.1'; sleep 600; sleep 600" &
 setsid sh -c "(setsid sleep 600 &) ; echo >'$begun.2'; sleep 600" & wait) &
until [ -e "$begun.1" ] && [ -e "$begun.2" ]; do sleep 0.01; done
echo . >>"$begun"
sleep 600; sleep 600; sleep 600
"""

ENDLESS = f"""
#!/bin/sh
{DEAF}
while :; do cat /dev/urandom; done >&$1
"""


@pytest.fixture
def bucket(moto: Server) -> OnServer:
    return uvloop.run(moto.bucket())


@pytest.fixture
def host(tmp_path: Path, bucket: OnServer) -> Iterator[Host]:
    """At the end no process that has to do with it lives."""
    found = Host(tmp_path / "machine", bucket)
    yield found
    left = belonging(found.base)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}


def until(met: Callable[[], object], what: str) -> None:
    """Wait for something outside the daemon."""
    deadline = time.monotonic() + SOON
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def stopped(service: Running) -> str:
    """Stop it as a service manager does, in the time that was promised, with exit status 0; its log."""
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    assert service.process.wait(SOON) == 0, service.said()
    assert time.monotonic() - began < PROMISED
    assert belonging(service.host.base) == {}
    assert not (service.host.runtime / "status.json").exists()
    assert "Traceback" not in service.said()
    return service.said()


def untouched(bucket: OnServer) -> bool:
    """Whether no manifest is in the bucket and no multipart upload under way."""

    async def look() -> bool:
        async with bucket.store() as store:
            manifests = [found async for found in store.versions("manifests/")]
        return not manifests and await bucket.unfinished() == 0

    return uvloop.run(look())


def uploading(bucket: OnServer) -> bool:
    return uvloop.run(bucket.unfinished()) > 0


def outcomes(host: Host) -> list[tuple[str, int]]:
    """The history."""
    lines = (json.loads(line) for line in (host.state / "history.jsonl").read_text().splitlines())
    return [(line["outcome"], line["exit_code"]) for line in lines]


def hung_picker(host: Host) -> Callable[[], bool]:
    """Have one that never ends, with children in sessions of their own, deaf to all but KILL. Has it begun?"""
    begun = host.base / "begun"
    host.program("pickers.d", "hung", HUNG % f"'{begun}'")
    return begun.exists


def worker(service: Running) -> int:
    """The process of the run that goes on. One that it is just starting has its memory, and so its command line."""
    deadline = time.monotonic() + SOON
    while True:
        found = [pid for pid, line in belonging(service.host.base).items() if b"cli.run_worker:main" in line]
        if len(found) == 1:
            return found[0]
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def test_a_stop_in_the_middle_of_an_upload(host: Host, bucket: OnServer, tmp_path: Path) -> None:
    """No upload and no manifest is left; what the store had confirmed is known, and the next run does not send it."""
    for n in range(4):
        (tmp_path / f"{n}").write_bytes(os.urandom(2 * MIB))
    host.program("pickers.d", "files", f"#!/bin/sh\necho '{tmp_path}'/[0-3] | tr ' ' '\\n'\n")
    host.program("snapshots.d", "endless", ENDLESS)
    with proxying(bucket.server.endpoint) as proxy:
        host.configure({"s3": {"endpoint_url": proxy.url}, "run": {"give_up_after": "20 s"}})
        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            until(lambda: uploading(bucket), service.said())
            until(lambda: len(confirmed(host)) == 4, "the files were not stored")
            stopped(service)
        assert untouched(bucket)
        assert outcomes(host) == [("stopped", 1)]
        assert len(confirmed(host)) == 4
        (host.directory / "snapshots.d" / "endless").unlink()
        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            ended = service.until(lambda status: status.last is not None and status.last.outcome == "complete").last
            assert ended is not None
            assert ended.summary is not None
            assert ended.summary.files == 4
        assert {proxy.count(f"PUT /{bucket.name}/{key}") for key in confirmed(host) if key.startswith("content/")} == {
            1
        }


def confirmed(host: Host) -> list[str]:
    """The keys of contents that the catalog knows."""
    path = catalog_path(host.base / "cache")
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(path)) as db:
            return [key for (key,) in db.execute("SELECT key FROM objects") if key.startswith("content/")]
    except sqlite3.OperationalError:
        return []  # just being made


def test_a_stop_while_a_picker_hangs(host: Host, bucket: OnServer) -> None:
    """
    It ignores TERM and has children in other sessions: all are ended, in time.

    Who asks for a reload or a run meanwhile is too late: nothing is said to be ready again.
    """
    begun = hung_picker(host)
    address = str(host.base / "notify")
    with notified.listening(address) as ear, daemon(host, NOTIFY_SOCKET=address) as service:
        service.signal(signal.SIGUSR1)
        until(begun, service.said())
        until(lambda: len(belonging(host.base)) >= 6, "the picker's children have not begun")

        def ask_too_late() -> None:
            ear.hear("STOPPING", "1")
            service.signal(signal.SIGHUP)
            service.signal(signal.SIGUSR1)

        late = threading.Thread(target=ask_too_late)
        late.start()
        stopped(service)
        late.join()
        assert service.events("config.left")
        assert ear.states() == ["READY", "STOPPING"]
        assert len(service.events("run.starting")) == 1
    assert untouched(bucket)


@contextmanager
def mute() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_stop_while_the_store_does_not_answer(host: Host) -> None:
    """From the first request on it is silent: that run can be stopped as well."""
    hung_picker(host)
    with mute() as url:
        host.configure({"s3": {"endpoint_url": url}, "run": {"give_up_after": "10 min"}})
        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            service.until(lambda status: status.current is not None and status.current.run is not None)
            stopped(service)
    assert outcomes(host) == [("stopped", 1)]


def stalled_in_an_upload(host: Host, bucket: OnServer, proxy: Proxy) -> Callable[[], bool]:
    """Have a run whose upload can neither go on nor be aborted, beside a picker that hangs. Is it there?"""
    proxy.fail(r"^PUT .*partNumber=2\b", Fault.STALLED, *range(1, 100))
    proxy.fail("^DELETE ", Fault.STALLED, *range(1, 100))
    begun = hung_picker(host)
    host.program("snapshots.d", "endless", ENDLESS)
    host.configure({"s3": {"endpoint_url": proxy.url}, "run": {"give_up_after": "10 min"}})
    return lambda: begun() and proxy.stalled.is_set()


def test_a_stop_that_the_run_does_not_heed_in_time(host: Host, bucket: OnServer) -> None:
    """The store falls silent in the middle of an upload: the run is killed, with all that it had started."""
    with proxying(bucket.server.endpoint) as proxy, daemon(host) as service:
        there = stalled_in_an_upload(host, bucket, proxy)
        service.signal(signal.SIGHUP)
        service.signal(signal.SIGUSR1)
        until(there, service.said())
        stopped(service)
        assert service.events("run.killed")
        assert "unfinished upload may be left" in service.events("run.ended")[0]["reason"]


def test_a_second_stop_ends_it_at_once(host: Host, bucket: OnServer) -> None:
    """Not cleaned up, but nothing is left running; the next daemon starts over what lies there."""
    with proxying(bucket.server.endpoint) as proxy:
        there = stalled_in_an_upload(host, bucket, proxy)
        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            until(there, service.said())
            service.signal(signal.SIGTERM)
            until(lambda: service.events("daemon.stopping"), service.said())
            began = time.monotonic()
            service.signal(signal.SIGINT)
            assert service.process.wait(SOON) == 128 + signal.SIGINT
            assert time.monotonic() - began < 4  # the run would have had 6.5 s
            assert belonging(host.base) == {}
    assert service.events("daemon.cut_short")
    host.configure({})
    (host.directory / "snapshots.d" / "endless").unlink()
    host.program("pickers.d", "hung", "#!/bin/sh\necho /etc/passwd\n")
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        service.until(lambda status: status.last is not None and status.last.outcome == "complete")


def test_a_stop_while_nobody_reads_the_log(host: Host) -> None:
    """A full pipe holds the loop up; the stop is obeyed all the same, and nothing is left."""
    begun = hung_picker(host)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with closing(os.fdopen(reading, "rb")), os.fdopen(writing, "wb") as log:
        process = subprocess.Popen(command("daemon"), cwd=ROOT, stderr=log, env=host.environ())
        service = Running(host, process)
        host.log.touch()
        service.until(lambda _: True)
        service.signal(signal.SIGUSR1)
        until(begun, "the picker has not begun")
        until(lambda: blocked_in_write(process.pid, service), "the log takes everything")
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        process.wait(SOON)
        assert time.monotonic() - began < PROMISED
    assert belonging(host.base) == {}


def blocked_in_write(pid: int, service: Running) -> bool:
    """Whether it waits in write(2), number 1, into the pipe; has it write more where it does not."""
    for _ in range(20):
        service.signal(signal.SIGUSR2)
    time.sleep(0.05)
    return Path(f"/proc/{pid}/syscall").read_text().startswith(("1 0x2 ", "64 0x2 "))


def test_a_run_that_fails_while_it_is_stopped_is_the_last(host: Host, bucket: OnServer) -> None:
    """Aborting its upload is refused, so it fails instead of being stopped; the run that was asked for is not made."""
    with proxying(bucket.server.endpoint) as proxy:
        proxy.fail("^DELETE ", Fault.DENIED, *range(1, 100))
        host.program("snapshots.d", "endless", ENDLESS)
        host.configure({"s3": {"endpoint_url": proxy.url}})
        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            until(lambda: uploading(bucket), service.said())
            service.signal(signal.SIGUSR1)
            service.until(lambda status: status.asked)
            stopped(service)
            assert proxy.count("^DELETE ")
            assert len(service.events("run.starting")) == 1
            assert len(outcomes(host)) == 1


def test_stops_at_any_moment_of_a_run(host: Host, bucket: OnServer) -> None:
    """While it is being started, works, or ends: the daemon ends well, and says of the run what is true of it."""
    host.program("pickers.d", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    for moment in range(8):
        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            time.sleep(moment * 0.13)
            said = stopped(service)
    ends = [line for line in map(json.loads, said.splitlines()) if line["event"] == "run.ended"]

    async def manifests() -> int:
        async with bucket.store() as store:
            return len([found async for found in store.versions("manifests/")])

    assert {line["outcome"] for line in ends} <= {"complete", "stopped"}
    complete = [line["outcome"] for line in ends].count("complete")
    perhaps = sum("manifest was on its way" in str(line["reason"]) for line in ends)
    assert complete <= uvloop.run(manifests()) <= complete + perhaps
    assert not uploading(bucket)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=["KILL", "SEGV"])
def test_a_run_that_dies_is_told_and_cleared_away(host: Host, number: signal.Signals) -> None:
    """The daemon says what it died of, ends what it left running, and makes the next run."""
    begun = hung_picker(host)
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        until(begun, service.said())
        os.kill(worker(service), number)
        ended = service.until(lambda status: status.last is not None and status.current is None).last
        assert ended is not None
        assert (ended.outcome, ended.exit_code) == ("failed", 1)
        assert number.name in str(ended.reason)
        assert belonging(host.base).keys() == {service.process.pid}
        assert service.events("programs.ended")[0]["processes"] >= 3
        until(lambda: not zombies(service.process.pid), "zombies are left")
        host.program("pickers.d", "hung", "#!/bin/sh\necho /etc/passwd\n")
        service.signal(signal.SIGUSR1)
        service.until(lambda status: status.last is not None and status.last.outcome == "complete")
        stopped(service)
    assert outcomes(host) == [("failed", 1), ("complete", 0)]


def test_what_a_complete_run_has_started_is_no_later_run_s_to_end(host: Host) -> None:
    """A server that one started again lives on when a later run is killed; when it ends no zombie stays."""
    server = host.base / "server"
    host.program(
        "pickers.d", "passwd", f"#!/bin/sh\nsetsid sleep 600 >&- 2>&- & echo $! >'{server}'\necho /etc/passwd\n"
    )
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        service.until(lambda status: status.last is not None and status.last.outcome == "complete")
        pid = int(server.read_text())
        (host.directory / "pickers.d" / "passwd").unlink()
        begun = hung_picker(host)
        service.signal(signal.SIGUSR1)
        until(begun, service.said())
        os.kill(worker(service), signal.SIGKILL)
        service.until(lambda status: status.last is not None and status.last.outcome == "failed")
        assert belonging(host.base).keys() == {service.process.pid, pid}
        os.kill(pid, signal.SIGKILL)
        until(lambda: not zombies(service.process.pid), "a zombie is left")
        stopped(service)


@pytest.mark.parametrize("stalled", [False, True], ids=["heeding", "stalled"])
def test_a_run_ends_with_its_daemon(host: Host, bucket: OnServer, stalled: bool) -> None:
    """kill -9 of the daemon: the run stops, cleaned up if it can; soon nothing is left; a new daemon starts."""
    with proxying(bucket.server.endpoint) as proxy:
        if stalled:
            there = stalled_in_an_upload(host, bucket, proxy)
        else:
            begun = hung_picker(host)
            host.program("snapshots.d", "endless", ENDLESS)
            host.configure({"s3": {"endpoint_url": proxy.url}})

            def there() -> bool:
                return begun() and uploading(bucket)

        with daemon(host) as service:
            service.signal(signal.SIGUSR1)
            until(there, service.said())
            service.process.kill()
            began = time.monotonic()
            service.process.wait()
            until(lambda: belonging(host.base) == {}, "something is left")
            assert time.monotonic() - began < PROMISED
    assert len(service.events("daemon.gone")) == 1
    assert "Traceback" not in service.said()
    if not stalled:
        assert untouched(bucket)
    assert (host.runtime / "status.json").exists()
    host.configure({})
    (host.directory / "snapshots.d" / "endless").unlink()
    host.program("pickers.d", "hung", "#!/bin/sh\necho /etc/passwd\n")
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        service.until(lambda status: status.last is not None and status.last.outcome == "complete")
