"""SIGINT and SIGTERM at generated moments of a run and of the daemon: a documented end, and never a traceback."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import uvloop

from tests.support.daemons import ROOT, SOON, Host, command
from tests.support.servers import Server

pytestmark = pytest.mark.lengthy

MOMENTS = [round(2.5 * n / 12 + random.Random(n).uniform(0, 0.2), 3) for n in range(12)]


@pytest.fixture
def host(tmp_path: Path, moto: Server) -> Host:
    """A machine with little to back up."""
    host = Host(tmp_path / "machine", uvloop.run(moto.bucket()))
    host.program("pickers.d", "etc", "#!/bin/sh\nexec find /etc/default -type f\n")
    return host


def signalled(host: Host, what: str, numbers: list[signal.Signals], moment: float) -> tuple[int, str]:
    """Signal the command so long after it has begun to listen; its status, and what it said."""
    with (host.base / "said").open("w+b") as said:
        process = subprocess.Popen(
            command(what), stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=ROOT, env=host.environ()
        )
        listening = time.monotonic() + SOON
        while process.poll() is None and not catches(process.pid) and time.monotonic() < listening:
            time.sleep(0.002)
        time.sleep(moment)
        for number in numbers:
            process.send_signal(number)
        if what == "daemon" and signal.SIGUSR1 in numbers:
            time.sleep(moment)
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(SOON), (host.base / "said").read_text()
        finally:
            process.kill()


def catches(process: int) -> bool:
    """Whether it has a handler for SIGTERM (proc(5): status)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run(host: Host, number: signal.Signals) -> None:
    """It is complete, or it was stopped."""
    ends = set()
    for moment in MOMENTS:
        status, said = signalled(host, "run", [number], moment)
        assert status in (0, 128 + number), (moment, said)
        assert "Traceback" not in said, (moment, said)
        assert "this is a bug" not in said, (moment, said)
        ends.add(status)
    assert 128 + number in ends


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGUSR1]])
def test_the_daemon(host: Host, numbers: list[signal.Signals]) -> None:
    """It ends well, with a run or without one; stopped before it was one, it says so by its status."""
    for moment in MOMENTS[::2]:
        status, said = signalled(host, "daemon", numbers, moment)
        assert status in (0, 143), (moment, said)
        assert "Traceback" not in said, (moment, said)
        assert "this is a bug" not in said, (moment, said)
