"""What came from outside is text on a terminal, whoever planted it and wherever it is shown; never a command."""

import hashlib
import os
import pty
import re
import select
import subprocess
import termios
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from sysbackup.cli.main import invoke
from sysbackup.formats import gzipping, index, keys
from sysbackup.formats.manifest import CharDevice, Directory, End, Entry, File, Link, Log, Snapshot
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject
from tests.support import daemons
from tests.support.daemons import SOON
from tests.support.recovering import MOMENT, MTIME, Backup, header, written
from tests.support.servers import OnServer, Server

EVIL = (
    "evil\x1b[2J\x1b[5;33;41m\x1b]8;;http://evil/\x1b\\\x1b]52;c;ZXZpbA==\x07\x1bP$q\x1b\\\x1bc"  # CSI, OSC, DCS, reset
    "\x9b6n\x9d0;title\x9c\x85\x90"  # C1, as UTF-8
    "\r\b\x7f\x0b\x0c\x0e\t\u202e\u2066\u200f\u2028\ufeff"  # overwritten, turned round
    "\nforged: a line of its own [red]markup[/red] [link=http://evil/]link[/link] :smile: %s {}"
)
SHOWN = "[red]markup[/red] [link=http://evil/]link[/link] :smile: "
NAME = EVIL.replace("/", "|")[:240]  # as a file's
HOST = "h" + EVIL.replace("\n", "\x1b[1m")
RUN, OTHER, WORSE, LIES = (f"20261123T04150{n}Z-3fa{n}" for n in range(4))

# How rich and click style what we say, and how rich moves its lines of progress.
OURS = re.compile(
    r"\x1b\[(?:[0-9]|1;3[0-9]|3[0-9]|9[0-7]|2;3[0-9]|38;5;[0-9]+)?(?:;(?!33;41)[0-9]+)*m|\x1b\[\?25[lh]|\x1b\[[12]?[AK]|\r"
)


def _manifest(run: str, host: str, *entries: Entry, **more: str) -> bytes:
    return written(
        [header(run, host, format=1, tool=EVIL, **more), *entries, End(counts={EVIL: 1, "f": 1}, bytes=1, problems=1)]
    )


def _entries(backup: Backup) -> list[Entry]:
    """Escapes wherever a manifest has text. The first file can be restored."""
    above = backup.directory(b"/d", f"u::rwx,u:{EVIL}:rwx,g::r-x,m::rwx,o::---")
    above.owner = above.group = EVIL
    backup.file(b"/d/good", b"good", xattrs={EVIL: "?"}, flags=EVIL)
    pack = backup.pack()
    assert pack is not None
    common: dict[str, Any] = {
        "acl": EVIL,
        "mtime": MTIME,
        "owner": EVIL,
        "group": EVIL,
        "sha": EVIL,
        "key": "content/" + "0" * 64,
    }
    sha = hashlib.sha256(b"x").hexdigest()
    backup.entries += [
        File(path=f"/d/{EVIL}", size=1, **common | {"sha": sha}),
        File(path="/d/no digest" + EVIL, size=1, **common),
        File(path="/d/no version", size=1, version=EVIL, **common | {"sha": sha}),
        File(path="/d/gone", size=1, version="4" * 32, **common | {"sha": sha}),
        File(path="/d/no key", size=1, **common | {"sha": sha, "key": EVIL}),
        File(path="/d/no encoding", size=1, encoding=EVIL, **common | {"sha": sha}),
        File(path="/d/" + EVIL, pathb=EVIL, size=1),
        File(path="/../" + EVIL, size=0, warnings=[EVIL], link=EVIL),
        Link(path=f"/d/link{EVIL}", target=EVIL, owner=EVIL),
        Link(path="/d/link", target=EVIL, targetb=EVIL),
        Directory(path=f"/d/{EVIL}/{EVIL}", mode=0o700),
        CharDevice(path=f"/d/device{EVIL}", major=1 << 40, minor=-1),
        Snapshot(
            name=EVIL, key="snapshots/x", version=EVIL, size=3, sha=EVIL, description=EVIL, restore=f"cat # {EVIL}",
            started=MOMENT, finished=MOMENT,
        ),
        Log(time=MOMENT, event=EVIL, path=EVIL, reason=EVIL),
    ]  # fmt: skip
    return backup.entries


def _indexed(key: str, version: str) -> bytes:
    lock = Lock(LockMode.GOVERNANCE, datetime(2040, 1, 1, tzinfo=UTC))
    return index.line(StoredObject(key, version, 100, lock), None, [Member(bytes(32), 60, Span(0, 50))], EVIL)


