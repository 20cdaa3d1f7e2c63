"""Large files: read twice, and what becomes of those that change meanwhile."""

import contextlib
import errno
import fcntl
import gzip
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
from sysbackup.formats import encodings

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


def _hashed(file: LargeFile, step: int = MIB) -> None:
    while file.hash_on(step):
        pass


def _taken(file: LargeFile, size: int) -> Iterator[bytes]:
    while piece := bytes(file.take(size)):
        yield piece


@pytest.mark.parametrize("step", [1, MIB - 1, MIB, 100 * MIB])
def test_the_first_reading_sees_all_of_it(path: Path, step: int) -> None:
    """In steps of any length; size and hash are those of the content."""
    with opened(path) as file:
        _hashed(file, step)
        assert (file.size, file.sha) == (len(BODY), hashlib.sha256(BODY).digest())
        assert file.position == len(BODY)
        assert file.steady


@pytest.mark.parametrize("size", [100_000, MIB, 8 * MIB])
@pytest.mark.parametrize("compress", [False, True])
def test_the_second_reading_gives_pieces_of_one_size(path: Path, size: int, compress: bool) -> None:
    """All but the last are as long as a part must be; together they are the content, or its gzip."""
    with opened(path) as file:
        _hashed(file)
        file.begin_again(encodings.GZIP if compress else encodings.PLAIN)
        pieces = list(_taken(file, size))
        assert {len(piece) for piece in pieces[:-1]} <= {size}
        body = b"".join(pieces)
        assert (gzip.decompress(body) if compress else body) == BODY
        assert file.agrees
        assert bytes(file.take(size)) == b""  # the end stays the end


def test_of_a_file_that_grows_the_beginning_is_kept(path: Path) -> None:
    """A log that is written to is stored as it was at the first reading."""
    with opened(path) as file:
        _hashed(file)
        with path.open("ab") as log:
            log.write(b"one more line\n")
        file.begin_again(encodings.PLAIN)
        assert b"".join(_taken(file, MIB)) == BODY
        assert file.agrees
        assert not file.steady


@pytest.mark.parametrize("change", ["rewritten", "shorter", "emptied"])
def test_another_content_at_the_second_reading_is_noticed(path: Path, change: str) -> None:
    """Nothing is stored under a hash that it does not have."""
    with opened(path) as file:
        _hashed(file)
        with path.open("r+b") as writer:
            if change == "rewritten":
                writer.seek(2 * MIB)
                writer.write(b"other bytes")
            else:
                writer.truncate(2 * MIB if change == "shorter" else 0)
        file.begin_again(encodings.PLAIN)
        body = b"".join(_taken(file, MIB))
        assert len(body) <= len(BODY)
        assert not file.agrees


def test_it_can_be_begun_again_any_number_of_times(path: Path) -> None:
    """A second reading that was broken off leaves nothing in the next."""
    with opened(path) as file:
        _hashed(file)
        file.begin_again(encodings.GZIP)
        file.take(100_000)
        file.begin_again(encodings.PLAIN)
        assert b"".join(_taken(file, MIB)) == BODY
        assert file.agrees


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
            _hashed(file)
            assert file.size == len(BODY)
    with opened(path) as file:
        assert file.locked
        with path.open("rb") as writer, pytest.raises(BlockingIOError):
            fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(("body", "pays"), [(bytes(4 * MIB), True), (BODY, False), (b"x" * 10, False)])
def test_samples_tell_whether_gzip_pays(path: Path, body: bytes, pays: bool) -> None:
    """Zeros shrink, what looks like chance does not, and of a few bytes there is nothing to gain."""
    path.write_bytes(body)
    with opened(path) as file:
        _hashed(file)
        assert file.encoding() is (encodings.GZIP if pays else encodings.PLAIN)
        file.begin_again(encodings.PLAIN)
        assert b"".join(_taken(file, MIB)) == body  # looking has moved nothing


def test_leaving_closes_it(path: Path) -> None:
    """Whatever came of it."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyError), opened(path):
        raise KeyError
    assert len(os.listdir("/proc/self/fd")) == before
