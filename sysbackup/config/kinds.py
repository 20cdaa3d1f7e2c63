"""
Kinds of values that a setting may take: what is allowed, read from text and written as text.

The words of a `ValueError` are for people, and follow the setting's name and value.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import cronsim

from sysbackup.config.units import duration, duration_text, size, size_text


class Kind(Protocol):
    """What values a setting takes."""

    @property
    def allowed(self) -> str:
        """For people, to follow 'allowed: '."""
        ...

    def parse(self, text: str) -> object:
        """The value that `text` says. `ValueError`, to follow the setting's name and value, where it says none."""
        ...

    def text(self, value: object) -> str:
        """A value as it could stand in the file."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a range."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def parse(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
            raise ValueError("is not a whole number")
        if not self.least <= int(text) <= self.most:
            raise ValueError("is out of range")
        return int(text)

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Quantity:
    """
    A size or a duration in a range, with units.

    Where people give it in a `usual` unit as a rule, less than one of these is
    not believed without any unit: `renewal_slack = 7` hardly means seconds.
    """

    read: Callable[[str], float]
    write: Callable[[float], str]
    least: float
    most: float
    usual: str = ""

    @property
    def allowed(self) -> str:
        return f"{self.write(self.least)} to {self.write(self.most)}"

    def parse(self, text: str) -> float:
        value = self.read(text)
        if self.usual and text.strip()[-1:] in "0123456789.":
            self._ask(text.strip(), value)
        if not self.least <= value <= self.most:
            raise ValueError("is out of range")
        return value

    def _ask(self, number: str, value: float) -> None:
        """`ValueError` where a number without a unit may well have been meant in the usual one."""
        meant = f"{number} {self.usual}"
        if value == 0 or value >= self.read(f"1 {self.usual}") or not self.least <= self.read(meant) <= self.most:
            return
        choice = f"{number} s or {meant}" if self.least <= value <= self.most else meant
        raise ValueError(f"has no unit, and would be seconds: did you mean {meant}? Write {choice}")

    def text(self, value: object) -> str:
        return self.write(value) if isinstance(value, int | float) else str(value)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words, in capitals or not."""

    words: Sequence[str]
    instead: str = ""

    @property
    def allowed(self) -> str:
        return ", ".join(self.words) + (f" ({self.instead})" if self.instead else "")

    def parse(self, text: str) -> str:
        for word in self.words:
            if word.lower() == text.lower():
                return word
        raise ValueError("is none of the values that there are")

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a certain form."""

    allowed: str
    form: str = r".+"

    def parse(self, text: str) -> str:
        if not re.fullmatch(self.form, text, re.ASCII):
            raise ValueError("does not have the form that it must have")
        return text

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https URL, without credentials in it."""

    allowed: str = "an http or https URL with a host, and no credentials in it"

    def parse(self, text: str) -> str:
        try:
            parts = urlsplit(text)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or re.search(r"[\s?#]", text):
            raise ValueError("is not such a URL")
        if "@" in parts.netloc:
            raise ValueError("holds credentials, which belong into [aws] credentials_file")
        return text.rstrip("/")

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class FilePath:
    """The absolute path of a file. It is looked for when the file `conf` is read, not here."""

    allowed: str = "an absolute path; $CREDENTIALS_DIRECTORY or %d is where systemd puts credentials"

    def parse(self, text: str) -> Path:
        if not text.startswith("/") or "\0" in text:
            raise ValueError("is not an absolute path")
        return Path(text)

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Hosts:
    """Patterns of host names, or the word `own`."""

    allowed: str = "patterns of host names such as web-* db?, separated by spaces or commas, or own: no other host's"

    def parse(self, text: str) -> tuple[str, ...]:
        words = tuple(word for word in re.split(r"[\s,]+", text) if word)
        if words in (("own",), ("none",)):
            return ()
        for word in words:
            if not re.fullmatch(r"[A-Za-z0-9._*?\[\]!-]+", word, re.ASCII):
                raise ValueError(f"has {word!r} in it, which is no pattern of a host's name")
            re.compile(fnmatch.translate(word))
        return words

    def text(self, value: object) -> str:
        return " ".join(value) or "own" if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression; crontab(5), https://github.com/cuu508/cronsim."""

    allowed: str = "minute, hour, day of month, month and day of week as in crontab(5), such as 15 2 * * *"

    def parse(self, text: str) -> str:
        if len(text.split()) != 5:
            raise ValueError("does not have five fields")
        try:
            cronsim.CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)).__next__()
        except cronsim.CronSimError as error:
            raise ValueError(f"is no cron expression ({error})") from None
        except StopIteration:
            raise ValueError("names a time that never comes") from None
        return text

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone's name in the IANA database."""

    allowed: str = "a time zone's name such as Europe/Berlin or UTC"

    def parse(self, text: str) -> str:
        try:
            ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is no time zone that this system knows (is tzdata installed?)") from None
        return text

    def text(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a port to listen at; a port alone means loopback."""

    allowed: str = "a port such as 9797, or an address with one: 127.0.0.1:9797, [::1]:9797"

    def parse(self, text: str) -> tuple[str, int]:
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]:|([0-9.]+):)?(\d{1,5})", text, re.ASCII)
        if found is None:
            raise ValueError("is no such address")
        host, port = found[1] or found[2] or "127.0.0.1", int(found[3])
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError("has no IP address before its port") from None
        if not 1 <= port <= 65535:
            raise ValueError("has no port from 1 to 65535")
        return host, port

    def text(self, value: object) -> str:
        if not isinstance(value, tuple):
            return str(value)
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Price:
    """An amount of money."""

    allowed: str = "an amount such as 0.005"

    def parse(self, text: str) -> float:
        if not re.fullmatch(r"\d{1,6}(\.\d{1,9})?", text, re.ASCII):
            raise ValueError("is no amount")
        return float(text)

    def text(self, value: object) -> str:
        return f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, int | float) else str(value)


def byte_count(least: int, most: int) -> Quantity:
    """A size in a range."""
    return Quantity(size, lambda value: size_text(int(value)), least, most)


def seconds(least: float, most: float, usual: str = "") -> Quantity:
    """A duration in a range; see `Quantity` for `usual`."""
    return Quantity(duration, duration_text, least, most, usual)
