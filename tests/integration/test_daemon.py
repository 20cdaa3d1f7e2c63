"""The daemon as a service manager and an administrator see it: ready, asked, told to read its configuration anew."""

import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
import uvloop

from sysbackup.formats.run_result import RunResult
from sysbackup.model import worked_under
from sysbackup.programs.process_table import look_up
from sysbackup.service.control import Request, address, written
from tests.support import notified
from tests.support.daemons import ROOT, SOON, Host, Running, command, daemon
from tests.support.processes import belonging, zombies
from tests.support.servers import OnServer, Server

PASSWD = "#!/bin/sh\necho /etc/passwd\n"

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@pytest.fixture
def host(tmp_path: Path, moto: Server) -> Host:
    found = Host(tmp_path / "machine", uvloop.run(moto.bucket()))
    found.program("pickers.d", "passwd", PASSWD)
    return found


def backed_up(service: Running, code: int = 0) -> RunResult:
    """Have a run made by signal; how it ended."""
    before = service.until(lambda status: status.current is None).last
    service.signal(signal.SIGUSR1)
    ended = service.until(lambda status: status.last != before and status.current is None).last
    assert ended is not None
    assert ended.exit_code == code, service.said()
    return ended


def keys(bucket: OnServer, prefix: str = "manifests/") -> list[str]:
    """What is in the bucket beneath a prefix."""

    async def read() -> list[str]:
        async with bucket.store() as store:
            return [found.key async for found in store.versions(prefix)]

    return uvloop.run(read())


def until(met: object, what: str) -> None:
    """Wait for something outside the daemon."""
    assert callable(met)
    deadline = time.monotonic() + SOON
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Gate:
    """A picker that says that it has begun, and goes on when it may."""

    def __init__(self, host: Host, last: str = "echo /etc/hostname") -> None:
        self._begun, self._open = host.base / "begun", host.base / "open"
        host.program(
            "pickers.d",
            "gate",
            f"""
            #!/bin/sh
            echo /etc/passwd
            echo . >>'{self._begun}'
            until [ -e '{self._open}' ]; do sleep 0.05; done
            {last}
            """,
        )

    def wait(self, runs: int = 1) -> None:
        """Until so many runs in all have begun it."""
        until(lambda: self._begun.exists() and len(self._begun.read_text().split()) >= runs, "the picker did not begin")

    def open(self) -> None:
        """Let it, and all later ones, go on."""
        self._open.touch()

    def close(self) -> None:
        """Have later ones wait again."""
        self._open.unlink()


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_what_a_service_manager_hears(host: Host, abstract: bool) -> None:
    """Ready when asking works; progress while it goes on; reloading, ready again; stopping: all from the daemon."""
    gate = Gate(host)
    address = f"@sysbackup-{os.getpid()}" if abstract else str(host.base / "notify")
    with notified.listening(address) as ear, daemon(host, NOTIFY_SOCKET=address) as service:
        ear.hear("READY", "1")
        # not at once: glibc blocks all of them for the moment in which it starts a thread
        until(lambda: signals_of(service.process.pid, "SigBlk").isdisjoint(SIGNALS), "its signals stay blocked")
        assert signals_of(service.process.pid, "SigCgt").issuperset({*SIGNALS, signal.SIGTERM, signal.SIGINT})
        with asked(host) as answers:
            gate.wait()
            assert re.search(r"Backing up: 1 files, .* read, .* stored", ear.hear("STATUS", "1 files").fields["STATUS"])
            gate.open()
            last = answers.readlines()[-1]
        assert b'"complete"' in last
        ear.hear("STATUS", "last run complete")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        service.signal(signal.SIGHUP)
        ear.until(lambda _: ear.states().count("READY") == 2)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert before <= int(ear.hear("RELOADING", "1").fields["MONOTONIC_USEC"]) <= after
        service.signal(signal.SIGTERM)
        assert service.process.wait(SOON) == 0
        assert ear.states() == ["READY", "RELOADING", "READY", "STOPPING"]
        assert {said.pid for said in ear.heard} == {service.process.pid}


@contextmanager
def asked(host: Host) -> Iterator[BinaryIO]:
    """A run asked for at the control socket, and what is answered."""
    with socket.socket(socket.AF_UNIX) as connection, address(host.runtime / "control") as name:
        connection.settimeout(SOON)
        connection.connect(name)
        connection.sendall(written(Request()))
        with connection.makefile("rb") as answers:
            yield answers


