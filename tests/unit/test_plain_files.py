"""What is encoded without a detour is, to the letter, what the long way gives."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysbackup.files.nodes import bare
from sysbackup.files.owners import Owners
from sysbackup.formats import manifest
from sysbackup.model import Location, Span
from sysbackup.pipeline.entries import PlainFiles, line_in, noted, spooled
from sysbackup.pipeline.file_facts import describe_file

SHA = hashlib.sha256(b"any").digest()
OWNERS = Owners()
PLAIN = PlainFiles(OWNERS)


def status(mode: int, uid: int, gid: int, size: int, mtime: int, links: int = 1) -> os.stat_result:
    """A status as os.stat gives it, times in nanoseconds among it."""
    numbers = (stat.S_IFREG | mode, 7, 8, links, uid, gid, size, 0, 0, 0)
    return os.stat_result((*numbers, 0.0, 0.0, 0.0, 0, mtime, 0))


@settings(deadline=None, max_examples=60)
@given(
    st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name) | st.text(min_size=1).map(os.fsencode),
    st.integers(0, 0o7777),
    st.sampled_from([0, 1, 1000, 2**32 - 2]),
    st.sampled_from([0, 5, 54321]),
    st.sampled_from([0, 1, 2**40]),
    st.integers(-(2**62), 2**62) | st.sampled_from([-1, 0]),
    st.booleans(),
)
def test_both_ways_give_the_same(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, unchanged: bool
) -> None:
    path, looks = b"/" + name, status(mode, uid, gid, size, mtime)
    assert looks.st_mtime_ns == mtime
    entry = bare(path, looks, OWNERS)
    assert isinstance(entry, manifest.File)
    describe_file(entry, looks, size, SHA, ())
    directory = os.stat_result((stat.S_IFDIR | mode, *looks[1:10], 0.0, 0.0, 0.0, 0, mtime, 0))
    quick_one = PLAIN.directory(path, directory, 3)
    assert quick_one is None or quick_one == spooled(path, bare(path, directory, OWNERS, manifest.Directory), 3)
    quick = PLAIN.spooled(path, looks, SHA, 3, unchanged=unchanged)
    assert quick is None or quick == spooled(path, entry, 3, unchanged=unchanged)
    try:
        path.decode()
    except UnicodeDecodeError:
        assert quick is quick_one is None
    else:
        assert (quick is not None and quick_one is not None) or mtime == -1


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("span", [None, Span(5, 7)])
@pytest.mark.parametrize("version", [None, "v"])
def test_a_place_that_is_known_ends_the_line(version: str | None, span: Span | None, encoding: str | None) -> None:
    """As if it had been put there later; how much of the line it is can be told."""
    path, looks = b"/a", status(0o644, 0, 0, 9, 1)
    at = Location('a "key"', version, span, encoding)
    without, known = PLAIN.spooled(path, looks, SHA, 3), PLAIN.spooled(path, looks, SHA, 3, at=at)
    assert without is not None
    assert known is not None
    head, line = noted(known[1]), line_in(known[1])
    assert head._replace(told=0) == noted(without[1])
    assert head.told > 0
    assert line[: -1 - head.told] + b"}" == line_in(without[1])
    entry = manifest.decode(line)
    assert isinstance(entry, manifest.File)
    assert entry.location == at
    nothing = status(0o644, 0, 0, 0, 1)
    assert PLAIN.spooled(path, nothing, SHA, 3, at=at) == PLAIN.spooled(path, nothing, SHA, 3)


def test_a_hard_link_takes_the_long_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("any")
    os.link(tmp_path / "a", tmp_path / "b")
    assert PLAIN.spooled(bytes(tmp_path / "a"), os.stat(tmp_path / "a"), SHA, 1) is None
