"""How far a run is, as it shows: on a terminal, to systemd, in `status` and to who waits; judged by the run before."""

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from sysbackup.formats.run_result import Counts, Summary, with_manifest
from sysbackup.model import Lock, StoredObject
from sysbackup.pipeline.backup import back_up
from sysbackup.pipeline.tally import Tally
from sysbackup.service import messages, status_text
from sysbackup.service.messages import Progress
from sysbackup.store.delegating import Delegating
from sysbackup.store.port import NO_METADATA, Body
from tests.support import backups, notified
from tests.support.daemons import ROOT, SOON, Host, command, daemon
from tests.support.machines import Machine
from tests.support.memory_store import MemoryBucket, MemoryStore
from tests.support.servers import Server
from tests.unit.test_hooks import summary

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

PART = r"[1-9]\d? %"


@pytest.fixture
def host(tmp_path: Path, moto: Server) -> Host:
    """A machine with four files, which one picker names at once, and a picker that waits before it ends."""
    host = Host(tmp_path / "machine", uvloop.run(moto.bucket()))
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(4):
        (tree / f"file-{number}").write_bytes(os.urandom(20_000))
    host.program("pickers.d", "tree", f"#!/bin/sh\nexec find '{tree}' -type f\n")
    last = tmp_path / "last"
    last.write_bytes(os.urandom(20_000))
    waiting = f"#!/bin/sh\nuntil [ -e '{gate(host)}' ]; do sleep 0.05; done\necho '{last}'\n"
    host.program("pickers.d", "waiting", waiting)
    return host


def gate(host: Host) -> Path:
    """As soon as this exists the second picker ends."""
    return host.base / "gate"


def backed_up(host: Host) -> None:
    """One run from beginning to end."""
    gate(host).touch()
    done = host.call("run")
    assert done.returncode == 0, done.stderr
    gate(host).unlink()