def signals_of(pid: int, kind: str) -> set[int]:
    """Those that a process blocks (SigBlk), ignores (SigIgn) or has handlers for (SigCgt): proc(5)."""
    found = re.search(rf"(?m)^{kind}:\s+([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return {number for number in range(1, 65) if int(found[1], 16) >> (number - 1) & 1}


def test_the_watchdog_is_told_twice_as_often_as_it_asks_and_not_by_a_loop_that_hangs(host: Host) -> None:
    """During a run as well; a stopped process says nothing, and goes on where it may."""
    gate = Gate(host)
    address = str(host.base / "notify")
    with notified.listening(address) as ear, daemon(host, NOTIFY_SOCKET=address, WATCHDOG_USEC="1000000") as service:
        service.signal(signal.SIGUSR1)
        gate.wait()
        already = len(ear.pings())
        ear.until(lambda _: len(ear.pings()) >= already + 6)
        pings = ear.pings()
        assert statistics.median(later - earlier for earlier, later in itertools.pairwise(pings)) < 0.75
        service.signal(signal.SIGSTOP)
        until(lambda: " T " in Path(f"/proc/{service.process.pid}/stat").read_text(), "it did not stop")
        time.sleep(0.1)  # what was on its way has been heard
        silent = len(ear.pings())
        time.sleep(1.5)
        assert len(ear.pings()) == silent
        service.signal(signal.SIGCONT)
        ear.until(lambda _: len(ear.pings()) > silent)
        gate.open()


def test_the_watchdog_of_another_process_is_not_told(host: Host) -> None:
    """sd_watchdog_enabled(3): WATCHDOG_PID names whom it is meant for. The process of a run says nothing either."""
    address = str(host.base / "notify")
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    with notified.listening(address) as ear, daemon(host, **environ) as service:
        backed_up(service)
        assert service.stop() == 0
        assert ear.pings() == []
        assert {said.pid for said in ear.heard} == {service.process.pid}


def test_a_configuration_holds_from_its_reload_on(host: Host, moto: Server) -> None:
    """An edit alone changes nothing; one with a mistake is refused and told; runs go on by what was accepted last."""
    first, second = host.bucket, uvloop.run(moto.bucket())
    assert first is not None
    with daemon(host) as service:
        host.configure({"s3": {"bucket": second.name}})
        assert keys(first) == []
        backed_up(service)
        assert (len(keys(first)), len(keys(second))) == (1, 0)
        service.signal(signal.SIGHUP)
        until(lambda: service.events("config.read"), "nothing was read")
        backed_up(service)
        assert (len(keys(first)), len(keys(second))) == (1, 1)

        host.configure({"content": {"days_retaind": 30}})
        service.signal(signal.SIGHUP)
        (mistake,) = service.until(lambda status: status.refused != []).refused
        (told,) = service.events("config.refused")
        assert told["mistake"] == mistake
        assert str(host.directory / "conf") in mistake
        assert "days_retained" in mistake
        backed_up(service)
        assert (len(keys(first)), len(keys(second))) == (1, 2)

        (host.directory / "conf").unlink()
        service.signal(signal.SIGHUP)
        (mistake,) = service.until(lambda status: status.refused not in ([], [mistake])).refused
        assert "does not exist" in mistake
        host.directory.rename(host.base / "gone")
        lost = backed_up(service, code=78)
        assert "nothing to back up" in str(lost.reason)
        (host.base / "gone").rename(host.directory)
        host.configure({})
        service.signal(signal.SIGHUP)
        service.until(lambda status: status.refused == [])
        backed_up(service)
        assert (len(keys(first)), len(keys(second))) == (2, 2)


def test_however_often_it_is_asked_during_a_run_one_more_follows(host: Host) -> None:
    """Five triggers during a run are one run after it; 200 triggers within a second are at most two."""
    gate = Gate(host)
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        gate.wait()
        for _ in range(5):
            service.signal(signal.SIGUSR1)
            time.sleep(0.02)
        service.until(lambda status: status.asked)
        gate.open()
        service.until(lambda status: status.current is None and not status.asked and status.last is not None)
        assert [event["outcome"] for event in service.events("run.ended")] == ["complete", "complete"]
        gate.close()
        for _ in range(200):
            service.signal(signal.SIGUSR1)
            time.sleep(0.005)
        gate.wait(runs=3)
        gate.open()
        service.until(lambda status: status.current is None and not status.asked)
        assert len(service.events("run.ended")) == 4
        assert service.stop() == 0
    assert len((host.state / "history.jsonl").read_text().splitlines()) == 4


def test_signals_that_come_before_it_is_ready_wait(host: Host) -> None:
    """From the moment at which it holds them, its very first, none kills it, and a trigger is not lost."""
    for _ in range(3):
        with host.log.open("wb") as log:
            process = subprocess.Popen(command("daemon"), cwd=ROOT, stdout=log, stderr=log, env=host.environ())
        service = Running(host, process)
        try:
            until(lambda: signals_of(process.pid, "SigBlk").issuperset(SIGNALS), "it holds no signals")  # noqa: B023
            while service.status() is None:
                for number in SIGNALS:
                    process.send_signal(number)
                time.sleep(0.001)
            for event in ("daemon.described", "config.read", "run.ended"):
                until(lambda: service.events(event), service.said())  # noqa: B023
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGUSR1)
            process.terminate()
            for number in SIGNALS * 20:  # nor when it ends
                process.send_signal(number)
                time.sleep(0.002)
            assert process.wait(SOON) == 0