async def _plant(bucket: OnServer) -> None:
    backup = Backup()
    entries = _entries(backup)
    for key, (kept, *_) in backup.bucket.objects.items():
        version = await bucket.plant(key, kept.body)
        for entry in entries:
            if isinstance(entry, File) and entry.key == key:
                entry.version = version
    lines = {
        keys.manifest_key(HOST, RUN): _manifest(RUN, HOST, *entries, lock=EVIL),
        keys.manifest_key("alpha", WORSE): gzipping.compress(
            msgspec.json.encode(header(WORSE, "alpha")) + b"\n" + msgspec.json.encode({"typ": EVIL, EVIL: EVIL}) + b"\n"
        ),
        keys.manifest_key("alpha", LIES): _manifest(EVIL, EVIL),
    }
    for key, body in lines.items():
        await bucket.plant(key, body)
        await bucket.plant(key, body + gzipping.compress(b"\n"))  # disputed
    pack = keys.pack_key(bytes(32))
    evil = [
        _indexed(pack, "0" * 32),
        _indexed(pack, EVIL[:100].replace(" ", "")),
        _indexed("packs/" + EVIL, "1"),
        b'{"typ":' + msgspec.json.encode(EVIL) + b"}\n",
        EVIL.encode() + b"\n",
    ]
    for host in ("alpha", HOST, EVIL):
        for number, line in enumerate(evil):
            body = gzipping.compress(index.header(host, OTHER) + evil[0] + line)
            await bucket.plant(keys.index_key(host, OTHER, number), body)
    for name in ("\u202e\x9b6n", "a\u2066[red]", "0" * 63 + "\x9b"):
        for prefix in ("packs", "content", "manifests/alpha", "index/alpha", "manifests"):
            await bucket.plant(f"{prefix}/{name}", EVIL.encode())


@pytest.fixture(scope="module")
def host(moto: Server, tmp_path_factory: pytest.TempPathFactory) -> daemons.Host:
    """A machine whose files, programs and bucket hold what a terminal would obey."""
    bucket = uvloop.run(moto.bucket())
    host = daemons.Host(tmp_path_factory.mktemp("evil"), bucket)
    said = host.base / "said"
    said.write_bytes(EVIL.encode() + b"\x1b[3mnot UTF-8 \xff\xfe\x9b\n")
    tree = host.base / "tree"
    tree.mkdir()
    (tree / NAME).write_text("x")
    (tree / "link").symlink_to(EVIL)
    os.link(tree / NAME, os.fsencode(tree) + b"/\x1b[3m\xff\x9b")
    host.program(
        "pickers.d", "find", f"#!/bin/sh\ncat '{said}' >&2\nprintf '%s\\0' relative '/none' \"$(cat '{said}')\"\n"
        f"find '{tree}' -print0\n",
    )  # fmt: skip
    host.program("pickers.d", f"fails{NAME[:100]}", f"#!/bin/sh\ncat '{said}' >&2\nexit 3\n")
    host.program(
        "snapshots.d", "db", f"#!/bin/sh\ncat '{said}'\necho '::restore-through:: cat #'\"$(cat '{said}')\"\n"
        f"cat '{said}' >&\"$BACKUP_FD\"\ncat '{said}' >&2\n",
    )  # fmt: skip
    host.program("snapshots.d", f"db2{NAME[:100]}", f"#!/bin/sh\ncat '{said}' >&2\nexit 3\n")
    host.program("hooks.d", "tell", f"#!/bin/sh\ncat '{said}'\ncat '{said}' >&2\nexit 3\n")
    (host.directory / f"pickers.d/README{NAME[:100]}").write_text(EVIL)
    uvloop.run(_plant(bucket))
    return host


