"""
Every setting of `conf`: where it stands, what it means, what it may be.

The one table (`SETTINGS`) is what the file is read with, what mistakes are
explained with, and what `sysbackup check-config` prints. Defaults are those of
the structs in `config`.
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

from sysbackup.config.bandwidth import Rates
from sysbackup.config.sections import DAY, GIB, HOUR, KIB, MIB
from sysbackup.config.units import duration, duration_text, size, size_text
from sysbackup.model import LockMode


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
class Whole:
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
class Choice:
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


def _bytes(least: int, most: int) -> Quantity:
    return Quantity(size, lambda value: size_text(int(value)), least, most)


def _seconds(least: float, most: float, usual: str = "") -> Quantity:
    return Quantity(duration, duration_text, least, most, usual)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line that `conf` may have. `unset` says what holds where the default is nothing."""

    section: str
    name: str
    kind: Kind
    meaning: str
    unset: str = "not set"

    @property
    def label(self) -> str:
        """`[content] days_retained`."""
        return f"[{self.section}] {self.name}"


_REGION = Text("a region's name such as eu-central-1", r"[A-Za-z0-9][A-Za-z0-9_-]*")
_BUCKET = Text(
    "a bucket's bare name such as my-backups, without s3:// and without a path, or an access point's ARN",
    r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]|arn:[^:\s]+:s3[a-z-]*:[^\s]+",
)
_ROLE = Text("a role's ARN such as arn:aws:iam::123456789012:role/backup", r"arn:[^:\s]+:iam::[^:\s]*:role/\S+")
_HOST = Text("letters, digits, dots, dashes and underscores, at most 255", r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")

STORAGE_CLASSES = ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY")
"""S3's classes whose objects can be read at once. Other stores have classes of their own."""

ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
"""Those whose objects cannot: not even a manifest could be listed."""

SETTINGS: tuple[Setting, ...] = (
    Setting("aws", "profile", Text("a profile's name"), "the profile to use", "the SDK's default"),
    Setting(
        "aws",
        "credentials_file",
        FilePath(),
        "an AWS credentials file, used alone instead of the SDK's usual places",
        "the SDK's usual places",
    ),
    Setting("aws", "role_arn", _ROLE, "a role to assume; only with credentials_file", "none is assumed"),
    Setting("s3", "bucket", _BUCKET, "the bucket to store in", "looked up in CloudFormation's exports"),
    Setting("s3", "endpoint_url", Url(), "the store, where it is not AWS S3", "AWS S3"),
    Setting("s3", "region", _REGION, "the bucket's region", "that of the profile or environment"),
    Setting("s3", "addressing_style", Choice(("auto", "path", "virtual")), "where the bucket stands in a URL"),
    Setting(
        "s3",
        "ca_bundle",
        FilePath(
            "an absolute path of certificates in PEM form; $CREDENTIALS_DIRECTORY or %d is where systemd puts them"
        ),
        "the authorities whose certificates are trusted, of the store and of AWS, instead of the usual ones",
        "AWS_CA_BUNDLE, or those that come with Python's certifi",
    ),
    Setting(
        "s3",
        "storage_class",
        Text("a storage class in capitals", r"[A-Z][A-Z0-9_]*"),
        "the storage class of what is stored",
        "the bucket's default",
    ),
    Setting(
        "s3",
        "sse",
        Choice(("AES256", "aws:kms", "aws:kms:dsse")),
        "server-side encryption to ask for",
        "the bucket's default",
    ),
    Setting(
        "s3",
        "sse_kms_key_id",
        Text("a KMS key's id, alias or ARN", r"\S+"),
        "the key for sse = aws:kms",
        "the account's default key",
    ),
    Setting(
        "cloudformation", "region", _REGION, "where the stack is that exports the bucket's name", "the profile's region"
    ),
    Setting(
        "cloudformation", "export", Text("an export's name", r"[A-Za-z0-9:-]+"), "the export that names the bucket"
    ),
    Setting(
        "content", "lock_timeout", _seconds(0, HOUR), "how long to wait for an advisory lock on a file before reading"
    ),
    Setting("content", "days_retained", Whole(1, 36500), "for how many days a backup cannot be changed or deleted"),
    Setting(
        "content",
        "lock_mode",
        Choice(tuple(LockMode)),
        "how firmly: GOVERNANCE can be lifted with a special right, COMPLIANCE by nobody, none promises nothing",
    ),
    Setting(
        "content",
        "renewal_slack",
        _seconds(0, 366 * DAY, "d"),
        "how much longer than promised contents are locked, so that later runs seldom renew locks",
    ),
    Setting(
        "content", "pack_below", _bytes(0, 32 * MIB), "contents smaller than this are packed together; 0 packs nothing"
    ),
    Setting("content", "pack_size", _bytes(64 * KIB, GIB), "how large a pack grows"),
    Setting("content", "host", _HOST, "this machine's name in the bucket"),
    Setting("content", "share", Hosts(), "the hosts whose stored contents may be reused"),
    Setting(
        "content",
        "verify_shared",
        Choice(("off", "first-use", "sample")),
        "whether what was learnt of others' contents is fetched once and compared before it is relied on; where"
        " s3:GetObject is not granted, it is stored again instead",
    ),
    Setting("run", "workers", Whole(1, 256), "threads that read, hash and compress"),
    Setting("run", "uploads", Whole(1, 1000), "uploads at once"),
    Setting(
        "run",
        "memory",
        _bytes(64 * MIB, 1024 * GIB),
        "about what a run uses of memory; half of it for bytes between disk and store",
    ),
    Setting(
        "run",
        "bandwidth",
        Rates(),
        "bytes a second that go to the store and come from it, together, at most; windows are in [daemon] time_zone",
        "no limit",
    ),
    Setting("run", "spool_limit", _bytes(0, 1024 * GIB), "of a snapshot, how much waits on disk for its description"),
    Setting("run", "picker_idle_limit", _seconds(1, 7 * DAY, "min"), "for how long a picker may be silent"),
    Setting("run", "snapshot_idle_limit", _seconds(1, 7 * DAY, "min"), "for how long a snapshotter may be silent"),
    Setting("run", "snapshots_at_once", Whole(1, 100), "snapshotters that run at the same time"),
    Setting("run", "give_up_after", _seconds(1, 7 * DAY, "min"), "for how long a store that does not answer is tried"),
    Setting("daemon", "schedule", Schedule(), "when the daemon starts runs by itself", "it waits to be triggered"),
    Setting(
        "daemon",
        "time_zone",
        Zone(),
        "the time zone of the schedule, and of the windows of [run] bandwidth",
        "the system's",
    ),
    Setting(
        "daemon", "random_delay", _seconds(0, DAY, "min"), "the most by which a scheduled run is put off, by chance"
    ),
    Setting(
        "daemon",
        "stale_after",
        _seconds(60, 366 * DAY, "h"),
        "how long ago the last complete backup may have ended before sysbackup status calls it stale",
    ),
    Setting("daemon", "hook_limit", _seconds(1, HOUR), "for how long a hook may run"),
    Setting("metrics", "listen", Address(), "where the daemon serves Prometheus metrics over HTTP", "it does not"),
    Setting(
        "metrics",
        "textfile",
        FilePath("an absolute path, ending in .prom for node_exporter"),
        "the file that metrics are written to after each run",
        "none is written",
    ),
    Setting("prices", "write", Price(), "US dollars for 1,000 requests that write or list"),
    Setting("prices", "read", Price(), "US dollars for 1,000 requests that read"),
)

SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
