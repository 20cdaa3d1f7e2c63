"""Running the administrator's programs: real ones, on asyncio's own loop and on uvloop."""

import asyncio
import gc
import os
import re
import resource
import shlex
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop
from structlog.testing import capture_logs

from sysbackup.errors import ProgramError
from sysbackup.programs import running as running_module
from sysbackup.programs.discovery import Program
from sysbackup.programs.piping import pipe_into
from sysbackup.programs.running import running
from sysbackup.service import status_file as statuses
from tests.support.processes import children

uvloop.run(asyncio.sleep(0))  # libuv opens a pipe for its process once and for all: no leak of ours
type_of_run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> type_of_run:
    """Runs a coroutine to its end, on each of the two loops; it must take less than 30 s."""
    runner = asyncio.run if request.param == "asyncio" else uvloop.run

    async def bounded(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(30):
            return await coroutine

    return lambda coroutine: runner(bounded(coroutine))


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    """No test leaves a descriptor, a child or a thread."""
    before, children_before = descriptors(), children()
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while (waiting := [t for t in threading.enumerate() if t.name.startswith(("reap-", "wait-"))]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert waiting == []
    assert descriptors() <= before  # what other tests left as garbage may go meanwhile
    assert children() <= children_before


def descriptors() -> set[str]:
    numbers = os.listdir("/proc/self/fd")  # with the one that lists it, closed again by now
    return {f"{n} {os.readlink(f'/proc/self/fd/{n}')}" for n in numbers if os.path.lexists(f"/proc/self/fd/{n}")}


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Program]:
    """Writes an executable file and says which program it is."""

    def write(text: str, interpreter: str = "#!/bin/sh", name: str = "program") -> Program:
        path = tmp_path / name
        path.write_text(f"{interpreter}\n{text}\n" if interpreter else text)
        path.chmod(0o755)
        return Program(name.encode(), bytes(path))

    return write


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def whole(program: Program, idle_limit: float = 20.0) -> tuple[bytes, str | None]:
    """All output of a picker, and its result."""
    async with running(program, idle_limit=idle_limit) as this:
        return await collect(this.output()), await this.result()


async def snapshot(program: Program, idle_limit: float = 20.0) -> tuple[bytes, bytes, str | None]:
    """All data and output of a snapshotter, and its result."""
    async with running(program, idle_limit=idle_limit, with_data=True) as this:
        async with asyncio.TaskGroup() as group:
            output = group.create_task(collect(this.output()))
            data = group.create_task(collect(this.data()))
        return data.result(), output.result(), await this.result()


def commands() -> Iterator[str]:
    """The command line of everything that runs."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            yield Path(f"/proc/{entry}/cmdline").read_text(errors="replace")


def ended(group: int) -> bool:
    """Whether no process of that group runs; one that was killed this moment may take another to be gone."""
    deadline = time.monotonic() + 1
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not alive(group)


def died(process: int) -> bool:
    """Whether a process is gone, or nobody but its parent knows of it; looked at for a second."""
    deadline = time.monotonic() + 1
    while statuses.born(process) is not None and time.monotonic() < deadline:
        time.sleep(0.005)
    return statuses.born(process) is None


def alive(group: int) -> bool:
    """Whether a process of that group runs (a zombie does not)."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_a_program_has_a_session_of_its_own_in_the_root_directory_and_an_empty_input(
    run: type_of_run, script: Callable[..., Program]
) -> None:
    """Rule 9: own session, cwd `/`, nothing on standard input."""
    program = script('read -r line; echo "read $?"; pwd; echo $$; ps -o sid= -p $$')
    output, result = run(whole(program))
    said, cwd, pid, sid = output.split()[1:]
    assert (said, cwd) == (b"1", b"/")
    assert pid == sid
    assert result is None


