"""The script that README.rst gives for restores without sysbackup, as it stands there."""

import hashlib
import os
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sysbackup.formats import chunk_list, keys
from sysbackup.formats.manifest import Snapshot
from sysbackup.model import Location
from tests.support.chunking import cut, listed, packed
from tests.support.recovering import MOMENT, Backup

README = Path(__file__).parents[2] / "README.rst"
IMAGE = random.Random(4).randbytes(200_000) + bytes(300_000)

# get-object of a version of which the body lies in a file of that name
AWS = """\
#!/bin/sh
test "$1 $2 $3 $4 $5 $7" = "s3api get-object --bucket my-backups --key --version-id" && cp "$OBJECTS/$8" "$9"
"""


def script() -> str:
    """The one block of Python in that chapter."""
    chapter = README.read_text().split("\nRestoring by hand\n", 1)[1].split("\nWhat is in the bucket\n", 1)[0]
    (block,) = re.findall(r"\n\.\. code-block:: python\n\n((?:    .*\n|\n)+)", chapter)
    return textwrap.dedent(block)


@pytest.fixture
def backup() -> Backup:
    made = Backup()
    made.file(b"/etc/empty")
    made.file(b"/etc/hosts", b"127.0.0.1\n")
    made.file(b"/etc/more", b"in the same pack")
    made.file(b"/srv/large", b"a line of a log\n" * 100_000)
    chunks = packed(made.bucket, cut(IMAGE, 4096), 5)
    for levels in (1, 2, 3):
        kept = listed(made.bucket, keys.content_key(bytes([levels]) * 32), chunks, levels)
        entry = made.file(b"/srv/image%d" % levels, size=len(IMAGE), sha=hashlib.sha256(IMAGE).hexdigest())
        entry.place(Location(kept.key, kept.version, encoding=chunk_list.NAME))
    return made


def by_hand(backup: Backup, base: Path, wanted: str) -> "subprocess.CompletedProcess[str]":
    """Run it over the bucket."""
    (kept,) = backup.bucket.objects[backup.stored()]
    objects = base / "objects"
    objects.mkdir()
    for version in (version for versions in backup.bucket.objects.values() for version in versions):
        (objects / version.version).write_bytes(version.body)
    (base / "manifest.jsonl.gz").write_bytes(kept.body)
    (base / "aws").write_text(AWS)
    (base / "aws").chmod(0o755)
    (base / "by-hand.py").write_text(script())
    env = os.environ | {"PATH": f"{base}:{os.environ['PATH']}", "OBJECTS": str(objects)}
    argv = [sys.executable, "by-hand.py", "my-backups", "manifest.jsonl.gz", wanted, str(base / "back")]
    return subprocess.run(argv, cwd=base, env=env, capture_output=True, text=True, check=False)


def test_it_brings_everything_back(backup: Backup, tmp_path: Path) -> None:
    """From packs, from objects of their own, and from chunks."""
    done = by_hand(backup, tmp_path, "/")
    assert (done.returncode, done.stdout) == (0, "7 files\n"), done.stderr
    back = tmp_path / "back"
    assert (back / "etc/empty").read_bytes() == b""
    assert (back / "etc/hosts").read_bytes() == b"127.0.0.1\n"
    assert (back / "etc/more").read_bytes() == b"in the same pack"
    assert (back / "srv/large").read_bytes() == b"a line of a log\n" * 100_000
    assert {(back / f"srv/image{levels}").read_bytes() for levels in (1, 2, 3)} == {IMAGE}


def test_it_keeps_nothing_that_is_damaged(backup: Backup, tmp_path: Path) -> None:
    """Neither a chunk that is another one's, nor a content."""
    key = next(key for key in backup.bucket.objects if key.startswith("content/01"))
    kept = backup.bucket.objects[key][0]
    kept.body = listed(backup.bucket, "content/x", []).body
    (tmp_path / "back/srv").mkdir(parents=True)
    (tmp_path / "back/srv/image1").write_bytes(b"what was there")
    done = by_hand(backup, tmp_path, "/srv/image1")
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert (tmp_path / "back/srv/image1").read_bytes() == b"what was there"


def test_snapshots_come_too(backup: Backup, tmp_path: Path) -> None:
    """As they were written, or in chunks."""
    for name, kept, encoding in (
        ("plain", backup.bucket.add("snapshots/alpha/plain", IMAGE), None),
        ("cut", listed(backup.bucket, "snapshots/alpha/cut", packed(backup.bucket, cut(IMAGE, 4096), 5)), "chunks"),
    ):
        sha = hashlib.sha256(IMAGE).hexdigest()
        made = Snapshot(
            name=name, key=kept.key, version=kept.version, encoding=encoding, size=len(IMAGE), sha=sha,
            started=MOMENT, finished=MOMENT,
        )  # fmt: skip
        backup.entries.append(made)
    assert by_hand(backup, tmp_path, "/snapshots/").stdout == "2 files\n"
    assert {(tmp_path / "back/snapshots" / name).read_bytes() for name in ("plain", "cut")} == {IMAGE}


def test_it_takes_what_lies_beneath_a_path_alone(backup: Backup, tmp_path: Path) -> None:
    """As it is asked to."""
    assert by_hand(backup, tmp_path, "/etc/").stdout == "3 files\n"
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["empty", "etc", "hosts", "more"]
