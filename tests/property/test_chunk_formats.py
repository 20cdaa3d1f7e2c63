"""Lists of chunks and stream packs: what was written is read, nothing else passes, and cuts depend on bytes alone."""

import gzip
import hashlib
import random
from collections.abc import Iterator
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sysbackup.contents import cutting
from sysbackup.contents.cutting import Cutter
from sysbackup.errors import FormatError
from sysbackup.formats import chunk_list, keys, pack, stream_pack
from sysbackup.formats.chunk_list import Chunk, ChunkListReader, ChunkListWriter
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.stream_pack import StreamPackWriter
from sysbackup.model import Location, Span

unhurried = settings(deadline=None)  # the machine may be busy with other things

spans = st.none() | st.builds(Span, st.integers(0, 1 << 40), st.integers(18, 4096))
locations = st.builds(
    Location,
    st.sampled_from([keys.stream_pack_key(bytes(16)), keys.content_key(bytes(32))]),
    st.sampled_from([None, "v1", "v2"]),
    spans,
    st.sampled_from([None, "gzip"]),
).map(lambda at: at if at.span is None else at._replace(encoding="gzip"))
lists = st.lists(st.builds(Chunk, st.binary(min_size=32, max_size=32), st.integers(1, 1 << 22), locations), max_size=30)


def written(chunks: list[Chunk], levels: int = 1) -> bytes:
    """A list of these chunks."""
    writer = ChunkListWriter(sum(chunk.size for chunk in chunks), levels)
    return b"".join([*map(writer.add, chunks), writer.end()])


def read(packed: bytes, step: int = 1 << 20) -> tuple[list[Chunk], ChunkListReader]:
    """The chunks of a list that comes in pieces."""
    reader = ChunkListReader()
    chunks = [chunk for at in range(0, len(packed), step) for chunk in reader.feed(packed[at : at + step])]
    reader.finish()
    return chunks, reader


# ---- lists of chunks


@unhurried
@given(lists, st.integers(1, 3), st.integers(1, 200))
def test_what_was_written_is_read(chunks: list[Chunk], levels: int, step: int) -> None:
    """In whatever pieces it comes; equal chunks in equal places make equal bytes."""
    packed = written(chunks, levels)
    found, reader = read(packed, step)
    assert found == chunks
    assert (reader.levels, reader.promised) == (levels, sum(chunk.size for chunk in chunks))
    assert written(chunks, levels) == packed


@unhurried
@given(lists, st.data())
def test_a_damaged_list_is_refused(chunks: list[Chunk], data: st.DataObject) -> None:
    """A byte changed or a tail cut off: an error, or (in gzip's header) the very same."""
    packed = bytearray(written(chunks))
    at = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(FormatError):
        read(bytes(packed[:at]))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        found, _ = read(bytes(packed))
    except FormatError:
        return
    assert found == chunks


_SHA = "00" * 32
_HEAD = '{"typ":"chunks","format":1,"sz":5}\n'
_NAMED = '{"typ":"o","dat":"packs/' + _SHA + '","enc":"gzip"}\n'
_BEGIN = _HEAD + _NAMED
_END = '{"typ":"end","chunks":1}\n'


def test_a_list_by_hand() -> None:
    """As it would be typed: what the cases below are made of is right."""
    for row in (f'["{_SHA}",5,0]\n', f'["{_SHA}",5,0,0,18]\n', f'["{_SHA}",5,0,0,18,"later"]\n'):
        (chunk,), _ = read(gzip.compress((_BEGIN + row + _END).encode()))
        assert (chunk.sha, chunk.size) == (bytes(32), 5)