def remembered(host: Host, said: Summary) -> None:
    """A run that the history tells of."""
    host.state.mkdir(exist_ok=True)
    with (host.state / "history.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(with_manifest(said)) + b"\n")


class Screen:
    """A command on a terminal of its own, and all that it has drawn there."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self._own, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self._process = subprocess.Popen(
            command(*arguments), stdin=end, stdout=end, stderr=end, cwd=ROOT, env=host.environ(TERM="xterm")
        )
        os.close(end)
        self.drawn = ""

    def until(self, pattern: str) -> str:
        """Wait until it has been drawn; all that was by then."""
        deadline = time.monotonic() + SOON
        while not re.search(pattern, self.drawn, re.DOTALL):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.drawn[-2000:]!r}"
            assert self._read(deadline), f"it has ended: {self.drawn[-2000:]!r}"
        return self.drawn

    def end(self) -> int:
        """Its exit status, and the rest is drawn."""
        deadline = time.monotonic() + 2 * SOON
        while self._read(deadline):
            pass
        return self._process.wait(SOON)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)

    def _read(self, deadline: float) -> bool:
        if not select.select([self._own], [], [], max(0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"nothing more is drawn: {self.drawn[-2000:]!r}")
        try:
            data = os.read(self._own, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.drawn += ESCAPE.sub("", data.decode("utf-8", "replace"))
        return True


@contextmanager
def on_terminal(host: Host, *arguments: str) -> Iterator[Screen]:
    screen = Screen(host, *arguments)
    try:
        yield screen
    finally:
        screen.close()


def test_on_a_terminal(host: Host) -> None:
    """A first run shows counts and a rate, and no percentage; the second one how far it is, never more than 99 %."""
    with on_terminal(host, "run") as screen:
        screen.until(r"backing up[^,]*4 files.*/s")
        gate(host).touch()
        assert screen.end() == 0
        assert " %" not in screen.drawn
    gate(host).unlink()
    with on_terminal(host, "run") as screen:
        screen.until(rf"backing up, {PART}.*4 files")
        gate(host).touch()
        assert screen.end() == 0
        shown = [int(found) for found in re.findall(r"(\d+) %", screen.drawn)]
        assert shown == sorted(shown)
        assert max(shown) <= 99


def test_a_rescan_on_a_terminal(host: Host) -> None:
    """It is judged by what there was, though all of it is read now."""
    backed_up(host)
    with on_terminal(host, "run", "--rescan") as screen:
        screen.until(rf"backing up, {PART}.*4 files")
        gate(host).touch()
        assert screen.end() == 0


def test_a_daemons_run(host: Host) -> None:
    """systemd hears of it, `status` tells it to people and programs, and so does the command that waits."""
    backed_up(host)  # by hand: the history is one
    address = str(host.base / "notify")
    with notified.listening(address) as ear, daemon(host, NOTIFY_SOCKET=address) as service:
        with on_terminal(host, "trigger", "--wait") as screen:
            found = service.until(lambda s: s.current is not None and s.current.progress.files == 4)
            assert found.current is not None
            percent = found.current.progress.percent
            assert percent is not None
            assert 0 < percent <= 99
            assert re.match(rf"Backing up, {percent} %.*: 4 files, ", ear.hear("STATUS", "4 files").fields["STATUS"])
            said = json.loads(host.call("status", "--json").stdout)["current"]["progress"]
            assert (said["percent"], said["beyond"], said["sending"]) == (percent, False, 0)
            assert f"backing up, {percent} %, " in host.call("status").stdout
            screen.until(rf"backing up, {percent} %")
            gate(host).touch()
            assert screen.end() == 0
        ear.hear("STATUS", "last run complete")


def test_what_the_last_run_took_is_told(host: Host) -> None:
    """Long before this one knows how fast it is: an hour for a hundred times as many files."""
    remembered(host, summary(seconds=3600.0, examined=Counts(400, 400 * 20_000, 400 * 20_000)))
    with daemon(host) as service:
        assert host.call("trigger").returncode == 0
        found = service.until(lambda s: s.current is not None and s.current.progress.files == 4)
        assert found.current is not None
        assert found.current.progress.seconds_left is not None
        assert found.current.progress.seconds_left > 0
        assert re.search(r"backing up, \d %, about .* left, 4 files", host.call("status").stdout)
        gate(host).touch()
        service.until(lambda s: s.current is None and s.last is not None)


def test_a_tree_that_grew_says_so(host: Host) -> None:
    """More than the last run held: 99 %, and no time that nobody knows."""
    remembered(host, summary(examined=Counts(1, 20_000, 20_000)))
    with daemon(host) as service:
        assert host.call("trigger").returncode == 0
        found = service.until(lambda s: s.current is not None and s.current.progress.files == 4)
        assert found.current is not None
        progress = found.current.progress
        assert (progress.percent, progress.beyond, progress.seconds_left) == (99, True, None)
        assert "backing up, 99 %, more than the last run held, 4 files" in host.call("status").stdout
        gate(host).touch()
        service.until(lambda s: s.current is None and s.last is not None)


@pytest.mark.parametrize("rubbish", [b"\0" * 4096, b'{"outcome": "complete", "exit_'], ids=["zeros", "cut"])
def test_a_damaged_history_is_no_estimate_and_no_error(host: Host, rubbish: bytes) -> None:
    """The run shows what a first one does, ends well, and is remembered for the next."""
    host.state.mkdir()
    (host.state / "history.jsonl").write_bytes(rubbish)
    with on_terminal(host, "run") as screen:
        screen.until(r"backing up[^,]*4 files")
        gate(host).touch()
        assert screen.end() == 0
        assert " %" not in screen.drawn
        assert "history.un" not in screen.drawn
    gate(host).unlink()
    with on_terminal(host, "run") as screen:
        screen.until(rf"backing up, {PART}")
        gate(host).touch()
        assert screen.end() == 0


def test_a_state_directory_that_cannot_be_is_no_estimate(host: Host) -> None:
    """As before: the backup is made, and that its history cannot be written is said once, at its end."""
    file = host.base / "file"
    file.touch()
    gate(host).touch()
    done = host.call("run", SYSBACKUP_STATE_DIR=str(file / "state"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("history.unwritable") == 1
    assert "history.unreadable" not in done.stderr


# ---- what the counts are made of


class Slow(Delegating):
    """A store that takes an object in, but does not confirm it before it is told to."""

    def __init__(self, bucket: MemoryBucket, prefix: str) -> None:
        super().__init__(MemoryStore(bucket))
        self._prefix = prefix
        self.waiting = 0
        self.go_on = asyncio.Event()

    async def put(
        self,
        key: str,
        body: Body,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        sha256: bytes | None = None,
    ) -> StoredObject:
        if key.startswith(self._prefix):
            self.waiting += 1
            await self.go_on.wait()
        return await super().put(key, body, lock, metadata=metadata, once=once, sha256=sha256)


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not met():
            await asyncio.sleep(0.01)


def watched(machine: Machine, prefix: str, look: Callable[[Tally, Slow], object]) -> tuple[Summary, list[object]]:
    """A run, and what `look` saw of it, first when a put beneath `prefix` waited and then when all had ended."""

    async def scene() -> tuple[Summary, list[object]]:
        store = Slow(machine.bucket, prefix)
        tallies: list[Tally] = []
        going = asyncio.ensure_future(back_up(machine.config, store, machine.clock, tallies.append))
        seen = []
        try:
            await until(lambda: going.done() or bool(store.waiting and look(tallies[-1], store)))
            seen.append(look(tallies[-1], store))
        finally:
            store.go_on.set()
            ended = await going
        return ended, [*seen, look(tallies[-1], store)]

    return uvloop.run(scene())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "alpha", MemoryBucket())


def test_after_the_examining_uploads_go_on(machine: Machine) -> None:
    """It says how many objects are still to be stored, and nothing of that once they are."""
    for number in range(5):
        machine.write(f"small-{number}", os.urandom(1000))  # one pack
    machine.write("larger", os.urandom(2 << 20))  # and an object of its own

    def look(tally: Tally, store: Slow) -> Progress | None:
        return messages.following(tally, None)() if tally.gathered else None

    _, (waiting, over) = watched(machine, "", look)
    assert isinstance(waiting, Progress)
    assert isinstance(over, Progress)
    assert (waiting.stage, waiting.sending, waiting.files) == ("finishing", 2, 6)
    assert status_text.stage(waiting) == "finishing, 2 objects still to be stored"
    assert (over.stage, over.sending) == ("done", 0)


def test_a_large_file_counts_while_it_is_read(machine: Machine) -> None:
    """Not only when all of it is stored, and then not twice."""
    machine.config = machine.with_settings(chunk_from=1 << 20, stream_pack_size=1 << 20)
    machine.write("large", os.urandom(30 << 20))

    def look(tally: Tally, store: Slow) -> Counts:
        return tally.counts()

    summary, (waiting, over) = watched(machine, "packs/", look)
    assert isinstance(waiting, Counts)
    assert waiting == Counts(0, waiting.read, waiting.read)
    assert 0 < waiting.read < 30 << 20
    assert over == summary.examined == Counts(1, 30 << 20, 30 << 20)


@pytest.mark.usefixtures("settled")
def test_what_a_run_leaves_for_the_next(machine: Machine) -> None:
    """What was examined: a file that two pickers name twice, what did not change unread, and a snapshotter's bytes."""
    machine.write("a", os.urandom(1000))
    machine.write("b", os.urandom(2000))
    backups.picker(machine.config, machine.tree / "b", name="again")
    backups.program(machine.config.snapshotters, "dump", "#!/bin/sh\nhead -c 5000 /dev/zero >&$1\n")
    first = machine.back_up().summary
    assert first.files == 2
    assert first.examined is not None
    assert (first.examined.files, first.examined.bytes, first.examined.snapshots) == (3, 5000, 5000)
    machine.write("a", os.urandom(1500))
    assert machine.back_up().summary.examined == Counts(3, 5500, 1500, 5000)
    again = machine.back_up(rescan=True).summary
    assert (again.examined, again.rescan) == (Counts(3, 5500, 5500, 5000), True)
