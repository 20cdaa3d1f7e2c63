"""Large files: read piece by piece, and what becomes of those that change meanwhile."""

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sysbackup.files.folders import Folders
from sysbackup.files.large import LargeFile
from sysbackup.files.reading import Patience, Replaced

MIB = 1 << 20
BODY = random.Random(7).randbytes(3 * MIB + 12_345)


def _patience(seconds: float = 0.0) -> Patience:
    return Patience(seconds, threading.Event())


@contextmanager
def opened(path: Path) -> Iterator[LargeFile]:
    """The file, opened where a run would find it."""
    with Folders() as folders, LargeFile() as file:
        file.open(folders.find(bytes(path)), _patience())
        yield file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not end where a read does."""
    path = tmp_path / "large"
    path.write_bytes(BODY)
    return path


def _piece(file: LargeFile) -> bytes:
    buffer = bytearray(MIB)
    return bytes(buffer[: file.read(memoryview(buffer))])


def _read(file: LargeFile) -> bytes:
    return b"".join(iter(lambda: _piece(file), b""))


def _agrees(file: LargeFile, step: int = MIB) -> bool:
    """Whether a second reading sees what was read first."""
    while file.read_again(step):
        pass
    return file.agrees(hashlib.sha256(BODY).digest())


def test_it_is_read_in_pieces(path: Path) -> None:
    """Of the buffer's length, but for the last; its end stays the end until it grows."""
    with opened(path) as file:
        assert [len(_piece(file)) for _ in range(5)] == [MIB, MIB, MIB, 12_345, 0]
        assert not _piece(file)
        assert file.steady
    with opened(path) as file:
        assert _read(file) == BODY


@pytest.mark.parametrize("step", [1000, MIB - 1, MIB, 100 * MIB])
def test_of_a_file_that_grows_the_beginning_is_as_it_was(path: Path, step: int) -> None:
    """A log that is written to: a second reading, in steps of any length, goes as far as the first."""
    with opened(path) as file:
        assert _read(file) == BODY
        with path.open("ab") as log:
            log.write(b"one more line\n")
        assert not file.steady
        assert _agrees(file, step)


@pytest.mark.parametrize("change", ["rewritten", "shorter", "emptied"])
def test_another_content_at_the_second_reading_is_noticed(path: Path, change: str) -> None:
    """What was read was never in the file at one time."""
    with opened(path) as file:
        assert _read(file) == BODY
        with path.open("r+b") as writer:
            if change == "rewritten":
                writer.seek(2 * MIB)
                writer.write(b"other bytes")
            else:
                writer.truncate(2 * MIB if change == "shorter" else 0)
        assert not _agrees(file)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    """What has taken the file's place since it was looked at: a link is not followed, a FIFO does not block."""
    path = tmp_path / "large"
    if kind == "link":
        (tmp_path / "other").write_bytes(BODY)
        path.symlink_to(tmp_path / "other")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises((Replaced, OSError)) as caught, opened(path):
        pytest.fail("it was opened")
    if kind == "link":
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.ELOOP
    else:
        assert isinstance(caught.value, Replaced)


def test_a_file_that_is_replaced_while_it_is_opened_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at it and the open another file takes its name."""
    look = os.stat

    def late(*args: object, **kwargs: object) -> os.stat_result:
        status = look(*args, **kwargs)  # type: ignore[arg-type]
        with contextlib.suppress(FileNotFoundError):
            (path.parent / "other").rename(path)
        return status

    (path.parent / "other").write_bytes(b"other")
    monkeypatch.setattr(os, "stat", late)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Replaced, match="replaced by another file"), opened(path):
        pytest.fail("it was opened")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_writer_who_locks_it_is_respected_as_long_as_there_is_patience(path: Path) -> None:
    """Then it is read all the same, and `locked` says that it was not."""
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with opened(path) as file:
            assert not file.locked
            assert _read(file) == BODY
    with opened(path) as file:
        assert file.locked
        with path.open("rb") as writer, pytest.raises(BlockingIOError):
            fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_leaving_closes_it(path: Path) -> None:
    """Whatever came of it."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyError), opened(path):
        raise KeyError
    assert len(os.listdir("/proc/self/fd")) == before
