"""A picker's output as paths."""

import tracemalloc

import pytest

from sysbackup.programs.picker_output import DECIDING, LONGEST, Records, all_paths, path_problem


def cut(*chunks: bytes) -> list[bytes]:
    records = Records()
    return [record for chunk in chunks for record in records.feed(chunk)] + records.finish()


def test_only_the_terminator_is_cut() -> None:
    """Spaces at either end and carriage returns are part of a name."""
    assert cut(b" /a \n/b\r\n\n\n/c") == [b" /a ", b"/b\r", b"/c"]


def test_a_nul_early_on_makes_all_of_it_nul_separated() -> None:
    """`find -print0`: newlines are part of names then, also of those before the NUL."""
    assert cut(b"/a\n", b"b\0/c\n\0\0", b"/d") == [b"/a\nb", b"/c\n", b"/d"]


def test_a_nul_later_on_does_not() -> None:
    """What began as lines stays lines, so that records already handed out do not change their meaning."""
    filler = b"/x\n" * (DECIDING // 3 + 1)
    assert cut(filler, b"/a\0/b\n")[-1] == b"/a\0/b"
    assert cut(filler[: DECIDING - 1] + b"\0/b")[-1] == b"/b"


def test_records_come_as_soon_as_they_are_whole() -> None:
    """After the first 8 KiB nothing is held back but an unfinished record."""
    records = Records()
    assert records.feed(b"/a\n/b\n") == []
    assert len(records.feed(b"/x\n" * 3000)) == 3002
    assert records.feed(b"/y\n/z") == [b"/y"]
    assert records.finish() == [b"/z"]


def test_a_nul_decides_at_once() -> None:
    """A slow `find -print0` is not held back until 8 KiB are there."""
    records = Records()
    assert records.feed(b"/a\0/b") == [b"/a"]
    assert records.feed(b"\n\0/c") == [b"/b\n"]


def test_a_record_beyond_all_measure_is_reported_and_takes_no_memory() -> None:
    """100 MB without a newline: its start is kept for the report, the record after it is whole."""
    records = Records()
    assert records.feed(b"/first\n" + b"/x\n" * DECIDING)[0] == b"/first"
    chunk = b"n" * 1_000_000
    tracemalloc.start()
    try:
        for _ in range(100):
            assert records.feed(chunk) == []
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert records.feed(b"n\n/next\n") == [b"/next"]
    assert records.overlong == [b"n" * 200]
    assert records.overlong_count == 1


def test_reports_of_records_beyond_all_measure_are_bounded_too() -> None:
    """A picker that prints nothing else does not fill the memory with reports."""
    records = Records()
    for _ in range(1000):
        assert records.feed(b"n" * (LONGEST + 1) + b"\n") == []
    assert (len(records.overlong), records.overlong_count) == (100, 1000)


@pytest.mark.parametrize("record", [b"/", b"/etc/passwd", b"/a b\r", b"//double", b"/\xff\xfe", b"/a/../b"])
def test_an_absolute_path_is_fine(record: bytes) -> None:
    """Whatever its bytes."""
    assert path_problem(record) is None
    assert all_paths([b"/a", record, b"/b"])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"etc/passwd", "relative path"),
        (b"./x", "relative path"),
        (b" /a", "relative path"),
        (b"'/a b'", "quotation marks"),
        (b'"/a b"', "quotation marks"),
        (b"/a\0/b", "holds a NUL"),
    ],
)
def test_anything_else_is_a_problem_with_a_reason(record: bytes, words: str) -> None:
    """What a picker's author has to mend."""
    reason = path_problem(record)
    assert reason is not None
    assert words in reason
    assert not all_paths([b"/a", record, b"/b"])
