"""
Sizes and durations as people write them: `16 MiB`, `1.5G`, `15 min`, `1 h 30 min`.

A number without a unit is bytes, or seconds. A bare `K`, `M`, `G` or `T` is
binary, as in systemd's own files; `kB` and `MB` are the decimal ones of SI.
"""

import math
import re

_SIZES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZES |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}

_DURATIONS = {
    **dict.fromkeys(("ms", "msec"), 0.001),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
}

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)"
_ONE = re.compile(rf"\s*{_NUMBER}\s*", re.ASCII)
_SEVERAL = re.compile(rf"(?:\s*{_NUMBER}\s*)+", re.ASCII)
_PART = re.compile(_NUMBER, re.ASCII)


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(text: str) -> int:
    """`16 MiB` in bytes. `ValueError`, whose text is for people, where it is no size."""
    found = _ONE.fullmatch(text)
    if found is None:
        raise ValueError("is not a size: write a number and a unit, as in 16 MiB")
    number, unit = found.groups()
    factor = _SIZES.get(unit.lower())
    if factor is None:
        raise ValueError(f"has the unknown unit {unit!r}: sizes take B, KiB, MiB, GiB or TiB")
    if not math.isfinite(value := float(number) * factor):
        raise ValueError("is too large a number")
    # Whole numbers stay exact: a float has 53 bits.
    return int(number) * factor if number.isdigit() else round(value)


def duration(text: str) -> float:
    """`1 h 30 min` in seconds. `ValueError`, whose text is for people, where it is no duration."""
    if _SEVERAL.fullmatch(text) is None:
        raise ValueError("is not a duration: write a number and a unit, as in 15 min")
    parts: list[tuple[str, str]] = _PART.findall(text)
    total = 0.0
    for number, unit in parts:
        factor = _DURATIONS.get(unit.lower())
        if factor is None:
            raise ValueError(f"has the unknown unit {unit!r}: durations take ms, s, min, h, d or w")
        if not unit and len(parts) > 1:
            raise ValueError("has a number without a unit among others: write it as in 1 h 30 min")
        total += float(number) * factor
    if not math.isfinite(total):
        raise ValueError("is too large a number")
    return total


def size_text(number: int) -> str:
    """A size for people, exact where it is a round one: `16 MiB`, `1.4 GiB`."""
    scaled, unit = _scaled(number)
    return f"{scaled:.0f} {unit}" if scaled == int(scaled) else f"{scaled:.1f} {unit}"


def amount(number: float) -> str:
    """A size in a column or beside others, with one digit after the point wherever it has a unit: `16.0 MiB`."""
    scaled, unit = _scaled(number)
    return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"


def _scaled(number: float) -> tuple[float, str]:
    power = next((power for power in range(len(_UNITS) - 1) if number < 1024 ** (power + 1)), len(_UNITS) - 1)
    return number / 1024**power, _UNITS[power]


def duration_text(seconds: float) -> str:
    """A duration for people, in the one or two largest units that say it: `15 min`, `1 h 30 min`, `0.5 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    rest, parts = round(seconds), []
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def rough_duration(seconds: float) -> str:
    """A duration as people say it, without what nobody asks for: `12 s`, `3 h 12 min`, `3 d 4 h`."""
    least = 3600 if seconds >= 86400 else 60 if seconds >= 3600 else 1
    return duration_text(round(seconds) // least * least)


def elapsed(seconds: float) -> str:
    """How long something took, always in the same two units of its class: `8.4 s`, `3 min 20 s`, `26 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
