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
from sysbackup.formats import keys, pack, stream_pack
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
)
lists = st.lists(st.builds(Chunk, st.binary(min_size=32, max_size=32), st.integers(1, 1 << 24), locations), max_size=30)


def written(chunks: list[Chunk], levels: int = 1) -> bytes:
    """A list of these chunks."""
    writer = ChunkListWriter(levels)
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
    assert (reader.levels, reader.size) == (levels, sum(chunk.size for chunk in chunks))
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


_BEGIN = '{"typ":"chunks","format":1}\n{"typ":"o","dat":"packs/00"}\n'
_SHA = "00" * 32


@unhurried
@given(st.text())
@example("")
@example('["' + _SHA + '",1,0]\n')
@example('{"typ":"end","chunks":0,"sz":0}\n')
@example(_BEGIN + '{"typ":"end","chunks":1,"sz":0}\n')
@example(_BEGIN + '{"typ":"end","chunks":0,"sz":0}\n{"typ":"end","chunks":0,"sz":0}\n')
@example(_BEGIN + '{"typ":"end","chunks":0,"sz":0}')
@example(_BEGIN + '{"typ":"chunks","format":1}\n{"typ":"end","chunks":0,"sz":0}\n')
@example('{"typ":"chunks","format":1,"levels":0}\n{"typ":"end","chunks":0,"sz":0}\n')
@example('{"typ":"chunks","format":1,"levels":4}\n{"typ":"end","chunks":0,"sz":0}\n')
@example(_BEGIN + '{"typ":"o","dat":"a/../b"}\n{"typ":"end","chunks":0,"sz":0}\n')
@example(_BEGIN + '{"typ":"o","dat":"a","enc":"rot13"}\n{"typ":"end","chunks":0,"sz":0}\n')
@example(_BEGIN + f'["{_SHA}",1,1]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA}",1,-1]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA}",0,0]\n{{"typ":"end","chunks":1,"sz":0}}\n')
@example(_BEGIN + f'["{_SHA}",1,0,0,0]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA}",1,0,-1,5]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA}",1,0,5]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA[2:]}",1,0]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{"zz" * 32}",1,0]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA}",{1 + (1 << 24)},0]\n{{"typ":"end","chunks":1,"sz":{1 + (1 << 24)}}}\n')
@example(_BEGIN + f'["{_SHA}",1,0,0,17]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + f'["{_SHA}",1,0,0,5000]\n{{"typ":"end","chunks":1,"sz":1}}\n')
@example(_BEGIN + "[" * 5000 + "]" * 5000 + "\n")
def test_what_is_no_list_is_refused(text: str) -> None:
    """With the one error there is."""
    with pytest.raises(FormatError):
        read(gzip.compress(text.encode("utf-8", "surrogatepass")))


def test_a_list_of_a_later_version_says_so() -> None:
    """Nobody is to take it for damaged."""
    for more in ("", ',"levels":"two"'):
        with pytest.raises(LaterFormat):
            read(gzip.compress(f'{{"typ":"chunks","format":2{more}}}\n'.encode()))


def test_a_list_that_unpacks_to_very_much_is_refused() -> None:
    """Before it costs memory."""
    row = f'["{_SHA}",1,0,0,18]\n'
    with pytest.raises(FormatError, match="unpacks"):
        read(gzip.compress((_BEGIN + row * 200_000).encode()))
    with pytest.raises(FormatError):
        read(gzip.compress(_BEGIN.encode() + b" " * (1 << 20)))


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
@example(stream_pack.StreamPackWriter().end()[1 - stream_pack.END_LENGTH :], 50)
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
        monkeypatch.setattr(cutting, "_by_content", lambda _: None)
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
