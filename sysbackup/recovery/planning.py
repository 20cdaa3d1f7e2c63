"""
From a manifest in path order to work in the order of objects.

What is needed of the manifest is read, and known to be whole, before anything is
written or fetched. Its entries wait in sorted spools, so their number costs no memory.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import UNSET

from sysbackup.config.sections import MIB
from sysbackup.contents.reading_back import encoding_at
from sysbackup.disk.sorting import Sorter
from sysbackup.errors import FormatError
from sysbackup.formats import encodings, keys, manifest
from sysbackup.formats.manifest import Directory, Entry, File, FileNode, Log, RunHeader, Snapshot
from sysbackup.model import Span, brief
from sysbackup.recovery.fetches import Fetch, Wanted, begun, join, joins
from sysbackup.recovery.restore_report import Outcome
from sysbackup.recovery.selecting import Selection, check_length

_PATHS = 4096  # paths per fetch; their entries wait in memory
_ENTRIES = 2 * MIB  # bytes of entries per fetch, for those with large attributes
_LINKED = 32 * MIB  # bytes of their entries at most: memory is not for the manifest to spend
_LINKS = 65_536  # paths of one inode that stay together (ext4 and btrfs allow fewer)

# where in the object, see `_spot`; digest, size, number of the encoding, digest of the link's id (zero: none)
_TAIL = struct.Struct(">QQ32sQB16s")
_ENCODINGS = tuple(encodings.ENCODINGS)
_NO_LINK = bytes(16)
_NO_PLACE = b"\0"  # no key, no version: an empty file

_MOST = (1 << 63) - 1


class Plan:
    """
    Entries taken from a manifest, in the orders in which they are needed.

    A context manager: leaving it frees memory and disk. `outcome` holds what
    could not be planned.
    """

    def __init__(self, selection: Selection, spool: Path) -> None:
        self.outcome = Outcome()
        self.files = 0
        self.bytes = 0
        self._selection = selection
        self._directories = Sorter(spool, 16 * MIB)
        self._contents = Sorter(spool, 32 * MIB)
        self._others = Sorter(spool, 16 * MIB)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for sorter in (self._directories, self._contents, self._others):
            sorter.close()

    def take(self, entries: Iterable[Entry]) -> None:
        """Note what some entries ask for. Blocks on the disk; one thread at a time."""
        for entry in entries:
            if not isinstance(entry, RunHeader | Snapshot | Log | manifest.End):
                try:
                    self._take(entry)
                except (FormatError, struct.error) as exc:
                    self.outcome.fail(entry.path.encode(), f"its entry in the manifest makes no sense: {exc}")

    def _take(self, entry: FileNode) -> None:
        path = entry.path_bytes
        check_length(path)
        if path not in self._selection and not (isinstance(entry, Directory) and self._selection.leads_to(path)):
            return
        if isinstance(entry, Directory):
            self._directories.add(path, manifest.encode(entry))
        elif isinstance(entry, File):
            self._contents.add(_key(entry), manifest.encode(entry))
            self.files += 1
            self.bytes += entry.size
        else:
            self._others.add(path, manifest.encode(entry))

    def directories(self) -> Iterator[Directory]:
        """The directories, each after those above it."""
        for _, line in self._directories.sorted():
            entry = manifest.decode(line)
            if isinstance(entry, Directory):
                yield entry

    def others(self) -> Iterator[FileNode]:
        """Symbolic links, FIFOs and devices."""
        for _, line in self._others.sorted():
            entry = manifest.decode(line)
            if not isinstance(entry, RunHeader | Snapshot | Log | manifest.End):
                yield entry

    def fetches(self) -> Iterator[Fetch]:
        """All reads that bring all contents: one for an object, more where gaps or bounds divide it."""
        fetch: Fetch | None = None
        paths = 0
        for key, lines in _groups(self._contents.sorted()):
            where, wanted = _place(key), _wanted(key)
            if fetch is None or paths >= _PATHS or fetch.entry_bytes >= _ENTRIES or not joins(fetch, where, wanted):
                if fetch is not None:
                    yield fetch
                fetch = begun(where, wanted)
                paths = 0
            join(fetch, wanted, lines)
            paths += len(lines)
        if fetch is not None:
            yield fetch


def fetch_of(entry: File) -> Fetch:
    """The read that brings the content of one file. `FormatError` where its entry makes no sense."""
    key = _key(entry)
    fetch = begun(_place(key), wanted := _wanted(key))
    join(fetch, wanted, [])
    return fetch


def _key(entry: File) -> bytes:
    """Where the content lies, what it is, and which inode wants it: equal keys are hard links of one file."""
    at = entry.location
    if not 0 <= entry.size <= _MOST:
        raise FormatError(f"a size of {brief(str(entry.size), 40)}")
    if at is None:
        if entry.size:
            raise FormatError(f"{entry.size} bytes, but no object that holds them")
        head, span, encoding, sha = _NO_PLACE, None, encodings.PLAIN.name, hashlib.sha256().digest()
    else:
        span = at.span
        if span is not None:
            _check(span, entry.size)
        sha = _digest(entry.sha)
        if not keys.possible(at.key, at.version) or not encodings.is_known(at.encoding):
            version, name = brief(at.version or "none", 80), brief(at.encoding or "none", 80)
            raise FormatError(f"no such place: {brief(at.key)!r}, version {version!r}, encoding {name!r}")
        encoding = encoding_at(at).name
        head = at.key.encode() + b"\0" + (at.version or "").encode()
    link = _NO_LINK if entry.link is UNSET else hashlib.blake2b(entry.link.encode(), digest_size=16).digest()
    return head + b"\0" + _TAIL.pack(*_spot(span), sha, entry.size, _ENCODINGS.index(encoding), link)


def _spot(span: Span | None) -> tuple[int, int]:
    """Where in its object a content lies, so that it sorts before what lies behind it; the whole comes first."""
    return (0, 0) if span is None else (span.offset + 1, span.length)


def _span(offset: int, length: int) -> Span | None:
    """The inverse of `_spot`."""
    return Span(offset - 1, length) if offset else None


def _check(span: Span, size: int) -> None:
    """`FormatError` where a content of that size cannot have that range."""
    # 18: the shortest gzip member there is
    if not (span.offset >= 0 and 18 <= span.length <= encodings.largest(size)):
        said = [brief(str(number), 40) for number in (span.length, span.offset, size)]
        raise FormatError("{} bytes from {} on, for a content of {}".format(*said))
    if span.end > _MOST:
        raise FormatError(f"an offset of {brief(str(span.offset), 40)}")


def _digest(sha: str) -> bytes:
    try:
        digest = bytes.fromhex(sha)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise FormatError(f"{sha[:80]!r} is no SHA-256")
    return digest


def _groups(records: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, list[bytes]]]:
    """For each file to be made its key and its entries: one, or those of all its hard links."""
    for key, same in groupby(records, key=itemgetter(0)):
        if key.endswith(_NO_LINK):
            for _, line in same:
                yield key, [line]
        else:
            lines: list[bytes] = []
            size = 0
            for _, line in same:
                lines.append(line)
                size += len(line)
                if len(lines) >= _LINKS or size >= _LINKED:
                    yield key, lines
                    lines, size = [], 0
            if lines:
                yield key, lines


def _place(key: bytes) -> tuple[str, str | None]:
    name, _, version = key[: -_TAIL.size - 1].partition(b"\0")
    return name.decode(), version.decode() or None


def _wanted(key: bytes) -> Wanted:
    offset, length, sha, size, encoding, _ = _TAIL.unpack_from(key, len(key) - _TAIL.size)
    return Wanted(sha, size, _ENCODINGS[encoding], _span(offset, length))
