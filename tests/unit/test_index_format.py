"""The index: what a run tells the others, read back, and whatever else somebody may have put there."""

import gzip
import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sysbackup.errors import FormatError
from sysbackup.formats import index, keys
from sysbackup.formats.index import Indexed
from sysbackup.model import Lock, LockMode, Member, Span, StoredObject

START = datetime(2026, 1, 1, tzinfo=UTC)
HASHES = st.binary(min_size=32, max_size=32)
LOCKS = st.builds(
    Lock,
    st.sampled_from([*LockMode]),
    st.integers(-(10**6), 10**9).map(lambda seconds: START + timedelta(seconds=seconds)),
)
VERSIONS = st.none() | st.text("abcXYZ019._~+/=-", min_size=1, max_size=40)
TELLERS = st.none() | st.text("abcXYZ019._-", min_size=1, max_size=10)

unhurried = settings(deadline=None)  # the machine may be busy with other things


@st.composite
def packs(draw: st.DrawFn) -> Indexed:
    contents, at = [], 0
    for sha in draw(st.lists(HASHES, max_size=5)):
        at += draw(st.integers(0, 9))
        length = draw(st.integers(18, 10**7))
        contents.append(Member(sha, draw(st.integers(0, 10**7)), Span(at, length)))
        at += length
    size = at + draw(st.integers(0, 100))
    stored = StoredObject(keys.pack_key(draw(HASHES)), draw(VERSIONS), size, draw(LOCKS))
    return Indexed(stored, "gzip", tuple(contents), draw(TELLERS))


@st.composite
def alone(draw: st.DrawFn) -> Indexed:
    sha = draw(HASHES)
    stored = StoredObject(keys.content_key(sha), draw(VERSIONS), draw(st.integers(0, 50 * 10**12)), draw(LOCKS))
    size = draw(st.integers(-1, 50 * 10**12))
    return Indexed(stored, draw(st.sampled_from([None, "gzip"])), (Member(sha, size),), draw(TELLERS))


def written(objects: Iterable[Indexed]) -> bytes:
    """An index with these objects, before it is compressed."""
    lines = (index.line(o.stored, o.encoding, o.contents, o.teller) for o in objects)
    return index.header("alpha", "20261123T041500Z-3fa9") + b"".join(lines)


def read(packed: bytes, step: int = 1 << 16) -> list[Indexed]:
    """All of an index, fed in pieces."""
    reader = index.IndexReader()
    found = [o for at in range(0, len(packed), step) for o in reader.feed(packed[at : at + step])]
    reader.finish()
    return found


@unhurried
@given(objects=st.lists(packs() | alone(), max_size=6), step=st.integers(1, 500))
def test_what_was_written_is_read(objects: list[Indexed], step: int) -> None:
    """Keys, versions, locks to the second, encodings, and where each content lies, in whatever pieces it comes."""
    assert read(gzip.compress(written(objects)), step) == objects


@unhurried
@given(rubbish=st.binary(max_size=300), compressed=st.booleans(), begun=st.booleans())
@example(rubbish=b"[" * 200_000, compressed=True, begun=True)
@example(rubbish=b'{"typ":"o","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", compressed=True, begun=True)
@example(rubbish=b"\n", compressed=True, begun=True)
@example(rubbish=b"\xff\n", compressed=True, begun=True)
@example(rubbish=b'{"typ":"o","key":"x","sz":1,"mode":"none","until":1}\n', compressed=True, begun=True)
def test_rubbish_is_refused_in_one_way(rubbish: bytes, compressed: bool, begun: bool) -> None:
    """Whatever lies there instead of an index, the answer is `FormatError`, or it was an empty one."""
    body = (written([]) if begun else b"") + rubbish
    try:
        assert read(gzip.compress(body) if compressed else body) == []
    except FormatError:
        return
    assert not rubbish


@unhurried
@given(objects=st.lists(packs() | alone(), min_size=1, max_size=3), data=st.data())
def test_a_tampered_index_is_refused_or_possible(objects: list[Indexed], data: st.DataObject) -> None:
    """Bytes changed at random: what gets through names our own kinds of keys, and places that can be."""
    body = bytearray(written(objects))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.sampled_from(list(b'0123456789-eE"[]{},:abcdef/. ')))
    try:
        found = read(gzip.compress(bytes(body)))
    except FormatError:
        return
    for one in found:
        sha, stored = keys.content_sha(one.stored.key), one.stored
        assert sha is not None or keys.pack_sha(stored.key) is not None
        assert 0 <= stored.size <= 50 * 10**12
        assert stored.lock.until.year < 2200
        for content in one.contents:
            assert len(content.sha) == 32
            assert content.size >= -1
            if sha is not None:
                assert (content.sha, content.span) == (sha, None)
            else:
                assert content.span is not None
                assert 0 <= content.span.offset < content.span.end <= stored.size


@unhurried
@given(objects=st.lists(packs(), min_size=1, max_size=3), data=st.data())
def test_an_index_cut_short_is_noticed(objects: list[Indexed], data: st.DataObject) -> None:
    """At every byte, although what came before it has been told already."""
    packed = gzip.compress(written(objects))
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(FormatError):
        read(packed[:cut])


def test_a_bomb_costs_no_memory() -> None:
    """A line of a gigabyte that came in a megabyte is given up as soon as it is longer than any object's can be."""
    bomb = gzip.compress(written([]) + b'{"typ":"o","key":"' + b"x" * (300 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="longer"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_many_objects_in_few_bytes_come_one_by_one() -> None:
    """Thousands of lines that came in one small piece are handed out as they are asked for."""
    one = Indexed(StoredObject(keys.pack_key(bytes(32)), "v", 100, Lock(LockMode.GOVERNANCE, START)), "gzip", ())
    line = index.line(one.stored, one.encoding, one.contents)
    packed = gzip.compress(index.header("alpha", "x") + line * 50_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in index.IndexReader().feed(packed)) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