@unhurried
@given(st.text())
@example("")
@example(f'["{_SHA}",5,0]\n')
@example('{"typ":"end","chunks":0}\n')
@example(_BEGIN + f'["{_SHA}",5,0]\n')
@example(_BEGIN + f'["{_SHA}",5,0]\n' + _END[:-1])
@example(_BEGIN + f'["{_SHA}",5,0]\n' + _END + _END)
@example(_BEGIN + f'["{_SHA}",5,0]\n' + _END.replace("1", "2"))
@example(_BEGIN + f'["{_SHA}",4,0]\n' + _END)
@example(_BEGIN + f'["{_SHA}",6,0]\n' + _END)
@example(_BEGIN + _HEAD + f'["{_SHA}",5,0]\n' + _END)
@example(_NAMED + _HEAD + f'["{_SHA}",5,0]\n' + _END)
@example(_BEGIN + _NAMED + f'["{_SHA}",5,1]\n' + _END)
@example(_BEGIN + f'["{_SHA}",2,0]\n' + _NAMED + f'["{_SHA}",3,0]\n' + _END.replace("1", "2"))
@example(_BEGIN.replace(_SHA, "x") + f'["{_SHA}",5,0]\n' + _END)
@example(_BEGIN.replace("gzip", "rot13") + f'["{_SHA}",5,0]\n' + _END)
@example(_BEGIN.replace('"enc"', '"ver":"é","enc"') + f'["{_SHA}",5,0]\n' + _END)
@example(_BEGIN.replace('"sz":5', '"sz":5,"levels":0') + f'["{_SHA}",5,0]\n' + _END)
@example(_BEGIN.replace('"sz":5', '"sz":5,"levels":4') + f'["{_SHA}",5,0]\n' + _END)
@example(_BEGIN.replace('"sz":5', '"sz":-5') + _END)
@example(_BEGIN + f'["{_SHA}",5,1]\n' + _END)
@example(_BEGIN + f'["{_SHA}",5,-1]\n' + _END)
@example(_BEGIN + f'["{_SHA}",0,0]\n["{_SHA}",5,0]\n' + _END.replace("1", "2"))
@example(_BEGIN + f'["{_SHA}",5,0,0,0]\n' + _END)
@example(_BEGIN + f'["{_SHA}",5,0,-1,20]\n' + _END)
@example(_BEGIN + f'["{_SHA}",5,0,-1,-1]\n' + _END)
@example(_BEGIN + f'["{_SHA}",5,0,20]\n' + _END)
@example(_BEGIN + f'["{_SHA}",5,0,0,17]\n' + _END)
@example(_BEGIN + f'["{_SHA}",5,0,0,5000]\n' + _END)
@example(_BEGIN.replace(',"enc":"gzip"', "") + f'["{_SHA}",5,0,0,20]\n' + _END)
@example(_BEGIN + f'["{_SHA[2:]}",5,0]\n' + _END)
@example(_BEGIN + f'["{"zz" * 32}",5,0]\n' + _END)
@example(_BEGIN + f'["{"AA" * 32}",5,0]\n' + _END)
@example(_BEGIN + f'["{"0 0" * 21 + "00"}",5,0]\n' + _END)
@example(_BEGIN.replace(":5", f":{1 << 30}") + f'["{_SHA}",{1 + (1 << 22)},0]\n' + _END)
@example(_BEGIN + "[" * 5000 + "]" * 5000 + "\n")
def test_what_is_no_list_is_refused(text: str) -> None:
    """With the one error there is."""
    with pytest.raises(FormatError):
        read(gzip.compress(text.encode("utf-8", "surrogatepass")))


def test_a_list_of_a_later_version_says_so() -> None:
    """Nobody is to take it for damaged."""
    for more in (',"sz":5', ',"levels":"two"'):
        with pytest.raises(LaterFormat):
            read(gzip.compress(f'{{"typ":"chunks","format":2{more}}}\n'.encode()))


@pytest.mark.parametrize("step", [100, 16 << 10, 1 << 20])
def test_a_hole_is_a_list_as_any(step: int) -> None:
    """However often its one chunk comes, and in whatever pieces."""
    at = Location(keys.stream_pack_key(bytes(16)), "v", Span(0, 600), "gzip")
    other = [Chunk(random.Random(n).randbytes(32), 1 << 19, at) for n in range(100)]
    chunks = [Chunk(bytes(32), 1 << 19, at)] * 60_000 + other
    found, _ = read(written(chunks), step)
    assert found == chunks


