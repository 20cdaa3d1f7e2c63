"""One file of a backup on standard output: right, or an error, or without its end."""

import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from sysbackup.api import restorer
from sysbackup.cli.main import invoke
from sysbackup.config.sections import Config
from sysbackup.errors import FormatError
from sysbackup.formats import gzipping
from sysbackup.formats.manifest import Fifo, File
from sysbackup.model import Location
from sysbackup.recovery import single_files
from sysbackup.store.port import ObjectStore
from tests.support.garbling import GarblingStore
from tests.support.recovering import RUN, Backup

MIB = 1 << 20
LARGE = bytes(range(256)) * (40 << 10)


@pytest.fixture
def backup() -> Backup:
    made = Backup()
    made.directory(b"/etc")
    made.file(b"/etc/hosts", b"127.0.0.1\n")
    made.file(b"/etc/empty")
    made.file(b"/etc/caf\xe9", b"its bytes are not UTF-8\n")
    made.link(b"/etc/link", b"hosts")
    made.entries.append(Fifo(path="/etc/pipe"))
    made.file(b"/etc/large", LARGE)
    return made


@pytest.fixture
def command(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Command":
    (tmp_path / "conf").write_text("[s3]\nbucket = test\n")

    @asynccontextmanager
    async def opened(_: Config) -> AsyncIterator[ObjectStore]:
        yield backup.store

    monkeypatch.setattr(restorer, "open_store", opened)
    return Command(backup, tmp_path)


class Command:
    """`sysbackup cat RUN` of a path; its status."""

    def __init__(self, backup: Backup, directory: Path) -> None:
        self.backup = backup
        self._directory = directory

    def __call__(self, path: bytes, *more: str) -> int:
        self.backup.stored()
        return invoke(
            ["--config-dir", str(self._directory), "cat", RUN, path.decode("utf-8", "surrogateescape"), *more]
        )


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (b"/etc/hosts", b"127.0.0.1\n"),
        (b"/etc/empty", b""),
        (b"/etc/caf\xe9", b"its bytes are not UTF-8\n"),
        (b"/etc/large", LARGE),
    ],
)
def test_its_bytes_and_nothing_else(
    command: Command, path: bytes, content: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Small or large, empty, of any name."""
    assert command(path) == 0
    assert capfdbinary.readouterr() == (content, b"")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (b"/etc/host", "holds no file /etc/host"),
        (b"/etc", "a directory"),
        (b"/etc/link", "a symbolic link to hosts"),
        (b"/etc/pipe", "a FIFO"),
    ],
)
def test_what_is_no_file(command: Command, path: bytes, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It is told what there is instead; nothing is followed, for a link may lead out of the backup."""
    assert command(path) == 1
    out, err = capfd.readouterr()
    assert not out
    assert said in err


def test_relative_paths_and_terminals(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A backup holds whole paths; what a file holds may be orders to a terminal."""
    assert command(b"etc/hosts") == 2
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        assert command(b"/etc/hosts") == 2
        assert "--force" in capfd.readouterr().err
        assert command(b"/etc/hosts", "--force") == 0
    assert capfd.readouterr().out == "127.0.0.1\n"


def test_a_small_file_that_is_damaged(
    command: Command, backup: Backup, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Nothing of it comes out."""
    backup.pack()
    (pack,) = (key for key in backup.bucket.objects if key.startswith("packs/"))
    kept = backup.bucket.objects[pack][0]
    kept.body = kept.body[:14] + bytes([kept.body[14] ^ 1]) + kept.body[15:]
    assert command(b"/etc/hosts") == 1
    out, err = capfdbinary.readouterr()
    assert not out
    assert pack.encode() in err


def test_a_large_file_that_is_damaged(
    command: Command, backup: Backup, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Its last bytes are held back, and it is said what to do with the others."""
    (key,) = (key for key in backup.bucket.objects if key.startswith("content/"))
    kept = backup.bucket.objects[key][0]
    kept.body = kept.body[:-6] + bytes([kept.body[-6] ^ 1]) + kept.body[-5:]
    assert command(b"/etc/large") == 1
    out, err = capfdbinary.readouterr()
    assert len(out) < len(LARGE)
    assert LARGE.startswith(out)
    assert b"held back" in err


async def content(store: ObjectStore, file: File) -> bytes:
    return b"".join([piece async for piece in single_files.content(store, file)])


def test_bytes_that_came_damaged(backup: Backup) -> None:
    """A small file is read again before it is called damaged."""
    backup.stored()
    (file,) = (e for e in backup.entries if isinstance(e, File) and e.path == "/etc/hosts")
    assert uvloop.run(content(GarblingStore(backup.bucket, "packs/"), file)) == b"127.0.0.1\n"


@pytest.mark.parametrize("size", [100, 10 * MIB])
@pytest.mark.parametrize("said", ["gzip", None])
def test_what_is_said_of_an_encoding_may_be_false(backup: Backup, said: str | None, size: int) -> None:
    """Of what s3-sysbackup 0.2.0 stored it is not always true: the bytes decide, also where a gzip file was stored."""
    file = gzipping.stored(bytes(size))
    kept = backup.bucket.add("content/" + "1" * 64, file)
    entry = File(path="/x.gz", size=len(file), sha=hashlib.sha256(file).hexdigest())
    entry.place(Location(kept.key, kept.version))
    assert uvloop.run(content(backup.store, entry)) == file
    plain = hashlib.shake_256(b"noise").digest(size)
    kept = backup.bucket.add("content/" + "0" * 64, plain if said else gzipping.compress(plain))
    entry = File(path="/x", size=size, sha=hashlib.sha256(plain).hexdigest())
    entry.place(Location(kept.key, kept.version, encoding=said))
    assert uvloop.run(content(backup.store, entry)) == plain


@pytest.mark.parametrize(
    "more", [{"key": "a\0b"}, {"sha": "zz"}, {"size": -1}, {"size": 1 << 80}, {"encoding": "zstd"}, {"offset": 3}]
)
def test_entries_that_make_no_sense(backup: Backup, more: dict[str, object]) -> None:
    """They are refused before anything is read."""
    said: dict[str, object] = {"path": "/x", "size": 3, "sha": "0" * 64, "key": "content/x"} | more
    with pytest.raises(FormatError, match="/x"):
        uvloop.run(content(backup.store, File(**said)))  # type: ignore[arg-type]
    assert not backup.store.requests.by_kind
