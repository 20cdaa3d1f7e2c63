"""
The manifest: how to put one machine back together, as JSON lines; see `manifest_stream` for the whole of it.

The first line is a `RunHeader`; then come the files, links, directories, FIFOs
and devices, sorted by the bytes of their paths; then the snapshots and what
the run's log had to say; the last line is an `End`. From format 2 on there is a
table before the end by which the manifest is read from its middle (`manifest_table`).
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from sysbackup.errors import FormatError
from sysbackup.formats.lines import UNREADABLE
from sysbackup.model import Location, LockMode, Span, brief

FORMAT = 2
READABLE = (1, 2)

VANISHED = "file.vanished"

# Names and values of a listing's 64 KiB (listxattr(2)), with room for the other fields and for quotes in names. Each
# costs a Python object, so that of a line of 32 MiB with nothing but these would come gigabytes.
_STRINGS = 200_000
_LARGE = 1 << 20

# So much of a line that is none is read to a person.
_SAID = 120


class RunHeader(Struct, tag_field="typ", tag="run", kw_only=True):
    """
    The first line: whose manifest this is, and until when it is promised.

    `lock` is the mode of the locks behind that promise, `none` where there are
    none: then nothing is promised, and `promise` is the start. Manifests of older
    versions do not say.
    """

    format: int
    host: str
    run: str
    started: datetime
    promise: datetime
    lock: str | UnsetType = UNSET
    tool: str

    @property
    def promised(self) -> datetime | None:
        """Until when nobody can delete what the manifest names; None where nothing is promised."""
        return None if self.lock == LockMode.NONE else self.promise


class Node(Struct, omit_defaults=True, kw_only=True):
    """
    What every entry of the file system has.

    `path` is text; where the real path is not UTF-8 it is a lossy form and
    `pathb` has the bytes (base64). `owner` and `group` are names, or numbers
    where there are none. `acl` is the short text form that getfacl prints and
    setfacl takes, default entries with a `d:` before them; `mode` (permission
    bits) stands in its place where it could not be read. `flags` are
    setuid, setgid and sticky as getfacl's `flags:` line has them (`s-t`).
    `mtime` is in nanoseconds since 1970. `xattrs` values are base64.
    """

    path: str
    pathb: str | UnsetType = UNSET
    owner: str | int = field(name="o", default="")
    group: str | int = field(name="g", default="")
    uid: int = -1
    gid: int = -1
    acl: str | UnsetType = UNSET
    mode: int | UnsetType = UNSET
    flags: str | UnsetType = field(name="sb", default=UNSET)
    mtime: int = field(name="mt", default=-1)
    xattrs: dict[str, str] | UnsetType = field(name="x", default=UNSET)

    @property
    def path_bytes(self) -> bytes:
        """The path as the kernel knows it. `FormatError` where `pathb` is no base64."""
        return exact(self.path, self.pathb)


class File(Node, tag_field="typ", tag="f"):
    """
    A regular file. An empty one has no `dat`.

    `link` is equal for all hard links to one inode. `warnings`:
    `unlocked-copy`, `changed-while-read`.
    """

    size: int = field(name="sz", default=0)
    sha: str = ""
    key: str | UnsetType = field(name="dat", default=UNSET)
    version: str | UnsetType | None = field(name="ver", default=UNSET)
    offset: int | UnsetType = field(name="off", default=UNSET)
    length: int | UnsetType = field(name="len", default=UNSET)
    encoding: str | UnsetType = field(name="enc", default=UNSET)
    link: str | UnsetType = field(name="id", default=UNSET)
    warnings: list[str] | UnsetType = field(name="w", default=UNSET)

    @property
    def location(self) -> Location | None:
        """Where the content lies; None for an empty file. `FormatError` where half a range is given."""
        if isinstance(self.key, UnsetType):
            return None
        span = None
        if not isinstance(self.offset, UnsetType) and not isinstance(self.length, UnsetType):
            span = Span(self.offset, self.length)
        elif self.offset is not self.length:
            raise FormatError("a range of bytes without its offset or its length")
        return Location(self.key, self.version or None, span, self.encoding or None)

    def place(self, at: Location) -> None:
        """Write down where the content lies."""
        self.key = at.key
        if at.version is not None:
            self.version = at.version
        if at.span is not None:
            self.offset, self.length = at.span
        if at.encoding is not None:
            self.encoding = at.encoding


class Link(Node, tag_field="typ", tag="l"):
    """A symbolic link; `targetb` has the target's bytes where they are not UTF-8."""

    target: str = field(name="tgt", default="")
    targetb: str | UnsetType = field(name="tgtb", default=UNSET)

    @property
    def target_bytes(self) -> bytes:
        """The target as the kernel knows it."""
        return exact(self.target, self.targetb)