def test_a_program_gets_no_credentials_and_no_channel_of_systemd(
    run: type_of_run, script: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys that write the backup, and the socket to systemd, are ours alone; PATH and HOME are not."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    output, _ = run(whole(script("env")))
    assert b"ours" not in output
    assert b"HOME=/home/somebody\n" in output
    assert b"CREDENTIALS_DIRECTORY=/run/credentials/x\n" in output
    assert b"PATH=" in output


@pytest.mark.parametrize("way", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_program_may_open_its_output_by_name(run: type_of_run, script: Callable[..., Program], way: str) -> None:
    """`tee /dev/stdout` and the like work: the output is a pipe, not a socket."""
    assert run(whole(script(f"echo by name > {way}"))) == (b"by name\n", None)


@pytest.mark.parametrize("interpreter", ["#!/bin/sh", "#!/bin/bash"])
def test_a_snapshotter_writes_to_the_descriptor_it_is_given(
    run: type_of_run, script: Callable[..., Program], interpreter: str
) -> None:
    """The idiom of the manual works in bash, and in a plain shell that takes one digit only (dash)."""
    program = script("echo described\necho content >&${1:-1}\necho more > /dev/fd/$1", interpreter)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    try:
        assert run(snapshot(program)) == (b"content\nmore\n", b"described\n", None)
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_a_program_inherits_its_own_pipes_and_nothing_else(run: type_of_run, script: Callable[..., Program]) -> None:
    """Of 30 programs started at once, none holds another's pipe: each would keep it from ending."""
    program = script("echo $1; ls /proc/$$/fd > /dev/fd/$1; sleep 0.$(($$ % 3))", "#!/bin/bash")

    async def many() -> list[tuple[bytes, bytes, str | None]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(snapshot(program)) for _ in range(30)]
        return [task.result() for task in tasks]

    for data, output, result in run(many()):
        assert result is None
        # bash keeps the script itself open as 255
        assert set(data.split()) - {b"255"} == {b"0", b"1", b"2", output.strip()}


@pytest.mark.parametrize("megabytes", [2])
def test_two_megabytes_of_errors_block_nothing(
    run: type_of_run, script: Callable[..., Program], megabytes: int
) -> None:
    """Standard error is always read, in lines or without one, and the log gets a bounded part of it."""
    program = script(
        f"yes complaint | head -c {megabytes}000000 >&2; head -c {megabytes}000000 /dev/zero >&2; echo done; "
        "echo >&2; echo the end >&2; exit 4"
    )
    with structlog.testing.capture_logs() as events:
        output, result = run(whole(program))
    assert output == b"done\n"
    assert result == "ended with exit status 4; its last words: the end"
    lines = [event["line"] for event in events if event["event"] == "program.said"]
    assert 20 < len(lines) < 600
    assert all(len(line) < 5000 for line in lines)
    assert lines[-1] == "the end"
    assert [event for event in events if event["event"] == "program.muted" and event["lines_left_out"] > 10_000]


def test_errors_reach_the_log_with_the_programs_name(run: type_of_run, script: Callable[..., Program]) -> None:
    """A line on standard error is an event, control characters escaped, a last line without newline too."""
    with structlog.testing.capture_logs() as events:
        assert run(whole(script(r"printf 'one\n\n\033[2Jtwo' >&2"))) == (b"", None)
    assert [(event["event"], event["program"], event["line"]) for event in events] == [
        ("program.said", "program", "one"),
        ("program.said", "program", "\\x1b[2Jtwo"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exit 3", "ended with exit status 3"),
        ("echo no such database >&2; exit 1", "ended with exit status 1; its last words: no such database"),
        ("kill -SEGV $$", "was killed by SIGSEGV"),
        ("kill -KILL $$", "was killed by SIGKILL (for want of memory? see the kernel's log)"),
    ],
)
def test_a_program_that_fails_is_a_sentence(
    run: type_of_run, script: Callable[..., Program], text: str, expected: str
) -> None:
    """Exit statuses and signals are named, with what the program said last; its output is still there."""
    output, result = run(whole(script(f"ulimit -c 0; echo before; {text}")))
    assert output == b"before\n"
    assert result == expected


@pytest.mark.parametrize(
    ("text", "interpreter", "expected"),
    [
        ("echo hello", "", "is the #! line missing"),
        ("", "#!/no/such/interpreter", "its first line names /no/such/interpreter, which does not exist"),
        (
            "",
            "#!/bin/sh\r",
            "its first line names /bin/sh\\r, which does not exist (its lines end as on Windows",
        ),
        ("", "#!/etc/passwd", "its first line names /etc/passwd, which is not executable"),
        ("", "\x7fELF\0", "Exec format error"),
    ],
)
def test_a_program_that_cannot_be_started_is_a_sentence(
    run: type_of_run, script: Callable[..., Program], text: str, interpreter: str, expected: str
) -> None:
    """No exception reaches the run; the sentence says what to look at."""
    output, result = run(whole(script(text, interpreter)))
    assert output == b""
    assert result.startswith("could not be started: ")
    assert expected in result


def test_a_program_made_unsafe_since_it_was_found_is_not_run(run: type_of_run, script: Callable[..., Program]) -> None:
    """Permissions are looked at again when it is started."""
    program = script("echo never")
    os.chmod(program.path, 0o777)
    assert run(whole(program)) == (
        b"",
        "could not be started: it is writable by everybody (chmod go-w)",
    )
    os.unlink(program.path)
    assert run(whole(program)) == (b"", "could not be started: it does not exist any more")


def test_a_silent_program_is_ended_with_all_it_started(run: type_of_run, script: Callable[..., Program]) -> None:
    """TERM goes to the group: a pipeline's members end too."""
    program = script("echo $$; sleep 1000 | sleep 1000")
    output, result = run(whole(program, idle_limit=0.3))
    assert result == "wrote nothing for 0.3 s and was stopped"
    assert ended(int(output))


def test_a_silent_program_that_ignores_term_is_killed(
    run: type_of_run, script: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace comes KILL."""
    monkeypatch.setattr(running_module, "GRACE", 0.3)
    program = script("trap '' TERM; echo $$; while :; do sleep 0.05; done")
    output, result = run(whole(program, idle_limit=0.3))
    assert result == "wrote nothing for 0.3 s and was stopped"
    assert ended(int(output))


def test_a_program_that_writes_anything_now_and_then_is_not_silent(
    run: type_of_run, script: Callable[..., Program]
) -> None:
    """Standard error counts, and so does the data descriptor."""
    program = script("for i in 1 2 3; do sleep 0.2; echo $i >&2; sleep 0.2; echo $i >&$1; done; echo end")
    assert run(snapshot(program, idle_limit=0.9)) == (b"1\n2\n3\n", b"end\n", None)


def test_a_program_that_waits_for_us_is_not_silent(run: type_of_run, script: Callable[..., Program]) -> None:
    """While its pipe is full because nobody reads, the clock stands still."""
    program = script("head -c 4000000 /dev/zero >&$1")

    async def slow() -> tuple[int, str | None]:
        async with running(program, idle_limit=0.3, with_data=True) as this:
            await asyncio.sleep(1.2)
            return len(await collect(this.data())), await this.result()

    assert run(slow()) == (4_000_000, None)


def test_what_nobody_reads_stays_in_the_program(run: type_of_run, script: Callable[..., Program]) -> None:
    """A program that writes 100 MB while nobody reads is held up after about a pipe's worth."""
    progress = "for i in $(seq 100); do head -c 1000000 /dev/zero >&$1; echo $i; done"

    async def held() -> tuple[int, int, str | None]:
        async with running(script(progress), idle_limit=20, with_data=True) as this:
            output = this.output()
            async with asyncio.timeout(10):
                seen = int(await anext(output))
            await asyncio.sleep(0.5)
            rest = asyncio.create_task(collect(output))
            await asyncio.sleep(0.1)
            assert not rest.done()
            chunks = [len(chunk) async for chunk in this.data()]
            await rest
            assert max(chunks) <= 1 << 20
            return seen, sum(chunks), await this.result()

    seen, total, result = run(held())
    assert seen == 1
    assert (total, result) == (100_000_000, None)


@pytest.mark.parametrize("grandchild", ["sleep 1000 &", "setsid sleep 1000 & sleep 0.2"])
def test_what_outlives_its_program_does_not_hold_the_run_up(
    run: type_of_run,
    script: Callable[..., Program],
    monkeypatch: pytest.MonkeyPatch,
    grandchild: str,
    tmp_path: Path,
) -> None:
    """Something left behind that keeps the output open is waited for a little, then ended, and it is said."""
    monkeypatch.setattr(running_module, "LEAVING_GRACE", 0.5)
    output, result = run(whole(script(f"echo $$; {grandchild}\necho $! > {tmp_path}/left; echo end"), idle_limit=0.6))
    assert output.endswith(b"end\n")
    assert result == (
        "ended, but something that it had started kept its output open for 0.6 s more and was ended:"
        " what came may be incomplete"
    )
    assert ended(int(output.split()[0]))
    assert died(int((tmp_path / "left").read_text()))


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
@pytest.mark.parametrize("where", [">&2 2>/dev/null >&2", ""])
def test_what_was_left_behind_and_goes_on_for_ever_is_ended(
    run: type_of_run,
    script: Callable[..., Program],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    trap: str,
    tmp_path: Path,
) -> None:
    """A line now and then buys no time: it has the limit in all, whatever its session is, and whatever it ignores."""
    monkeypatch.setattr(running_module, "LEAVING_GRACE", 0.5)
    daemon = f"{trap} echo $$ >{tmp_path}/left; while :; do echo on {where}; sleep 0.1; done"
    program = script(f"echo whole; setsid sh -c {shlex.quote(daemon)} & while ! [ -s {tmp_path}/left ]; do :; done")
    output, result = run(whole(program, idle_limit=1.0))
    assert output.startswith(b"whole\n") or b"\nwhole\n" in output
    assert died(int((tmp_path / "left").read_text()))
    assert result is not None
    assert "for 1 s more and was ended" in result


def test_what_was_written_before_the_end_is_kept_for_a_slow_reader(
    run: type_of_run, script: Callable[..., Program], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is in the pipe when its holder is ended is read all the same."""
    monkeypatch.setattr(running_module, "LEAVING_GRACE", 0.5)
    program = script(f"head -c 50000 /dev/zero; setsid sleep 1000 & echo $! > {tmp_path}/left; sleep 0.3")

    async def slow() -> tuple[int, str | None]:
        async with running(program, idle_limit=0.8) as this:
            while not (tmp_path / "left").exists() or not died(int((tmp_path / "left").read_text() or 0)):
                await asyncio.sleep(0.05)
            return len(await collect(this.output())), await this.result()

    read, result = run(slow())
    assert read == 50000
    assert result is not None
    assert "may be incomplete" in result


def test_what_outlives_its_program_and_goes_on_writing_is_read(
    run: type_of_run, script: Callable[..., Program]
) -> None:
    """A pipeline in the background that the program did not wait for loses nothing, also where it rests."""
    program = script("(for i in 1 2 3 4; do sleep 0.25; echo $i; done) &")
    assert run(whole(program)) == (b"1\n2\n3\n4\n", None)


def test_what_keeps_standard_error_alone_open_spoils_nothing(
    run: type_of_run, script: Callable[..., Program], tmp_path: Path
) -> None:
    """Output that reached its end is whole, whoever still holds standard error; that one is ended, and it is said."""
    program = script(f"echo whole; setsid sleep 1000 >/dev/null & echo $! > {tmp_path}/left; sleep 0.2")
    with capture_logs() as said:
        assert run(whole(program, idle_limit=0.5)) == (b"whole\n", None)
    assert died(int((tmp_path / "left").read_text()))
    assert [line["reason"] for line in said if line["event"] == "program.left_behind"] == [
        "what it had started held its pipes 0.5 s after its end, and was ended"
    ]


def test_a_daemon_that_closed_its_pipes_is_left_alone(
    run: type_of_run, script: Callable[..., Program], tmp_path: Path
) -> None:
    """A program that ended well may have started something on purpose."""
    program = script(f"sleep 1000 >/dev/null 2>&1 </dev/null & echo $! > {tmp_path}/left")
    assert run(whole(program)) == (b"", None)
    left = int((tmp_path / "left").read_text())
    os.kill(left, 0)
    os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_cancelling_leaves_no_process(
    run: type_of_run, script: Callable[..., Program], monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    """A cancelled run ends its programs, all of their group, before it ends itself."""
    monkeypatch.setattr(running_module, "LEAVING_GRACE", 0.3)
    program = script(f"{trap} echo $$; sleep 1000 & sleep 1000 | sleep 1000")
    groups: list[int] = []

    async def read() -> None:
        async with running(program, idle_limit=20) as this:
            groups.append(int(await anext(this.output())))
            await this.result()

    async def cancelled() -> None:
        task = asyncio.create_task(read())
        while not groups:
            await asyncio.sleep(0.01)
        assert alive(groups[0])
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert ended(groups[0])

    run(cancelled())


def test_cancelling_twice_leaves_no_process(run: type_of_run, script: Callable[..., Program]) -> None:
    """An impatient second cancellation does not wait for the grace, and leaves nothing either."""
    program = script("trap '' TERM; echo $$; while :; do sleep 0.05; done")
    groups: list[int] = []

    async def read() -> None:
        async with running(program, idle_limit=20) as this:
            groups.append(int(await anext(this.output())))
            await this.result()

    async def cancelled() -> None:
        task = asyncio.create_task(read())
        while not groups:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait((task,), timeout=1)
        assert task.cancelled()
        assert ended(groups[0])

    run(cancelled())


def test_cancelling_at_any_moment_of_the_start_leaves_nothing(run: type_of_run, script: Callable[..., Program]) -> None:
    """A program that was just being started when its run was cancelled is ended too."""
    marker = f"1000.{os.getpid()}"
    program = script(f"exec sleep {marker}")

    async def cancelled() -> None:
        for step in range(40):
            task = asyncio.create_task(whole(program))
            await asyncio.sleep(step / 4000)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
        await asyncio.sleep(0.1)

    run(cancelled())
    assert not [command for command in commands() if marker in command]


def test_an_error_in_our_reader_ends_the_program_and_stays_itself(
    run: type_of_run, script: Callable[..., Program]
) -> None:
    """What goes wrong inside the context comes out as it is."""

    async def fails() -> None:
        async with running(script("yes"), idle_limit=20) as this:
            async for _ in this.output():
                raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        run(fails())


def test_a_result_may_be_asked_for_without_reading(run: type_of_run, script: Callable[..., Program]) -> None:
    """Output that nobody wants is thrown away, not waited for."""

    async def unread() -> str | None:
        async with running(script("head -c 3000000 /dev/zero; exit 5"), idle_limit=20) as this:
            return await this.result()

    assert run(unread()) == "ended with exit status 5"


def test_without_pidfd_a_thread_waits(
    run: type_of_run, script: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel or in a sandbox without pidfd_open all is the same."""

    def refused(_: int, __: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert run(whole(script("echo x; sleep 0.1; exit 2"))) == (b"x\n", "ended with exit status 2")
    assert run(whole(script("sleep 1000"), idle_limit=0.2))[1] == "wrote nothing for 0.2 s and was stopped"


def test_too_many_open_files_is_a_sentence(run: type_of_run, script: Callable[..., Program]) -> None:
    """Where we have no descriptor left for a pipe, that program is not run, and nothing leaks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def starved() -> tuple[bytes, bytes, str | None]:
        await asyncio.to_thread(int)  # the loop has all that it needs itself
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 5, hard))
        try:
            return await snapshot(script_file)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    script_file = script("echo never")
    assert run(starved()) == (b"", b"", "could not be started: Too many open files")


async def some(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def test_a_command_gets_all_chunks_and_its_status_comes_back(run: type_of_run, tmp_path: Path) -> None:
    """What is piped in arrives whole, however large, and the command line is a shell's."""
    chunks = [bytes([n]) * 700_000 for n in range(20)]
    assert run(pipe_into(f"cat > '{tmp_path}/a b' && exit 7", some(*chunks))) == 7
    assert (tmp_path / "a b").read_bytes() == b"".join(chunks)
    assert run(pipe_into("cat >/dev/null", some())) == 0


def test_a_command_that_stops_reading_early_is_no_error(run: type_of_run, tmp_path: Path) -> None:
    """`head` ends before its input does: its status tells, and no more is fetched than needed."""
    fetched = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal fetched
        while True:
            fetched += 1
            yield b"line\n" * 100_000

    assert run(pipe_into(f"head -n 1 > {tmp_path}/first", endless())) == 0
    assert (tmp_path / "first").read_text() == "line\n"
    assert fetched < 20
    assert run(pipe_into("kill -TERM $$", endless())) == 128 + signal.SIGTERM
    assert run(pipe_into("exec /no/such/command 2>/dev/null", endless())) == 127


def test_a_source_that_fails_never_looks_like_the_end_of_the_data(run: type_of_run, tmp_path: Path) -> None:
    """The command is killed before it could commit half of a database."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(0.2)
        raise LookupError("the store failed")

    with pytest.raises(LookupError, match="the store failed"):
        run(pipe_into(f"cat > {tmp_path}/got; touch {tmp_path}/committed", broken()))
    assert (tmp_path / "got").read_bytes() == b"half"
    assert not (tmp_path / "committed").exists()


def test_cancelling_a_command_ends_its_group(run: type_of_run, tmp_path: Path) -> None:
    """Ctrl-C at a restore ends what it runs."""
    leader = tmp_path / "leader"

    async def cancelled() -> None:
        task = asyncio.create_task(pipe_into(f"echo $$ > {leader}; sleep 1000 | sleep 1000", some(b"x" * 9_000_000)))
        while not (leader.exists() and leader.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    run(cancelled())
    assert ended(int(leader.read_text()))


def test_a_shell_that_cannot_be_started_is_a_program_error(run: type_of_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment too large for exec(2) is told as what it is."""
    monkeypatch.setenv("HUGE", "x" * 200_000)
    with pytest.raises(ProgramError, match=re.escape("/bin/sh could not be started: Argument list too long")):
        run(pipe_into("true", some()))
