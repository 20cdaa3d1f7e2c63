"""Calling a hook: a real program with an argument and something to read, on asyncio's own loop and on uvloop."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
import uvloop

from sysbackup.programs import calling
from sysbackup.programs.calling import call
from sysbackup.programs.discovery import Program
from tests.support.processes import children

uvloop.run(asyncio.sleep(0))  # libuv opens a pipe for its process once and for all: no leak of ours

Write = Callable[[str], Program]


@pytest.fixture(params=["asyncio", "uvloop"])
def answer(request: pytest.FixtureRequest) -> Callable[..., str | None]:
    """Calls a hook on each of the two loops, and fails where that takes more than 30 s."""
    runner = asyncio.run if request.param == "asyncio" else uvloop.run

    async def bounded(program: Program, argument: bytes, data: bytes, limit: float) -> str | None:
        async with asyncio.timeout(30):
            return await call(program, argument, data, limit)

    def called(program: Program, argument: bytes = b"failed", data: bytes = b"{}\n", limit: float = 20.0) -> str | None:
        return runner(bounded(program, argument, data, limit))

    return called


@pytest.fixture
def hook(tmp_path: Path) -> Write:
    """Writes an executable file and says which program it is."""

    def write(text: str) -> Program:
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return Program(b"hook", bytes(path))

    return write


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No call leaves a descriptor or a child."""
    descriptors, before = set(os.listdir("/proc/self/fd")), children()
    yield
    deadline = time.monotonic() + 20
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children() <= before
    assert set(os.listdir("/proc/self/fd")) == descriptors


def gone(pid: int) -> bool:
    """Whether a process has ended, or does so in a moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_it_has_the_argument_and_reads_all_that_it_is_told(
    answer: Callable[..., str | None], hook: Write, tmp_path: Path
) -> None:
    """More than a pipe holds arrives as it is; what it says on both its outputs reaches the log in order."""
    data = os.urandom(300_000)
    program = hook(f'cat >{tmp_path}/read\necho "event $1"\necho two >&2\necho three')
    with structlog.testing.capture_logs() as said:
        assert answer(program, b"succeeded", data) is None
    assert (tmp_path / "read").read_bytes() == data
    assert [(line["event"], line["program"], line["line"]) for line in said] == [
        ("program.said", "hook", "event succeeded"),
        ("program.said", "hook", "two"),
        ("program.said", "hook", "three"),
    ]


@pytest.mark.parametrize("script", ["exit 0", "exec <&-\nsleep 0.2", "head -c 10 >/dev/null", "exec 1>&- 2>&-"])
def test_it_need_not_read(answer: Callable[..., str | None], hook: Write, script: str) -> None:
    """One that ignores, closes or breaks off what it is told has ended well all the same."""
    assert answer(hook(script), data=bytes(1 << 20)) is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no such server >&2; exit 7", "ended with exit status 7; its last words: no such server"),
        ("kill -SEGV $$", "was killed by SIGSEGV"),
    ],
)
def test_it_says_why_it_failed(answer: Callable[..., str | None], hook: Write, script: str, why: str) -> None:
    """With its exit status or signal, and its last words."""
    assert answer(hook(script)) == why


@pytest.mark.parametrize("trap", ["", "trap '' TERM\n"], ids=["obedient", "ignores TERM"])
def test_one_that_hangs_is_ended_with_all_that_it_started(
    answer: Callable[..., str | None], hook: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    """TERM first, then KILL for its whole group."""
    monkeypatch.setattr(calling, "LEAVING_GRACE", 0.2)
    program = hook(f"{trap}sleep 600 & echo $! >{tmp_path}/pid\necho waiting\nwait; wait")
    assert answer(program, limit=1.0) == "had not ended after 1 s and was stopped; its last words: waiting"
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("command", ["sleep 600", "setsid sleep 600"])
def test_what_keeps_its_output_open_does_not_keep_us(
    answer: Callable[..., str | None], hook: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A hook that leaves something behind is told of, and that is ended."""
    monkeypatch.setattr(calling, "LINGER", 0.2)
    why = answer(hook(f"{command} & echo $! >{tmp_path}/pid; sleep 0.2"))
    assert why == "ended, but something that it had started kept its output open and was ended"
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_flood_of_words_is_bounded(answer: Callable[..., str | None], hook: Write) -> None:
    """The log gets the first and the last of them."""
    with structlog.testing.capture_logs() as said:
        assert answer(hook("yes no | head -n 200000")) is None
    assert 500 <= len(said) <= 600
    assert any(line["event"] == "program.muted" for line in said)


def test_one_that_cannot_be_started_is_a_sentence(answer: Callable[..., str | None], hook: Write) -> None:
    """It is writable by others, gone, or no program."""
    program = hook("exit 0")
    os.chmod(program.path, 0o777)
    assert answer(program) == "could not be started: it is writable by everybody (chmod go-w)"
    os.unlink(program.path)
    assert answer(program) == "could not be started: it does not exist any more"
    Path(os.fsdecode(program.path)).write_text("echo hello\n")
    os.chmod(program.path, 0o755)
    assert (answer(program) or "").startswith("could not be started: the kernel does not know this kind of file")


def test_credentials_are_withheld_but_for_those_meant_for_programs(
    answer: Callable[..., str | None], hook: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ping's URL may lie in systemd's CREDENTIALS_DIRECTORY; S3's keys are nothing for hooks."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/sysbackup.service")
    assert answer(hook(f"env >{tmp_path}/env; pwd >>{tmp_path}/env")) is None
    seen = (tmp_path / "env").read_text()
    assert "CREDENTIALS_DIRECTORY=/run/credentials/sysbackup.service\n" in seen
    assert "hunter2" not in seen
    assert "NOTIFY_SOCKET" not in seen
    assert seen.endswith("\n/\n")


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_cancelled_call_leaves_nothing(runner: Callable[..., None], hook: Write, tmp_path: Path) -> None:
    """Neither the hook, though it ignores TERM, nor what it started; nobody waits for it."""
    program = hook(f"trap '' TERM\nsleep 600 & echo $! $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids\nwait")

    async def cut_off() -> None:
        async with asyncio.timeout(30):
            calling = asyncio.create_task(call(program, b"started", bytes(1 << 20), 600.0))
            while not (tmp_path / "pids").exists():
                await asyncio.sleep(0.01)
            calling.cancel()
            with suppress(asyncio.CancelledError):
                await calling

    runner(cut_off())
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())