def test_a_run_is_not_disturbed_by_signals_from_its_first_moment(host: Host) -> None:
    """USR2 asks what it is doing, at any time; USR1 and HUP that hit the whole control group are not for it."""
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        while not service.events("run.ended"):
            service.signal(signal.SIGUSR2)
            for pid, line in belonging(host.base).items():
                # not to what the run has just forked, which bears its name until it is a picker
                found = look_up(pid)
                if b"cli.run_worker:main" in line and found and found.parent == service.process.pid:
                    for number in SIGNALS:
                        try:
                            os.kill(pid, number)
                        except ProcessLookupError:
                            break
            time.sleep(0.005)
        (ended,) = service.events("run.ended")
        assert ended["outcome"] == "complete", service.said()
        described = service.events("run.described")
        assert "starting" in described[0]["stage"]
        assert {event["run"] for event in described if "files" in event} <= {ended["run"], worked_under(ended["run"])}


def test_what_it_is_doing_is_logged_when_asked(host: Host) -> None:
    """SIGUSR2: the daemon's moment, and the run's stage, counts and programs."""
    gate = Gate(host)
    with daemon(host) as service:
        service.signal(signal.SIGUSR2)
        until(lambda: service.events("daemon.described"), "nothing was described")
        assert service.events("daemon.described")[0]["doing"].startswith("Waiting; no run yet")
        service.signal(signal.SIGUSR1)
        gate.wait()
        service.until(lambda status: status.current is not None and status.current.progress.files > 0)
        service.signal(signal.SIGUSR2)
        until(lambda: service.events("run.described"), "nothing was described")
        (said,) = service.events("run.described")
        assert (said["stage"], said["files"]) == ("backing up", 1)
        assert any("gate" in task for task in said["tasks"])
        assert service.events("daemon.described")[1]["run"] == said["run"]
        gate.open()


