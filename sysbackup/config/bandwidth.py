"""How many bytes a second may go to the store and come from it, by the time of day."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from msgspec import Struct

from sysbackup.config.units import size, size_text

_LEAST, _MOST = 16 << 10, 10 << 30
_DAY = 24 * 60
_WINDOW = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*=\s*(.*)", re.ASCII)


class Window(Struct, frozen=True):
    """
    A rate for a part of each day, from minute `begin` of it up to, but without, minute `end`.

    One that ends before it begins goes on after midnight.
    """

    begin: int
    end: int
    rate: int

    def covers(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def __str__(self) -> str:
        return f"{_time(self.begin)}-{_time(self.end)}={size_text(self.rate)}"


class Bandwidth(Struct, frozen=True):
    """Bytes a second: `rate` (None: as many as there can be), but for the times of day that have a window."""

    rate: int | None = None
    windows: tuple[Window, ...] = ()

    def at(self, local: datetime) -> int | None:
        """The rate at a local time; None: no limit."""
        minute = local.hour * 60 + local.minute
        return next((window.rate for window in self.windows if window.covers(minute)), self.rate)

    def __str__(self) -> str:
        plain = [] if self.rate is None else [size_text(self.rate)]
        return ", ".join([*plain, *map(str, self.windows)])


@dataclass(frozen=True, slots=True)
class Rates:
    """What `[run] bandwidth` takes: a rate, windows of the day with theirs, or both."""

    allowed: str = (
        f"bytes a second from {size_text(_LEAST)} to {size_text(_MOST)}, such as 20 MiB, and windows of local time "
        "with theirs, such as 08:00-18:00=5 MiB, 22:00-06:00=100 MiB; separated by commas"
    )

    def parse(self, text: str) -> Bandwidth:
        rates: list[int] = []
        windows: list[Window] = []
        for part in (part.strip() for part in text.split(",")):
            if "=" in part:
                windows.append(_window(part))
            else:
                rates.append(_rate(part))
        if len(rates) > 1:
            raise ValueError("has more than one rate without a window")
        _need_apart(windows)
        return Bandwidth(rates[0] if rates else None, tuple(windows))

    def text(self, value: object) -> str:
        return str(value)


def _rate(text: str) -> int:
    try:
        value = size(text)
    except ValueError as error:
        raise ValueError(f"has {text!r} in it, which {error}") from None
    if not _LEAST <= value <= _MOST:
        raise ValueError(f"has the rate {text!r}, which is out of range")
    return value


def _window(text: str) -> Window:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"has {text!r} in it, which is no window: write it as in 08:00-18:00=20 MiB")
    begin, end = (_minute(text, int(found[n]), int(found[n + 1])) for n in (1, 3))
    if begin % _DAY == end % _DAY and end - begin != _DAY:
        raise ValueError(f"has {text!r} in it, which ends when it begins: for the whole day, write the rate alone")
    return Window(begin % _DAY, end, _rate(found[5]))


def _minute(text: str, hour: int, minute: int) -> int:
    if minute > 59 or hour * 60 + minute > _DAY:
        raise ValueError(f"has {text!r} in it, with a time that no day has: 00:00 to 24:00")
    return hour * 60 + minute


def _need_apart(windows: Sequence[Window]) -> None:
    """`ValueError` where two windows have a minute in common."""
    for one, other in combinations(windows, 2):
        # if they have any, they have the one with which one of them begins
        if one.covers(other.begin) or other.covers(one.begin):
            raise ValueError(f"has windows that overlap: {one} and {other}")


def _time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
