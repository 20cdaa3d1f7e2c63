"""Any output, however it comes in chunks, gives the same records."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sysbackup.programs.picker_output import DECIDING, LONGEST, Records

pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"\n", b"\0", b"/a b\n", b"/c\0", b"\r\n", b"x" * (DECIDING - 1), b"y" * LONGEST, b"z"]),
)
outputs = st.lists(pieces, max_size=12).map(b"".join)


def cut(chunks: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """All records of these chunks, and the starts of those too long."""
    records = Records()
    found = [record for chunk in chunks for record in records.feed(chunk)]
    return found + records.finish(), records.overlong


def expected(output: bytes) -> tuple[list[bytes], list[bytes]]:
    """The rule itself, on the whole output."""
    records = output.split(b"\0" if b"\0" in output[:DECIDING] else b"\n")
    return (
        [record for record in records if 0 < len(record) <= LONGEST],
        [record[:200] for record in records if len(record) > LONGEST],
    )


@given(outputs, st.lists(st.integers(min_value=0, max_value=200_000), max_size=12))
def test_any_chunking_gives_the_same_records(output: bytes, cuts: list[int]) -> None:
    """Where a read happened to end is of no meaning."""
    marks = [0, *sorted(mark % (len(output) + 1) for mark in cuts), len(output)]
    chunks = [output[a:b] for a, b in pairwise(marks)]
    assert cut(chunks) == expected(output)


@given(st.binary(max_size=600))
def test_byte_by_byte_gives_the_same_records(output: bytes) -> None:
    """The smallest reads of all make no difference."""
    assert cut([bytes([byte]) for byte in output]) == expected(output)


@given(st.lists(st.binary(min_size=1, max_size=50).filter(lambda name: b"\0" not in name), min_size=1))
def test_every_name_comes_through_between_nuls(names: list[bytes]) -> None:
    """Newlines, spaces, bytes that are no text: a file may be called that, and is found by that name."""
    assert cut([b"\0".join(names) + b"\0"])[0] == names
