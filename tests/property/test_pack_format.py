"""Packs hold any contents; no damage to one makes a wrong content pass for a right one."""

import gzip
import hashlib
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, pack
from sysbackup.formats.gzipping import Inflater
from sysbackup.formats.pack import Pack
from sysbackup.model import Member, Span
from tests.support.packs import pack_writer

unhurried = settings(deadline=None)  # the machine may be busy with other things

contents = st.one_of(
    st.binary(),
    st.binary(min_size=1, max_size=50).flatmap(lambda part: st.integers(1, 2000).map(lambda times: part * times)),
    st.integers(65_530, 65_540).map(lambda size: hashlib.shake_256(b"%d" % size).digest(size)),
)
some = st.lists(contents, min_size=1, max_size=8, unique=True)


def _packed(held: list[bytes]) -> Pack:
    writer = pack_writer()
    for content in held:
        writer.add(hashlib.sha256(content).digest(), gzipping.member(content), len(content))
    return writer.finish()


def _span(place: Member) -> Span:
    assert place.span is not None
    return place.span


def _taken(body: memoryview, place: Member) -> bytes | None:
    """A content of a pack as a restore takes it: None where it is damaged."""
    try:
        content = gzipping.inflate(body[_span(place).offset : _span(place).end], place.size)
    except FormatError:
        return None
    return content if hashlib.sha256(content).digest() == place.sha else None


@unhurried
@given(some)
def test_any_contents_come_back(held: list[bytes]) -> None:
    """Each content comes back from its byte range, and the list read from the pack itself names the same places."""
    made = _packed(held)
    assert [_taken(made.body, place) for place in made.contents] == held
    assert pack.read_index(bytes(made.body[made.index :]), made.index) == list(made.contents)
    assert made.sha == hashlib.sha256(made.body).digest()


@unhurried
@given(some)
def test_any_gzip_reads_a_pack(held: list[bytes]) -> None:
    """A whole pack, and each byte range of it, is gzip for everybody."""
    made = _packed(held)
    assert gzip.decompress(made.body[: made.index]) == b"".join(held)
    for place, content in zip(made.contents, held, strict=True):
        assert gzip.decompress(made.body[_span(place).offset : _span(place).end]) == content


@unhurried
@given(some)
def test_packs_are_equal_for_equal_contents(held: list[bytes]) -> None:
    """The same contents in the same order are the same object."""
    assert _packed(held).body == _packed(held).body


@unhurried
@given(some, st.data())
def test_flipped_byte(held: list[bytes], data: st.DataObject) -> None:
    """A byte changed anywhere costs at most the content it lies in; it never yields another content."""
    made = _packed(held)
    at = data.draw(st.integers(0, len(made.body) - 1))
    made.body[at] ^= data.draw(st.integers(1, 255))
    for place, content in zip(made.contents, held, strict=True):
        taken = _taken(made.body, place)
        if _span(place).offset <= at < _span(place).end:
            assert taken in (None, content)
        else:
            assert taken == content


@unhurried
@given(some, st.data())
def test_flipped_byte_in_the_list(held: list[bytes], data: st.DataObject) -> None:
    """A list with a byte changed is refused, or (in gzip's header) is the very same."""
    made = _packed(held)
    at = data.draw(st.integers(made.index, len(made.body) - 1))
    made.body[at] ^= data.draw(st.integers(1, 255))
    try:
        found = pack.read_index(bytes(made.body[made.index :]), made.index)
    except FormatError:
        return
    assert found == list(made.contents)


@unhurried
@given(some, st.data())
def test_truncated_pack(held: list[bytes], data: st.DataObject) -> None:
    """Of a pack cut short the contents before the cut come back, the others are damaged, and the list is refused."""
    made = _packed(held)
    cut = data.draw(st.integers(0, len(made.body) - 1))
    body = made.body[:cut]
    for place, content in zip(made.contents, held, strict=True):
        assert _taken(body, place) == (content if _span(place).end <= cut else None)
    with pytest.raises(FormatError):
        pack.read_index(bytes(body[made.index :]), made.index)


@unhurried
@given(st.binary(), st.integers(0, 1000))
@example(b"", 0)
@example(gzip.compress(b'["00",0,18,0]\n'), 18)
@example(gzip.compress(b'["' + b"00" * 32 + b'",0,18,0]\n["' + b"00" * 32 + b'",5,18,0]\n'), 100)
@example(gzip.compress(b'["' + b"00" * 32 + b'",90,18,0]\n'), 100)
@example(gzip.compress(b'["' + b"00" * 32 + b'",0,18,-1]\n'), 100)
@example(gzip.compress(b"[]\n"), 100)
def test_any_bytes_are_no_list(packed: bytes, index: int) -> None:
    """Bytes that are no list, and lists of places that cannot be, are refused with the one error there is."""
    with pytest.raises(FormatError):
        pack.read_index(packed, index)


@unhurried
@given(contents, st.integers(-3, 3))
def test_size_must_be_right(content: bytes, wrong: int) -> None:
    """A member is taken apart only if it has the very size that is expected."""
    size = len(content) + wrong
    if size < 0:
        return
    for made in (gzipping.member(content), gzipping.stored(content), gzipping.compress(content)):
        if wrong:
            with pytest.raises(FormatError):
                gzipping.inflate(made, size)
        else:
            assert gzipping.inflate(made, size) == content


@pytest.mark.parametrize("size", [0, 1, 96, 97, 65_535, 65_536, 131_070, 131_071])
def test_what_gzip_would_not_make_smaller_is_stored_in_blocks(size: int) -> None:
    """As zlib reads them; any others it refuses. The smallest contents are not tried at all."""
    content = random.Random(size).randbytes(size)
    blocks = max(1, -(-size // 65_535))
    made = gzipping.stored(content)
    assert len(made) == size + 18 + 5 * blocks
    assert gzip.decompress(made) == content
    assert gzipping.member(content) == made
    assert (gzipping.member(bytes(size)) == gzipping.stored(bytes(size))) is (size <= 96)


@unhurried
@given(contents, st.binary(min_size=1))
def test_nothing_may_follow_a_member(content: bytes, more: bytes) -> None:
    """A member followed by anything is not the content's."""
    with pytest.raises(FormatError):
        gzipping.inflate(gzipping.member(content) + more, len(content))


@unhurried
@given(some, st.lists(st.integers(1, 300)), st.integers(50, 5000))
def test_stream_of_members(held: list[bytes], cuts: list[int], step: int) -> None:
    """Members in a row are one stream however they arrive, given out in pieces no larger than asked for."""
    stream = b"".join(gzipping.member(content) for content in held)
    inflater = Inflater(step)
    found = []
    for cut in cuts:
        found += list(inflater.feed(stream[:cut]))
        stream = stream[cut:]
    found += list(inflater.feed(stream))
    inflater.close()
    assert b"".join(found) == b"".join(held)
    assert all(len(piece) <= step for piece in found)


@unhurried
@given(contents, st.data())
def test_stream_cut_short(content: bytes, data: st.DataObject) -> None:
    """A stream that ends inside a member is refused in the end."""
    stream = gzipping.member(content)
    inflater = Inflater()
    for _ in inflater.feed(stream[: data.draw(st.integers(0, len(stream) - 1))]):
        pass
    with pytest.raises(FormatError):
        inflater.close()
