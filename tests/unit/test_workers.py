"""Processes of our own for one long work, and what is done about those that nobody cares for any more."""

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sysbackup.programs import children, starting, workers
from sysbackup.programs.workers import Worker, start_worker
from tests.support.processes import children as of_ours

uvloop.run(asyncio.sleep(0))  # libuv opens a pipe for its process once and for all: no leak of ours

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a descriptor, a child, or its number."""
    before, children_before = set(os.listdir("/proc/self/fd")), of_ours()
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while children.known and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children.known == set()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert of_ours() <= children_before


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module whose `main` a worker shall call; its name for `start_worker`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str) -> str:
        (tmp_path / "errand.py").write_text(
            "import os, signal, subprocess, sys, time\n\ndef main():\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
        return "errand:main"

    return write


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await coroutine

    return uvloop.run(bounded())


async def all_of(worker: Worker) -> tuple[list[bytes], int]:
    """What it says, and how it ends."""
    try:
        async with aclosing(worker.lines()) as lines:
            said = [line async for line in lines]
        return said, await worker.status()
    finally:
        worker.release()


async def told(name: str, order: bytes = b"order\n") -> tuple[list[bytes], int]:
    return await all_of(await start_worker(name, order))


def test_it_gets_its_order_and_answers_in_lines(work: Any) -> None:
    """An answer without a newline at its end is none; the exit status is known."""
    name = work("print(sys.stdin.readline().upper(), 'second', sep='', flush=True); print('cut', end='')\nsys.exit(7)")
    assert run(told(name)) == ([b"ORDER", b"second"], 7)


def test_an_order_may_be_large(work: Any) -> None:
    """Larger than a pipe, and read late."""
    name = work("time.sleep(0.3); print(len(sys.stdin.readline()))")
    assert run(told(name, b"x" * 1_000_000 + b"\n")) == ([b"1000001"], 0)


def test_one_that_does_not_listen_is_no_error(work: Any) -> None:
    """It may have died meanwhile: how, is what `status` says."""
    name = work("os.close(0); os.kill(os.getpid(), signal.SIGSEGV)")
    assert run(told(name, b"x" * 1_000_000 + b"\n")) == ([], -signal.SIGSEGV)


def test_it_has_our_environment_but_not_the_service_manager_s_ear(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials are for it, and where its log goes; READY=1 is not its to say. Its session is its own."""
    for variable in ("AWS_SECRET_ACCESS_KEY", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
        monkeypatch.setenv(variable, "x")
    name = work(
        """
        seen = [name for name in sorted(os.environ) if os.environ[name] == "x"]
        print(*seen, os.getcwd(), os.getsid(0) == os.getpid(), *sorted(os.listdir("/proc/self/fd"))[:3])
        """
    )
    (said,), status = run(told(name))
    assert (said, status) == (b"AWS_SECRET_ACCESS_KEY JOURNAL_STREAM / True 0 1 2", 0)


def test_signals_wait_until_it_lets_them_through(work: Any) -> None:
    """Those that would kill it before it can obey them; programs that it starts have them as everybody has."""
    name = work(
        """
        time.sleep(0.5)
        got = []
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, lambda *which: got.append(which[0]))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP))
        time.sleep(0.01)
        print(*sorted(got), flush=True)
        """
    )

    async def hit() -> tuple[list[bytes], int]:
        worker = await start_worker(name, b"\n")
        for number in workers.HELD:
            worker.signal(number)
        return await all_of(worker)

    assert run(hit()) == ([b"%d %d %d" % tuple(sorted(workers.HELD))], 0)


def test_a_signal_is_for_the_process_alone_but_kill_for_all_of_it(work: Any) -> None:
    """A program that a library has started for it (credentials) must not die of USR2 or TERM."""
    name = work(
        """
        signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR2,))
        helper = subprocess.Popen(["sleep", "600"])
        print(helper.pid, flush=True)
        time.sleep(600)
        """
    )

    async def hit() -> int:
        worker = await start_worker(name, b"\n")
        try:
            async with aclosing(worker.lines()) as lines:
                helper = int(await anext(lines))
                worker.signal(signal.SIGTERM)
                assert await anext(lines) == b"told"
                os.kill(helper, 0)
                worker.signal(signal.SIGKILL)
                assert await worker.status() == -signal.SIGKILL
        finally:
            worker.release()
        return helper

    helper = run(hit())
    deadline = time.monotonic() + 30
    while alive(helper):
        assert time.monotonic() < deadline


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_never_ends_its_line_is_killed(work: Any) -> None:
    """What it says must not fill our memory."""
    name = work("while True: os.write(1, b'x' * 65536)")
    assert run(told(name)) == ([], -signal.SIGKILL)


def test_what_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OSError, and no descriptor is left of the attempt; nor where there is none for the second pipe."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        run(start_worker("errand:main", b"\n"))
    pipes = iter([os.pipe(), None])

    def few(*, large: bool = False) -> tuple[int, int]:
        if (found := next(pipes)) is None:
            raise OSError(24, "Too many open files")
        return found

    monkeypatch.setattr(workers, "open_pipe", few)
    with pytest.raises(OSError, match="Too many"):
        run(start_worker("errand:main", b"\n"))


def test_a_cancelled_start_leaves_nothing(work: Any) -> None:
    """Whenever it is cancelled: the fixture looks for what is left."""
    name = work("sys.stdin.readline(); time.sleep(600)")

    async def cancel(after: float) -> None:
        task = asyncio.ensure_future(start_worker(name, b"x" * 200_000 + b"\n"))
        await asyncio.sleep(after)
        task.cancel()
        try:
            (await task).release()
        except asyncio.CancelledError:
            return

    for after in (0, 0.001, 0.005, 0.05):
        run(cancel(after))


# ---- orphans: each in a process that adopts


def adopting(body: str, *arguments: str) -> str:
    """What a process that has adopted prints."""
    code = "import asyncio, os, shlex, subprocess, sys, time\n"
    code += "from sysbackup.programs import adopting, children, starting\n"
    code += textwrap.dedent(
        """
        def count():
            found = 0
            for name in os.listdir("/proc"):
                if name.isdigit():
                    try:
                        state, parent = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[:2]
                    except OSError:
                        continue
                    found += int(parent) == os.getpid() and state not in "ZX"
            return found

        def until(met):
            deadline = time.monotonic() + 60
            while not met():
                assert time.monotonic() < deadline
                time.sleep(0.01)

        def orphan(script):
            script = shlex.quote(f"echo; exec >/dev/null; {script}")
            with subprocess.Popen(["sh", "-c", f"setsid sh -c {script} &"], stdout=subprocess.PIPE) as process:
                process.stdout.readline()

        adopting.adopt()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code + textwrap.dedent(body), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_orphans_and_theirs_are_ended_generation_by_generation() -> None:
    """What one that is killed had started in a session of its own comes to us only then: that is ended, too."""
    said = adopting(
        """
        since = adopting.moment()
        script = "echo >/dev/stderr; sleep 600"
        for _ in range(3):
            script = f"setsid sh -c {shlex.quote(script)} & sleep 600"
        heard, said = os.pipe()
        os.dup2(said, 2)
        orphan(script)
        os.read(heard, 1)  # the last of four has begun
        assert count() == 1
        print(adopting.end_adopted(since) >= 4, count(), len(adopting.known))
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("none")
        """
    )
    assert said.split() == ["True", "0", "0", "none"]


def test_one_whose_first_thread_has_ended_has_not() -> None:
    """The kernel calls it a zombie; its children come to us only when its last thread is gone."""
    said = adopting(
        """
        program = "import ctypes, sys, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
        program += "print('begun', file=sys.stderr, flush=True); ctypes.CDLL(None).pthread_exit(None)"
        heard, said = os.pipe()
        os.dup2(said, 2)
        orphan(f"exec {sys.executable} -c {shlex.quote(program)}")
        os.read(heard, 1)
        until(lambda: count() == 0)
        print(adopting.end_adopted(0))
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("none")
        """
    )
    assert said.split() == ["1", "none"]


def test_what_was_there_before_lives_on() -> None:
    """Only what was born since is ended; what has ended is reaped, whenever it was born."""
    said = adopting(
        """
        orphan("sleep 600")
        orphan("exit 0")
        until(lambda: count() == 1)
        time.sleep(0.1)
        since = adopting.moment()
        orphan("sleep 600")
        until(lambda: count() == 2)
        print(adopting.end_adopted(since), count())
        adopting.end_adopted(0)
        print(count())
        """
    )
    assert said.split() == ["1", "1", "0"]


def test_what_we_have_started_ourselves_and_theirs_lives_on() -> None:
    """A hook that runs, what it has put into the background, and a program that a library waits for."""
    said = adopting(
        """
        async def look():
            null = os.open("/dev/null", os.O_RDWR)
            hook = await starting.start([b"/bin/sh", b"-c", b"(sleep 600 &); exec sleep 600"], (null, null, null))
            library = subprocess.Popen(["sleep", "600"])
            until(lambda: count() == 3)
            orphan("sleep 600")
            until(lambda: count() == 4)
            print(adopting.end_adopted(0), count())
            adopting.end_children()
            print(count())
            hook.release()
            library.wait()

        asyncio.run(look())
        """
    )
    assert said.split() == ["1", "3", "0"]


def test_a_start_that_hangs_is_neither_waited_for_nor_killed(tmp_path: Path) -> None:
    """Orphans are ended meanwhile, other programs are started, and when the file system answers so is this one."""
    interpreter = tmp_path / "interpreter"
    shutil.copy("/bin/sh", interpreter)
    slow = tmp_path / "slow"
    slow.write_text(f"#!{interpreter}\nexit 7\n")
    slow.chmod(0o755)
    said = adopting(
        """
        import fcntl, signal, sys

        async def look():
            waiting = []
            signal.signal(signal.SIGIO, lambda *_: waiting.append(1))
            lease = os.open(sys.argv[1], os.O_RDONLY)  # whoever executes it waits for us (fcntl(2))
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            null = os.open("/dev/null", os.O_RDWR)
            slow = asyncio.ensure_future(starting.start([os.fsencode(sys.argv[2])], (null, null, null)))
            while not waiting:
                await asyncio.sleep(0.01)
            other = await starting.start([b"/bin/sleep", b"600"], (null, null, null))
            orphan("sleep 600")
            until(lambda: count() == 3)
            print(adopting.end_adopted(0), count(), slow.done())
            os.close(lease)
            child = await slow
            await child.gone
            print(child.status)
            child.release()
            other.release()

        asyncio.run(look())
        """,
        str(interpreter),
        str(slow),
    )
    assert said.split() == ["1", "2", "False", "7"]


def test_what_may_be_a_child_that_is_being_started_is_let_alone() -> None:
    """Until it is known, or all that are being started are seen to be others."""
    said = adopting(
        """
        orphan("sleep 600")
        until(lambda: count() == 1)
        time.sleep(0.1)
        children.starts["one"] = adopting.moment()
        orphan("sleep 600")
        until(lambda: count() == 2)
        print(adopting.end_adopted(0), count())
        del children.starts["one"]
        print(adopting.end_adopted(0), count())
        """
    )
    assert said.split() == ["1", "1", "1", "0"]


def test_the_last_act_does_not_wait_for_who_hangs() -> None:
    """Where somebody starts a process at that moment, and that hangs, all the others are ended all the same."""
    said = adopting(
        """
        orphan("sleep 600")
        until(lambda: count() == 1)
        children.spawning.acquire()
        began = time.monotonic()
        adopting.end_children()
        print(count(), time.monotonic() - began < 5)
        """
    )
    assert said.split() == ["0", "True"]


def test_a_storm_of_short_lived_orphans_leaves_no_zombie() -> None:
    """Hundreds at once: all of them are reaped, and no child that somebody waits for."""
    said = adopting(
        """
        waited = subprocess.Popen(["true"])
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 200 ]; do setsid true & i=$((i+1)); done"], check=True)
        def left():
            adopting.reap_adopted()
            return [n for n in os.listdir("/proc") if n.isdigit() and int(n) != waited.pid and of_ours(n)]
        def of_ours(name):
            try:
                return int(open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[1]) == os.getpid()
            except OSError:
                return False
        until(lambda: not left())
        print(waited.wait())
        """
    )
    assert said == "0"


def test_signals_are_held_for_one_child_alone(tmp_path: Path) -> None:
    """The thread that has started a process with signals held does not keep them, nor hands them to the next one."""

    async def masks() -> list[str]:
        found = []
        for held in ((signal.SIGUSR1,), ()):
            out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            child = await starting.start([b"/bin/grep", b"SigBlk", b"/proc/self/status"], (out, out, out), held=held)
            await child.gone
            child.release()
            os.close(out)
            found.append((tmp_path / "out").read_text().split()[1])
        return found

    assert [int(mask, 16) for mask in run(masks())] == [1 << (signal.SIGUSR1 - 1), 0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
