"""Sizes and durations as people write them."""

import pytest

from sysbackup.config.units import amount, duration, duration_text, elapsed, rough_duration, size, size_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("16 MiB", 16 << 20),
        ("16MiB", 16 << 20),
        ("16 mib", 16 << 20),
        ("16M", 16 << 20),
        ("16 MB", 16_000_000),
        ("4k", 4096),
        (" 1.5 GiB ", 3 << 29),
        ("2 TiB", 2 << 40),
        ("100 B", 100),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_take_units(text: str, expected: int) -> None:
    """A bare number is bytes, a bare letter binary, kB and MB decimal; whole numbers are exact."""
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 2", "1 MiB 2", "1e3", "1,5 GiB", "16 Mib/s", "٣ MiB"])
def test_what_is_no_size_says_how_one_looks(text: str) -> None:
    """The error shows an example."""
    with pytest.raises(ValueError, match="as in 16 MiB"):
        size(text)


def test_an_unknown_unit_is_named() -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match="unknown unit 'Mio': sizes take B, KiB, MiB"):
        size("16 Mio")
    with pytest.raises(ValueError, match="unknown unit 'fortnights': durations take ms, s, min"):
        duration("2 fortnights")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("2", 2.0),
        ("0.5", 0.5),
        ("250 ms", 0.25),
        ("15 min", 900.0),
        ("15min", 900.0),
        ("15 m", 900.0),
        ("2 h", 7200.0),
        ("1 h 30 min", 5400.0),
        ("1h30min", 5400.0),
        ("7 days", 604800.0),
        ("1 Week", 604800.0),
    ],
)
def test_durations_take_units(text: str, expected: float) -> None:
    """A bare number is seconds; several parts add up."""
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "min", "-1 s", "1:30", "half an hour", "1 h,30 min"])
def test_what_is_no_duration_says_how_one_looks(text: str) -> None:
    """The error shows an example."""
    with pytest.raises(ValueError, match="as in 15 min"):
        duration(text)


def test_a_bare_number_among_units_is_no_guess() -> None:
    """`1 h 30` could be minutes or seconds."""
    with pytest.raises(ValueError, match="without a unit among others"):
        duration("1 h 30")


@pytest.mark.parametrize("read", [size, duration])
def test_numbers_beyond_all_measure_are_refused(read: object) -> None:
    """No infinity gets in."""
    assert callable(read)
    with pytest.raises(ValueError, match="too large"):
        read("1" + "0" * 400 + ".0 d" if read is duration else "1" + "0" * 400 + ".0 G")


@pytest.mark.parametrize("text", ["0 B", "100 B", "64 KiB", "16 MiB", "1 GiB", "1.5 GiB", "2 TiB"])
def test_a_size_is_written_as_it_may_be_read(text: str) -> None:
    """What check-config prints can be put into the file."""
    assert size_text(size(text)) == text


@pytest.mark.parametrize("text", ["0 s", "0.25 s", "2 s", "15 min", "1 h", "1 h 30 min", "7 d", "1 d 1 h"])
def test_a_duration_is_written_as_it_may_be_read(text: str) -> None:
    """What check-config prints can be put into the file."""
    assert duration_text(duration(text)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        ((1 << 20) - 1, "1024.0 KiB"),
        (16 << 20, "16.0 MiB"),
        (3.4 * (1 << 30), "3.4 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_amounts_stand_beside_each_other(number: float, text: str) -> None:
    """Each has one digit after the point, but bytes, of which there are no parts."""
    assert amount(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (8.44, "8.4 s"),
        (60, "1 min 0 s"),
        (200.9, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (93900, "26 h 5 min"),
    ],
)
def test_what_something_took_is_said_in_two_units(seconds: float, text: str) -> None:
    """Nothing is rounded up: what took 59 s and a bit did not take a minute more."""
    assert elapsed(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (3599, "59 min 59 s"), (3661, "1 h 1 min"), (86399, "23 h 59 min"), (273_600 + 59, "3 d 4 h")],
)
def test_a_rough_duration_leaves_out_what_nobody_asks_for(seconds: float, text: str) -> None:
    """Of hours no seconds, of days no minutes."""
    assert rough_duration(seconds) == text
