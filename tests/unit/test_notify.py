"""What is said to a service manager, and what happens where none listens."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sysbackup.service.notify import Notify
from tests.support import notified


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[notified.Ear]:
    with notified.listening(tmp_path / "notify") as found:
        yield found


def speaker(address: str | Path, **more: str) -> "closing[Notify]":
    return closing(Notify({"NOTIFY_SOCKET": str(address), **more}))


def test_states_in_systemd_s_words(ear: notified.Ear) -> None:
    """sd_notify(3); a reload says when it began, in the same message."""
    with speaker(ear.address) as notify:
        notify.ready()
        notify.reloading()
        notify.stopping()
        heard = ear.until(lambda said: len(said) == 3)
    assert [list(said.fields) for said in heard] == [["READY"], ["RELOADING", "MONOTONIC_USEC"], ["STOPPING"]]
    assert abs(int(heard[1].fields["MONOTONIC_USEC"]) / 1e6 - heard[1].at) < 60


def test_a_status_is_one_line_said_once(ear: notified.Ear) -> None:
    """A newline would begin another field; what does not change is not repeated."""
    with speaker(ear.address) as notify:
        for text in ("reading\n/a\tb", "reading /a b", "reading\n/a\tb", "at \udcff"):
            notify.status(text)
        notify.ready()
        heard = ear.until(lambda heard: any("READY" in said.fields for said in heard))
    assert [said.fields.get("STATUS") for said in heard[:-1]] == ["reading /a b"] * 3 + ["at \\udcff"]


@pytest.mark.parametrize("address", ["", "/no/such/socket", "@no-such-socket", "vsock:2:9", "x" * 200])
def test_where_nobody_listens_nothing_is_said_and_nothing_fails(address: str) -> None:
    """A backup matters more than who watches it."""
    with speaker(address) as notify:
        for say in (notify.ready, notify.reloading, notify.stopping, notify.alive):
            say()
        notify.status("x")
    notify.ready()


def test_an_abstract_address() -> None:
    """Written with @ for the zero byte."""
    address = f"@sysbackup-unit-{os.getpid()}"
    with notified.listening(address) as ear, speaker(address) as notify:
        notify.ready()
        assert ear.hear("READY", "1").pid == os.getpid()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "nobody"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "³"}, None),
    ],
)
def test_the_watchdog_is_ours_where_it_says_so(environ: dict[str, str], seconds: float | None) -> None:
    """sd_watchdog_enabled(3)."""
    assert Notify(environ).watchdog == seconds


def test_a_full_queue_costs_a_status_but_no_state(tmp_path: Path) -> None:
    """A manager that is busy hears that the service is ready once it listens; a status waits for the next occasion."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy, speaker(address) as notify:
        busy.bind(str(address))
        filled = _fill(address)
        notify.status("lost")
        ready = threading.Thread(target=notify.ready)
        ready.start()
        time.sleep(0.2)
        heard = [busy.recv(65536) for _ in range(filled)]
        ready.join()
        notify.status("lost")
        heard += [busy.recv(65536), busy.recv(65536)]
    assert heard[filled:] == [b"READY=1", b"STATUS=lost"]


def _fill(address: Path) -> int:
    """Fill a socket's queue; with how many messages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        for number in range(100_000):
            try:
                other.sendto(b"x", str(address))
            except BlockingIOError:
                return number
    raise AssertionError("the queue has no end")