def test_nobody_keeps_more_than_a_list_can_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are bounded, and so are chunks, by the size of what they make."""
    monkeypatch.setattr(chunk_list, "OBJECTS_AT_MOST", 3)
    at = [Location(keys.stream_pack_key(bytes([n]) * 16), "v") for n in range(4)]
    for number in (3, 4):
        packed = written([Chunk(bytes(32), 2000, one) for one in at[:number]])
        if number == 3:
            assert len(read(packed)[0]) == 3
        else:
            with pytest.raises(FormatError, match="names an object"):
                read(packed)
    for chunks in (1024, 1026):
        packed = written([Chunk(bytes(32), 1, at[0])] * chunks)
        if chunks == 1024:
            assert len(read(packed)[0]) == chunks
        else:
            with pytest.raises(FormatError, match="names a chunk"):
                read(packed)
    for end in (b" " * (1 << 20), b"[" * (1 << 20)):
        with pytest.raises(FormatError, match=r"too long|cannot be"):
            read(gzip.compress(_BEGIN.encode() + end))


# ---- stream packs


@unhurried
@given(st.lists(st.binary(min_size=1), max_size=8, unique=True))
def test_a_stream_pack_is_gzip_and_says_what_is_in_it(contents: list[bytes]) -> None:
    """To gzip(1) the whole and each range; to us by its last bytes."""
    writer = StreamPackWriter()
    body = bytearray()
    for content in contents:
        body += (member := pack.encode(content))
        writer.add(hashlib.sha256(content).digest(), len(member), len(content))
    index = len(writer)
    body += writer.end()
    assert stream_pack.list_begins(bytes(body[-stream_pack.END_LENGTH :]), len(body)) == index
    assert stream_pack.list_begins(bytes(body[-100:]), len(body)) == index
    found = pack.read_index(bytes(body[index:]), index)
    assert found == list(writer.contents)
    assert [gzip.decompress(body[m.span.offset : m.span.end]) for m in found if m.span] == contents
    assert gzip.decompress(body).startswith(b"".join(contents))


@given(st.binary(), st.integers(0, 1 << 40))
@example(stream_pack.StreamPackWriter().end()[-stream_pack.END_LENGTH :], 0)
@example(stream_pack.StreamPackWriter().end()[-stream_pack.END_LENGTH :], 1 << 30)
@example(stream_pack.StreamPackWriter().end()[1 - stream_pack.END_LENGTH :], 54)
@example(stream_pack.StreamPackWriter().end()[-stream_pack.END_LENGTH :], 51)
def test_other_last_bytes_say_nothing(tail: bytes, size: int) -> None:
    """Neither do such ones of which the list would be longer than any."""
    with pytest.raises(FormatError):
        stream_pack.list_begins(tail, size)


def test_names_of_packs() -> None:
    """One by its hash, the other drawn: nobody takes one for the other."""
    drawn = keys.stream_pack_key(bytes(range(16)))
    assert drawn == "packs/000102030405060708090a0b0c0d0e0f"
    assert keys.is_stream_pack(drawn)
    assert keys.pack_sha(drawn) is None
    for other in (keys.pack_key(bytes(32)), drawn[:-1], drawn + "0", drawn.upper(), "packs/", drawn[6:]):
        assert not keys.is_stream_pack(other)


# ---- cuts

AVERAGE = 4096


@pytest.fixture(params=["by content", "blocks"])
def cutter_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to cut."""
    if request.param == "blocks":
        monkeypatch.setattr(cutting, "_by_content", None)
    return str(request.param)


def cut(content: bytes, step: int = 1 << 20) -> list[bytes]:
    """A content in chunks, which comes in pieces."""

    def chunks() -> Iterator[bytes]:
        cutter = Cutter(AVERAGE)
        for at in range(0, len(content), step):
            yield from cutter.feed(content[at : at + step])
        yield from cutter.end()

    return list(chunks())


@pytest.mark.parametrize("size", [0, 1, AVERAGE, AVERAGE + 1, 300_000])
def test_chunks_make_the_content_in_whatever_pieces_it_comes(cutter_of: str, size: int) -> None:
    """And are never larger than four averages; none but the last is smaller than a quarter."""
    content = random.Random(size).randbytes(size)
    chunks = cut(content)
    assert b"".join(chunks) == content
    assert all(len(chunk) <= 4 * AVERAGE for chunk in chunks)
    assert all(len(chunk) >= AVERAGE // 4 for chunk in chunks[:-1]), cutter_of
    assert all(chunks)
    for step in (1 + size // 100, 5000, 100_000):
        assert cut(content, step) == chunks


@pytest.mark.parametrize("at", [0, 1, 100_000, 299_999, 300_000])
def test_what_is_inserted_changes_the_chunks_next_to_it(at: int) -> None:
    """And all others stay, wherever they come to lie."""
    content = random.Random(1).randbytes(300_000)
    before = cut(content)
    after = cut(content[:at] + b"inserted" * 10 + content[at:])
    assert len({*after} - {*before}) <= 4


def test_zeros_are_one_chunk_again_and_again(cutter_of: str) -> None:
    """Where a file has holes there is nothing to cut by."""
    sizes = [len(chunk) for chunk in cut(bytes(1 << 20))]
    assert len(set(sizes)) <= 2, cutter_of
    assert [*accumulate(sizes)][-1] == 1 << 20
