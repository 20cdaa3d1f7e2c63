"""A run that is killed, with a signal that nobody can handle: what the store had confirmed is not sent twice."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from sysbackup.contents.cache_directory import catalog_path
from tests.support import backups
from tests.support.proxy import Proxy, proxying
from tests.support.servers import OnServer, Server

MIB = 1 << 20
UPLOADS = 4


@pytest.fixture
def bucket(moto: Server) -> OnServer:
    return uvloop.run(moto.bucket())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """56 MB: 40 files stored alone, 4,000 that fill 16 packs."""
    tree, dice = tmp_path / "tree", random.Random(5)
    for n in range(40):
        folder = tree / f"{n}"
        folder.mkdir(parents=True)
        (folder / "middle").write_bytes(dice.randbytes(MIB + n))
        for m in range(100):
            (folder / f"small{m}").write_bytes(dice.randbytes(4000 + m))
    return tree


@contextmanager
def running(base: Path, bucket: OnServer, endpoint: str, tree: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`sysbackup run` of a machine whose conf and cache are in `base`, by way of `endpoint`."""
    directory = base / "conf.d"
    directory.mkdir(parents=True, exist_ok=True)
    backups.program(directory / "pickers.d", "find", f"#!/bin/sh\nexec find '{tree}' -print0\n")
    (directory / "conf").write_text(
        f"[aws]\ncredentials_file = {bucket.server.credentials}\n"
        f"[s3]\nbucket = {bucket.name}\nendpoint_url = {endpoint}\nregion = us-east-1\n"
        f"[content]\nhost = alpha\npack_size = 1 MiB\n[run]\nuploads = {UPLOADS}\ngive_up_after = 20 s\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "sysbackup", "run", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={
            "PATH": os.environ["PATH"],
            "SYSBACKUP_CONFIG_DIR": str(directory),
            "SYSBACKUP_CACHE_DIR": str(base / "cache"),
            "SYSBACKUP_STATE_DIR": str(base / "state"),
        },
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def sent(proxy: Proxy, bucket: OnServer) -> "Counter[str]":
    """By key, the bytes of contents that were put."""
    found: Counter[str] = Counter()
    for head in proxy.heads:
        put = re.match(rf"PUT /{bucket.name}/((?:content|packs)/[0-9a-f]+) ", head)
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        if put and length:
            found[put[1]] += int(length[1])
    return found


def confirmed(base: Path) -> set[str]:
    """The keys that the catalog knows."""
    with closing(sqlite3.connect(catalog_path(base / "cache"))) as db:
        return {key for (key,) in db.execute("SELECT key FROM objects")}


def test_what_was_confirmed_is_not_sent_twice(bucket: OnServer, tree: Path, tmp_path: Path) -> None:
    """kill -9 during a large first backup, twice; then all is there, and no more was sent than once and a bit."""
    base = tmp_path / "machine"
    known: set[str] = set()
    with proxying(bucket.server.endpoint) as proxy:  # one for all runs: another address is another bucket
        for share in (0.2, 0.6):
            before = sent(proxy, bucket)
            with running(base, bucket, proxy.url, tree) as process:
                while len(known) + len(sent(proxy, bucket) - before) < share * 56:
                    assert process.poll() is None
                    time.sleep(0.01)
                os.killpg(process.pid, signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
            assert not known & {*(sent(proxy, bucket) - before)}
            assert len(confirmed(base)) > len(known)
            known = confirmed(base)
        before = sent(proxy, bucket)
        with running(base, bucket, proxy.url, tree) as process:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err.decode()
        total = sent(proxy, bucket)
        run = msgspec.json.decode(out)
        assert_restored(base, run["run"], tree, tmp_path)
    assert run["files"] == 4040
    assert not known & {*(total - before)}
    contents = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    # each time, what was on its way was lost, and the pack that was open; gzip's frames and lists are the 2 %
    assert contents <= total.total() < contents * 1.02 + 2 * (UPLOADS + 1) * 1.1 * MIB


def assert_restored(base: Path, run: str, tree: Path, target: Path) -> None:
    """The run restores to what is in the tree."""
    command = [sys.executable, "-m", "sysbackup", "restore", run, "--target", str(target / "out")]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], "SYSBACKUP_CONFIG_DIR": str(base / "conf.d")},
    )
    assert done.returncode == 0, done.stderr.decode()
    back = Path(f"{target / 'out'}{tree}")
    for path in tree.rglob("*"):
        if path.is_file():
            assert (back / path.relative_to(tree)).read_bytes() == path.read_bytes()