class Directory(Node, tag_field="typ", tag="d"):
    """A directory; nothing is implied of what is in it."""


class Fifo(Node, tag_field="typ", tag="p"):
    """A named pipe."""


class CharDevice(Node, tag_field="typ", tag="c"):
    """A character device and its numbers."""

    major: int = 0
    minor: int = 0


class BlockDevice(Node, tag_field="typ", tag="b"):
    """A block device and its numbers."""

    major: int = 0
    minor: int = 0


class Snapshot(Struct, tag_field="typ", tag="s", omit_defaults=True, kw_only=True):
    """What one snapshotter wrote: `restore` is the shell command its data are piped into."""

    name: str
    key: str = field(name="dat")
    version: str | None = field(name="ver", default=None)
    encoding: str | None = field(name="enc", default=None)
    size: int = field(name="sz")
    sha: str
    description: str = ""
    restore: str | None = None
    started: datetime
    finished: datetime


class Log(Struct, tag_field="typ", tag="log", omit_defaults=True, kw_only=True):
    """One problem of the run, or, with the event `VANISHED`, a note: a picked path that was not there to be read."""

    time: datetime
    event: str
    path: str
    pathb: str | UnsetType = UNSET
    reason: str


class End(Struct, tag_field="typ", tag="end", kw_only=True):
    """The last line: how many entries of each `typ`, bytes of all files and snapshots, problems."""

    counts: dict[str, int]
    bytes: int
    problems: int


FileNode = File | Link | Directory | Fifo | CharDevice | BlockDevice
Entry = RunHeader | File | Link | Directory | Fifo | CharDevice | BlockDevice | Snapshot | Log | End

_DATED = (RunHeader, Snapshot, Log)  # a tuple: it is asked of every line, and `|` makes a new type each time

_T = TypeVar("_T")

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """One line, without its newline."""
    return _encoder.encode(entry)


def decode(line: bytes) -> Entry:
    """The entry of one line; its dates can be reckoned with. `FormatError` where it is none."""
    return decoded(line, _decoder)


def decoded(line: bytes, decoder: "msgspec.json.Decoder[_T]") -> _T:
    """What a decoder makes of one line, with the same care."""
    if len(line) > _LARGE and line.count(b'"') > _STRINGS:
        raise FormatError(f"a manifest holds a line of more names than an entry can have: {line[:_SAID]!r}")
    try:
        entry = decoder.decode(line)
        if isinstance(entry, _DATED):
            _check_dates(entry)
    except (*UNREADABLE, OverflowError) as exc:
        raise FormatError(f"a manifest holds a line that is none ({brief(str(exc))}): {line[:_SAID]!r}") from exc
    return entry


def all_decoded(lines: Sequence[bytes], decoder: "msgspec.json.Decoder[_T]") -> list[_T]:
    """What a decoder makes of several lines, with the same care; for most, without asking anew for each of them."""
    if max(map(len, lines), default=0) <= _LARGE:
        try:
            found = list(map(decoder.decode, lines))
        except UNREADABLE:
            pass  # one by one it is told which
        else:
            if not any(issubclass(kind, _DATED) for kind in set(map(type, found))):
                return found
    return [decoded(line, decoder) for line in lines]


def _check_dates(entry: RunHeader | Snapshot | Log) -> None:
    """`OverflowError` where a date has no place in UTC: year 1 and year 9999 have edges, and zones lead over them."""
    if isinstance(entry, Log):
        dates = [entry.time]
    else:
        dates = [entry.started, entry.promise if isinstance(entry, RunHeader) else entry.finished]
    for date in dates:
        if date.tzinfo is None:
            raise OverflowError("a date without its zone")
        date.astimezone(UTC)


def named(path: bytes) -> dict[str, Any]:
    """The `path` and, where it needs one, `pathb` of an entry, as keyword arguments."""
    text, exact = lossy(path)
    return {"path": text} if exact is None else {"path": text, "pathb": exact}


def lossy(name: bytes) -> tuple[str, str | None]:
    """Bytes as text, and in base64 where the text is not all there is to them."""
    try:
        return name.decode(), None
    except UnicodeDecodeError:
        return name.decode("utf-8", "replace"), base64.b64encode(name).decode()


def exact(text: str, base: str | UnsetType) -> bytes:
    """The inverse of `lossy`. `FormatError` where `base` is no base64."""
    if isinstance(base, UnsetType):
        return text.encode()
    try:
        return base64.b64decode(base, validate=True)
    except ValueError as exc:
        raise FormatError(f"an entry's name in base64 is damaged: {brief(base, _SAID)!r}") from exc