def test_only_one_daemon_and_one_run_at_a_time(host: Host) -> None:
    """A second daemon gives way with 75, `sysbackup run` and the daemon's run to each other likewise."""
    gate = Gate(host)
    with daemon(host) as service:
        second = host.call("daemon")
        assert second.returncode == 75
        assert "another daemon is running" in second.stderr
        assert str(host.runtime) in second.stderr
        service.signal(signal.SIGUSR1)
        gate.wait()
        busy = host.call("run")
        assert busy.returncode == 75, busy.stderr
        assert "another run is in progress" in busy.stderr
        gate.open()
        service.until(lambda status: status.last is not None and status.last.outcome == "complete")

        gate.close()
        with subprocess.Popen(command("run"), cwd=ROOT, env=host.environ(), stderr=subprocess.DEVNULL) as alone:
            try:
                gate.wait(runs=2)
                last = service.until(lambda status: status.current is None).last
                service.signal(signal.SIGUSR1)
                until(lambda: len(service.events("run.ended")) == 2, service.said())
                refused = service.events("run.ended")[1]
                assert (refused["outcome"], refused["status"]) == ("failed", 75)
                assert "another run is in progress" in refused["reason"]
                # no attempt at a backup: the other one's outcome is what counts
                assert service.until(lambda status: status.current is None).last == last
            finally:
                gate.open()
        assert alone.returncode == 0
        backed_up(service)


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two file systems of their own, of 256 KiB."""
    places = tmp_path / "one", tmp_path / "two"
    for place in places:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True)
    yield places
    for place in places:
        subprocess.run(["umount", place], check=True)


def test_backups_are_made_where_nothing_can_be_noted_down(host: Host, small_disks: tuple[Path, Path]) -> None:
    """Full state and runtime directories: told in the log, and the run is made; later all is well."""
    assert host.bucket is not None
    host.runtime, host.state = small_disks
    with daemon(host) as service:
        backed_up(service)
        with (host.state / "history.jsonl").open("a") as file:
            file.write(" " * (4096 - file.tell() % 4096 - 1) + "\n")  # the file's last block is full, too
        for place in small_disks:
            (place / "filler").write_bytes(bytes(4096 * os.statvfs(place).f_bavail))
        service.signal(signal.SIGUSR1)
        until(lambda: len(service.events("run.ended")) == 2, service.said())
        until(lambda: service.events("history.unwritable"), service.said())
        assert len(keys(host.bucket)) == 2
        assert len(service.events("status.unwritable")) == 1
        assert str(host.state) in service.events("history.unwritable")[0]["reason"]
        for place in small_disks:
            (place / "filler").unlink()
        backed_up(service)
        assert service.stop() == 0
    kept = [line for line in (host.state / "history.jsonl").read_text().splitlines() if line.strip()]
    assert [json.loads(line)["exit_code"] for line in kept] == [0, 0]


def test_ten_runs_leave_nothing_behind_in_the_daemon(host: Host) -> None:
    """No descriptor, thread or process more than after the first ones; and what is idle touches no file."""
    with daemon(host) as service:
        pid = service.process.pid
        for _ in range(3):
            backed_up(service)
        before = len(os.listdir(f"/proc/{pid}/fd"))
        for _ in range(7):
            backed_up(service)
        until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before, "descriptors are left")
        # one that watches for a second signal, and those of the loop's executor, of which there are as many as needed
        assert len(os.listdir(f"/proc/{pid}/task")) <= 2 + min(32, (os.cpu_count() or 1) + 4)
        assert belonging(host.base).keys() == {pid}
        until(lambda: not zombies(pid), "zombies are left")
        places = host.base / "cache", host.state
        files = [touched(place) for place in places]
        assert all(files)
        service.signal(signal.SIGUSR2)
        service.signal(signal.SIGHUP)
        time.sleep(1.5)
        assert [touched(place) for place in places] == files


def touched(place: Path) -> dict[str, tuple[int, int, int]]:
    """What lies in a directory, and when it was read and written."""
    found = {path: path.lstat() for path in (place, *sorted(place.iterdir()))}
    return {str(path): (status.st_size, status.st_mtime_ns, status.st_ctime_ns) for path, status in found.items()}


def test_each_line_of_a_run_names_it(host: Host) -> None:
    """What programs say, problems, threads' words: all with the run's name, its end with the whole of it."""
    host.program("pickers.d", "loud", "#!/bin/sh\necho said >&2\necho relative/path\necho /no/such/file\nexit 7\n")
    host.program("snapshots.d", "dump", "#!/bin/sh\necho data >&$1\necho said >&2\n")
    with daemon(host, SYSBACKUP_LOG_LEVEL="debug") as service:
        ends = [backed_up(service, code=3) for _ in range(2)]
        lines = [json.loads(line) for line in service.said().splitlines()]
    for ended in ends:
        working = worked_under(ended.run or "")
        start, stored, end = (
            next(n for n, line in enumerate(lines) if line["event"] == event and line["run"] == name)
            for event, name in (("run.started", working), ("run.finished", ended.run), ("run.ended", ended.run))
        )
        assert {line.get("run") for line in lines[start:stored]} == {working}
        assert {line.get("run") for line in lines[stored : end + 1]} <= {working, ended.run}
        assert {"program.said", "picker.failed", "file.vanished"} <= {line["event"] for line in lines[start:end]}
    assert ends[0].run != ends[1].run


def test_under_systemd_lines_have_priorities_and_no_secret_is_seen(host: Host, tmp_path: Path) -> None:
    """The daemon's lines and the run's go to the journal in its own form; credentials nowhere."""
    secrets = {"AWS_SECRET_ACCESS_KEY": "hidden-in-the-environment", "AWS_SESSION_TOKEN": "hidden-token"}
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = hidden-id\naws_secret_access_key = hidden-in-a-file\n"
    )
    gate = Gate(host, last="env >&2; echo /no/such/file; echo relative/path")
    host.configure({"aws": {"credentials_file": tmp_path / "credentials"}})
    host.log.touch()
    journal = host.log.stat()
    environ = {"JOURNAL_STREAM": f"{journal.st_dev}:{journal.st_ino}", "SYSBACKUP_LOG_LEVEL": "debug", **secrets}
    with daemon(host, **environ) as service:
        service.signal(signal.SIGUSR1)
        gate.wait()
        service.signal(signal.SIGUSR2)
        commands = list(belonging(host.base).values())
        shown = (host.runtime / "status.json").read_text()
        gate.open()
        service.until(lambda status: status.last is not None)
        shown += (host.runtime / "status.json").read_text() + (host.state / "history.jsonl").read_text()
        assert service.stop() == 0
    assert len(commands) >= 3  # the daemon, its run, the picker
    said = service.said()
    assert [line for line in said.splitlines() if not re.match(r"<[3467]>[a-z]+\.[a-z_]+", line)] == []
    assert "<6>file.vanished" in said
    assert "<4>path.refused" in said
    assert "<4>run.ended" in said
    for text in (said, shown, *map(os.fsdecode, commands)):
        assert "hidden" not in text
