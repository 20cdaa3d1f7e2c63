"""Files that are written whole or not at all."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sysbackup.disk.replacing import replacing

ALONE = pytest.mark.parametrize("alone", [True, False])


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file takes more than so many bytes (setrlimit(2)): the kernel refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@ALONE
@pytest.mark.parametrize("durable", [True, False])
def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path, alone: bool, durable: bool) -> None:
    """Whoever reads while it is written sees the old one; afterwards the new one, and nothing else beside it."""
    path = tmp_path / "status.json"
    path.write_bytes(b"old")
    with replacing(path, 0o640, durable=durable, alone=alone) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["status.json"]


@ALONE
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, alone: bool) -> None:
    """What was written until then is gone."""
    path = tmp_path / "status.json"
    path.write_bytes(b"old")
    interrupted = pytest.raises(KeyboardInterrupt)
    with interrupted, replacing(path, 0o640, alone=alone) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["status.json"]


@ALONE
@pytest.mark.parametrize("size", [1000, 1 << 20])  # one waits in a buffer until the end, one does not
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, alone: bool, size: int) -> None:
    """Also where the error comes only when the last bytes leave their buffer."""
    path = tmp_path / "status.json"
    path.write_bytes(b"old")
    with full_disk(100), pytest.raises(OSError) as caught, replacing(path, 0o640, alone=alone) as file:  # noqa: PT011 - its number is looked at
        file.write(bytes(size))
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_what_cannot_be_replaced_is_not_harmed(tmp_path: Path) -> None:
    """A directory of that name stays, and no garbage beside it."""
    path = tmp_path / "status.json"
    path.mkdir()
    with pytest.raises(IsADirectoryError), replacing(path, 0o640) as file:
        file.write(b"new")
    assert path.is_dir()
    assert os.listdir(tmp_path) == ["status.json"]


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    """However often it is killed while it writes, one leftover is the most there is."""
    path = tmp_path / "status.json"
    die = (
        "import os, pathlib, signal, sys; from sysbackup.disk.replacing import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1]), 0o640) as file:\n"
        "    file.write(b'x' * 100_000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", die, str(path)], check=False)
        assert len(os.listdir(tmp_path)) == 1
        assert not path.exists()
    with replacing(path, 0o640) as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["status.json"]
    assert path.read_bytes() == b"new"


@ALONE
def test_nobody_is_written_to_through_a_link(tmp_path: Path, alone: bool) -> None:
    """Neither through one that somebody left where the new file is made, nor through one that has the name itself."""
    victim, path = tmp_path / "victim", tmp_path / "place" / "status.json"
    victim.write_bytes(b"theirs")
    path.parent.mkdir()
    path.symlink_to(victim)
    (path.parent / ".status.json.new").symlink_to(victim)
    with replacing(path, 0o640, alone=alone) as file:
        file.write(b"new")
    assert victim.read_bytes() == b"theirs"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()


def test_two_who_write_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    """Each writes a file of its own; the one that ends last has the name."""
    path = tmp_path / "node.prom"
    with replacing(path, 0o600, alone=False) as first:
        with replacing(path, 0o600, alone=False) as second:
            first.write(b"first")
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["node.prom"]


def test_the_mode_is_what_was_asked_for_without_what_the_umask_takes(tmp_path: Path) -> None:
    """As open(2) has it."""
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file", 0o644) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@ALONE
def test_the_longest_name_that_there_can_be_is_replaced(tmp_path: Path, alone: bool) -> None:
    """The new file's own name is cut to what a name may have, also where a character takes several bytes."""
    path = tmp_path / ("ä" * 127)
    with replacing(path, 0o600, alone=alone) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
