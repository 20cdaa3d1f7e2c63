"""The daemon where something does not answer: a file system, a program's start, a thread; and what it leaves alone."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from tests.support.daemons import ROOT, SOON, Host, Running, daemon
from tests.support.processes import belonging
from tests.support.servers import Server

PROMISED = 10.0
"""Seconds within which a stop must have ended everything."""


@pytest.fixture
def host(tmp_path: Path, moto: Server) -> Iterator[Host]:
    """At the end no process that has to do with it lives."""
    found = Host(tmp_path / "machine", uvloop.run(moto.bucket()))
    found.program("pickers.d", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    yield found
    left = belonging(found.base)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == {}


def until(met: Callable[[], object], what: str) -> None:
    """Wait for something outside the daemon."""
    deadline = time.monotonic() + SOON
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def unanswered(path: Path) -> Iterator[list[int]]:
    """
    Whoever opens or executes this file hangs, as if its file system did not answer; not empty once somebody does.

    It has a lease (fcntl(2)): the kernel lets them wait for us, for /proc/sys/fs/lease-break-time (45 s) at most.
    """
    waiting: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: waiting.append(number))
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield waiting
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def run_twice(service: Running) -> None:
    for _ in range(2):
        before = service.until(lambda status: status.current is None).last
        service.signal(signal.SIGUSR1)
        ended = service.until(lambda status, before=before: status.last != before and status.current is None).last  # type: ignore[misc]  # a lambda's default
        assert ended is not None
        assert ended.outcome == "complete", service.said()


def test_a_stop_does_not_wait_for_a_thread_that_hangs(host: Host, tmp_path: Path) -> None:
    """It ends in time and well, with everything given back that others could see."""
    host.configure({"metrics": {"textfile": str(tmp_path / "sysbackup.prom")}})
    with daemon(host) as service:
        until((tmp_path / "sysbackup.prom").exists, "the daemon has not written its textfile")
        host.state.mkdir(exist_ok=True)
        (host.state / "history.jsonl").write_text("changed by somebody else\n")
        with unanswered(host.state / "history.jsonl") as waiting:
            service.signal(signal.SIGHUP)
            until(lambda: waiting, service.said())
            began = time.monotonic()
            service.signal(signal.SIGTERM)
            assert service.process.wait(SOON) == 0, service.said()
            assert time.monotonic() - began < PROMISED
        assert "threads hang" in service.said()
        assert not (host.runtime / "status.json").exists()


def test_a_hook_whose_start_hangs_keeps_nobody_from_running(host: Host) -> None:
    """Its start falls under its limit; the runs go on, and what comes to life of it later is killed."""
    interpreter = host.base / "interpreter"
    shutil.copy("/bin/sh", interpreter)
    host.program("hooks.d", "hung", f"#!{interpreter}\nsleep 600\n")
    host.configure({"daemon": {"hook_limit": "1 s"}})
    with daemon(host) as service:
        with unanswered(interpreter):
            run_twice(service)
            until(lambda: len(service.events("hook.failed")) == 4, service.said())
            reasons = {event["reason"] for event in service.events("hook.failed")}
            assert reasons == {"could not be started within 1 s: does a file system not answer it?"}
        until(lambda: set(belonging(host.base)) == {service.process.pid}, "what was started late lives on")
        assert service.stop() == 0


def worker_of(host: Host, service: Running) -> int:
    """The process that makes the run. One that it is just starting has its memory, and so its command line."""
    found: list[int] = []

    def alone() -> bool:
        found[:] = [pid for pid, line in belonging(host.base).items() if b"cli.run_worker:main" in line]
        return len(found) == 1

    until(alone, service.said())
    return found[0]


def test_what_a_hook_leaves_behind_outlives_a_run_that_is_killed(host: Host, tmp_path: Path) -> None:
    """What the run itself leaves behind does not."""
    left = tmp_path / "left"
    host.program(
        "hooks.d",
        "left",
        f"#!/bin/sh\n[ $1 = started ] || exit 0\nsetsid sleep 600 >/dev/null 2>&1 &\necho $! >'{left}'\n",
    )
    begun = tmp_path / "begun"
    host.program("pickers.d", "hung", f"#!/bin/sh\nsetsid sleep 600 &\necho $! >'{begun}'\nwait\n")
    with daemon(host) as service:
        service.signal(signal.SIGUSR1)
        for path in (left, begun):
            until(lambda path=path: path.exists() and path.read_text().strip(), service.said())  # type: ignore[misc]  # a lambda's default
        work = worker_of(host, service)
        of_hook, of_picker = (int(path.read_text()) for path in (left, begun))
        os.kill(work, signal.SIGKILL)
        service.until(lambda status: status.last is not None and status.current is None)
        until(lambda: of_picker not in belonging(host.base), service.said())
        assert service.stop() == 0
        until(lambda: set(belonging(host.base)) <= {of_hook}, "the run has left something behind")
        assert set(belonging(host.base)) == {of_hook}
        os.kill(of_hook, signal.SIGKILL)
        until(lambda: not belonging(host.base), "it lives on")


LATE = """
import os, signal, sys, threading, time
from contextlib import asynccontextmanager
from pathlib import Path
from sysbackup.api import saver
from sysbackup.cli import run_worker
from sysbackup.config.loading import load_config
from sysbackup.concurrency.system_clock import SystemClock

finished = threading.Event()

def told_late():
    finished.wait()
    time.sleep(0.3)  # the loop has ended, and waits for this very thread
    for number in (signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), number)
        time.sleep(0.1)

@asynccontextmanager
async def open_store(config):
    import asyncio
    asyncio.get_running_loop().run_in_executor(None, told_late)
    finished.set()
    raise OSError("the real reason")
    yield

saver.open_store = open_store
ended = run_worker._ended(load_config(Path(sys.argv[1]), os.environ), run_worker._Voice(None), SystemClock())
print(ended.outcome, ended.reason, file=sys.stderr)
"""


def test_a_failed_run_that_is_told_to_stop_too_late_says_why_it_failed(host: Host) -> None:
    """Its threads are still waited for when TERM comes: it must not die of it unheard."""
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(host.directory)],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
        cwd=ROOT,
        env=host.environ(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("failed"), done.stderr
    assert "the real reason" in done.stderr.splitlines()[-1]