def _on_terminal(arguments: Sequence[str], environ: dict[str, str]) -> tuple[int, str]:
    """What reaches the terminal, but for our own styling."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    child = subprocess.Popen(
        arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environ | {"TERM": "xterm-256color"}
    )
    os.close(theirs)
    said = bytearray()
    with os.fdopen(ours, "rb", buffering=0) as terminal, child:
        while select.select([terminal], [], [], 2 * SOON)[0]:
            try:
                said += terminal.read(1 << 16)
            except OSError:  # EIO: nobody has it open any more
                break
        else:
            child.kill()
    return child.returncode, OURS.sub("", said.decode())


# Words of a command line; a status; whether what was planted must show, as it is.
COMMANDS: dict[str, tuple[list[str], set[int], bool]] = {
    "run": (["run"], {3}, True),
    "run --json": (["run", "--json"], {3}, True),
    "status": (["status"], {2}, True),
    "status --json": (["status", "--json"], {2}, True),
    "list": (["list"], {0}, True),
    "list --long": (["list", "--long"], {0}, True),
    "list --json": (["list", "--json"], {0}, True),
    "list --host": (["list", "--host", EVIL], {1}, True),
    "ls": (["ls", RUN, "--host", HOST], {1}, True),
    "ls of several": (["ls", "2026"], {1, 2}, False),
    "ls --json": (["ls", RUN, "--host", HOST, "--json"], {1}, True),
    "ls PATH": (["ls", RUN, "--host", HOST, f"/{EVIL}"], {1}, True),
    "ls of none": (["ls", EVIL, "--host", EVIL], {1}, True),
    "ls of a line that is none": (["ls", WORSE], {1}, False),
    "ls of another's": (["ls", LIES], {1}, True),
    "ls --version": (["ls", RUN, "--host", HOST, "--version", EVIL], {1}, True),
    "ls of one's own": (["ls", "latest", "--host", "alpha"], {0, 1, 2}, False),
    "restore": (["restore", RUN, "--host", HOST, "--target", "{}"], {3}, True),
    "restore --json": (["restore", RUN, "--host", HOST, "--target", "{}", "--json"], {3}, True),
    "restore --overwrite": (["restore", RUN, "/d/good", f"/{EVIL}", "--host", HOST, "--target", "{}"], {3}, True),
    "restore to": (["restore", RUN, "--host", HOST, "--target", f"/dev/null/{EVIL}"], {1}, True),
    "restore-snapshot": (["restore-snapshot", RUN, EVIL, "--host", HOST, "--output", "{}/out"], {1}, True),
    "restore-snapshot --run": (["restore-snapshot", RUN, EVIL, "--host", HOST, "--run", "--yes"], {1}, True),
    "restore-snapshot of none": (["restore-snapshot", RUN, f"x{EVIL}", "--host", HOST, "--output", "{}/o"], {1}, True),
    "catalog info": (["catalog", "info"], {0}, False),
    "catalog rebuild": (["catalog", "rebuild"], {0}, False),
    "catalog rebuild --from-objects": (["catalog", "rebuild", "--from-objects"], {0}, False),
    "check-config": (["check-config"], {0}, False),
    "check-config --json": (["check-config", "--json"], {0}, False),
    "trigger": (["trigger"], {69}, False),
    "an unknown command": ([EVIL], {2}, True),
    "an unknown option": (["list", f"--{EVIL.replace('=', '')}"], {2}, False),
    "a relative path": (["ls", RUN, EVIL], {2}, True),
    "another directory": (["--config-dir", f"/{EVIL}", "list"], {78}, False),
}


def obeyed(call: Callable[[Sequence[str]], tuple[int, str]], target: Path) -> dict[str, tuple[int, str]]:
    """The commands that end otherwise, or show anything but text that is ours, or nothing of what was planted."""
    wrong = {}
    for name, (words, statuses, shows) in COMMANDS.items():
        status, said = call([word.replace("{}", str(target)) if word.startswith("{}") else word for word in words])
        legible = all(character.isprintable() or character == "\n" for character in said)
        forged = any(line.startswith("forged") for line in said.splitlines())
        missing = shows and SHOWN not in re.sub(r"\s*\n\s*", " ", said)
        if "Traceback" in said or status not in statuses or not legible or forged or missing:
            wrong[name] = (status, said)
    return wrong


def test_nothing_is_obeyed_on_a_terminal(host: daemons.Host, tmp_path: Path) -> None:
    """Each command shows what was planted as text: no control character, and no line that is not ours."""
    environ = host.environ(PYTHONPATH=str(daemons.ROOT), COLUMNS="100")
    assert obeyed(lambda words: _on_terminal(daemons.command(*words), environ), tmp_path / "target") == {}


def test_nothing_is_obeyed_that_is_piped(
    host: daemons.Host,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same where it goes into a file, which may be shown on a terminal later; nothing is styled there."""
    for name, value in host.environ(COLUMNS="100").items():
        monkeypatch.setenv(name, value)

    def piped(words: Sequence[str]) -> tuple[int, str]:
        status = invoke(list(words))
        out, err = capfdbinary.readouterr()
        assert b"\x1b" not in out + err
        return status, (out + err).decode()

    assert obeyed(piped, tmp_path / "target") == {}
