"""What a manifest says costs no memory: neither how much it says, nor what its few bytes unpack to."""

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import uvloop

from sysbackup.formats import gzipping, keys, manifest
from tests.support import daemons
from tests.support.daemons import SOON
from tests.support.recovering import HOST, RUN, header
from tests.support.servers import Server

MIB = 1 << 20

# VmHWM (proc(5)) is of this program alone; what getrusage(2) tells begins with what the parent had before exec.
MEASURED = """
import re, sys
from sysbackup.cli.main import invoke
status = invoke(sys.argv[2:])
with open("/proc/self/status") as file, open(sys.argv[1], "w") as told:
    told.write(re.search(r"VmHWM:\\s*(\\d+) kB", file.read())[1])
sys.exit(status)
"""

LINE_MOST = 320
"""MiB above a small manifest's that the largest line may cost: it is 32 MiB, and is unpacked, split, read, written."""
MOST = 128
"""MiB for everything else: the sorted spools' own bounds are 64."""


def _path(path: str, **more: object) -> bytes:
    return json.dumps({"typ": "f", "path": path, **more}).encode() + b"\n"


def _many_entries() -> Iterator[bytes]:
    for n in range(150_000):
        yield _path(f"/d/{n:07}" + "n" * 300, o="root", g="root", uid=0, gid=0, acl="u::rw-,g::r--,o::r--")


def _many_steps() -> Iterator[bytes]:
    for n in range(40):
        yield _path("/a" * 30_000 + str(n))


def _long_names() -> Iterator[bytes]:
    for n in range(2500):
        yield _path(f"/{n}" + "n" * 65_000)


def _too_long_paths() -> Iterator[bytes]:
    for n in range(40):
        yield _path("/a" * MIB + str(n))


def _links() -> Iterator[bytes]:
    for n in range(100_000):
        yield json.dumps({"typ": "l", "path": f"/l{n}", "tgt": f"l{n + 1}" + "/." * 1000}).encode() + b"\n"


def _hard_links() -> Iterator[bytes]:
    for n in range(100_000):
        yield _path(f"/h{n}" + "n" * 200, id="1")


def _large_lines() -> Iterator[bytes]:
    for n in range(1500):
        yield _path(f"/x{n}", x={"user.a": "A" * 200_000})


def _largest_lines() -> Iterator[bytes]:
    for n in range(48):
        yield _path(f"/x{n}", x={"user.a": "A" * (7 * MIB)})


def _many_names() -> Iterator[bytes]:
    yield b'{"typ":"f","path":"/a","x":{' + b",".join(b'"%d":""' % n for n in range(500_000)) + b"}}\n"


def _many_texts() -> Iterator[bytes]:
    yield b'{"typ":"f","path":"/a","w":[' + b'"",' * 2_500_000 + b'""]}\n'


def _many_lists() -> Iterator[bytes]:
    yield b'{"typ":"f","path":"/a","unknown":[' + b"[]," * 2_500_000 + b"[]]}\n"


def _endless_line() -> Iterator[bytes]:
    yield b'{"typ":"f","path":"/'
    for _ in range(1024):
        yield b"a" * MIB


def _endless_header() -> Iterator[bytes]:
    yield from islice(_endless_line(), 130)


def _empty_lines() -> Iterator[bytes]:
    for _ in range(64):
        yield b"\n" * MIB


# What the manifest's lines are; MiB that they may cost; whether they are a manifest's at all.
MANIFESTS: dict[str, tuple[Callable[[], Iterator[bytes]], int, bool]] = {
    "very many entries": (_many_entries, MOST, True),
    "a path of 30,000 steps": (_many_steps, MOST, True),
    "long names": (_long_names, MOST, True),
    "paths too long": (_too_long_paths, MOST, True),
    "a chain of links": (_links, MOST, True),
    "hard links": (_hard_links, MOST, True),
    "large lines": (_large_lines, MOST, True),
    "the largest lines": (_largest_lines, LINE_MOST, True),
    "a line of names": (_many_names, LINE_MOST, False),
    "a line of texts": (_many_texts, LINE_MOST, False),
    "a line of lists": (_many_lists, LINE_MOST, True),
    "a line of 1 GiB": (_endless_line, MOST, False),
    "no header": (_endless_header, MOST, False),
    "empty lines": (_empty_lines, MOST, False),
}


class Measured:
    """Runs `sysbackup`; returns its status and its peak in MiB."""

    def __init__(self, host: daemons.Host) -> None:
        self._host = host

    def __call__(self, *arguments: str) -> tuple[int, int, str]:
        told = self._host.base / "told"
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(told), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=8 * SOON,
            check=False,
            cwd=daemons.ROOT,
            env=self._host.environ(),
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, int(told.read_text()) // 1024, done.stderr.decode()


def _body(lines: Iterator[bytes], *, head: bool = True) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = [packer.compress(manifest.encode(header(format=1)) + b"\n")] if head else []
    packed += [packer.compress(line) for line in lines]
    return b"".join(packed) + packer.flush() + gzipping.compress(b'{"typ":"end","counts":{},"bytes":0,"problems":0}\n')


@pytest.fixture
def host(moto: Server, tmp_path: Path) -> Iterator[daemons.Host]:
    made = daemons.Host(tmp_path, uvloop.run(moto.bucket()))
    yield made
    subprocess.run(["rm", "-rf", str(tmp_path / "target")], check=True)  # deeper than Python's own can go


@pytest.fixture(scope="module")
def usual(moto: Server, tmp_path_factory: pytest.TempPathFactory) -> int:
    """MiB that a restore takes where the manifest has one line."""
    host = daemons.Host(tmp_path_factory.mktemp("usual"), uvloop.run(moto.bucket()))
    _plant(host, _body(iter([_path("/a")])))
    return Measured(host)("restore", RUN, "--target", str(host.base / "target"))[1]


def _plant(host: daemons.Host, body: bytes) -> None:
    assert host.bucket is not None
    uvloop.run(host.bucket.plant(keys.manifest_key(HOST, RUN), body))


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", MANIFESTS)
def test_looking_costs_no_memory(host: daemons.Host, usual: int, kind: str) -> None:
    """`list`, `ls` and the restore of selected paths take little more than for a manifest of one line."""
    lines, most, good = MANIFESTS[kind]
    _plant(host, _body(lines(), head="header" not in kind))
    run = Measured(host)
    commands = {
        ("list", "--long"): 0,
        ("ls", RUN, "/a/b", "/x/y", "/a" * 40_000): 1,
        ("restore", RUN, "/a/b", "/x/y", "--target", str(host.base / "target")): 3 if good else 1,
    }
    for arguments, expected in commands.items():
        status, peak, said = run(*arguments)
        assert status == expected, said
        assert peak - usual < most, (arguments[0], usual, peak)


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["large lines", "the largest lines", "hard links"])
def test_a_whole_restore_costs_no_memory(host: daemons.Host, usual: int, kind: str) -> None:
    """All of it restored: entries wait on disk, and those in hand are few. Attributes that cannot be are told of."""
    lines, most, _ = MANIFESTS[kind]
    _plant(host, _body(islice(lines(), 20_000)))
    status, peak, said = Measured(host)("restore", RUN, "--target", str(host.base / "target"))
    assert status == (0 if kind == "hard links" else 3), said
    assert peak - usual < most, (usual, peak)
