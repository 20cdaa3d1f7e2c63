"""
From a manifest in path order to work in the order of objects.

What is needed of the manifest is read, and known to be whole, before anything is
written or fetched. Its entries wait in sorted spools, so their number costs no memory.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import UNSET

from sysbackup.config.sections import MIB
from sysbackup.contents.reading_back import encoding_at
from sysbackup.disk.sorting import Record, Sorter
from sysbackup.errors import FormatError
from sysbackup.formats import chunk_list, encodings, keys, manifest
from sysbackup.formats.manifest import (
    BlockDevice,
    CharDevice,
    Directory,
    Entry,
    Fifo,
    File,
    FileNode,
    Link,
    Log,
    RunHeader,
    Snapshot,
)
from sysbackup.model import Location, Span, brief
from sysbackup.recovery.fetches import Fetch, Wanted, begun, join, joins
from sysbackup.recovery.planned import Encoding
from sysbackup.recovery.restore_report import Outcome
from sysbackup.recovery.selecting import Selection, check_length

_PATHS = 4096  # paths per fetch; their entries wait in memory
_ENTRIES = 2 * MIB  # bytes of entries per fetch, for those with large attributes
_LINKED = 32 * MIB  # bytes of their entries at most: memory is not for the manifest to spend
_LINKS = 65_536  # paths of one inode that stay together (ext4 and btrfs allow fewer)

# offset in the object + 1, length there; digest, size, number of the encoding, digest of the link's id (zero: none)
_TAIL = struct.Struct(">QQ32sQB16s")
_ENCODINGS = (*encodings.ENCODINGS, chunk_list.NAME)
_WHOLE = (0, 0)  # offset and length of what is all of its object: it comes before what is not
_NO_LINK = bytes(16)
_PLACE = -_TAIL.size  # a key up to there: the object and its version
_CONTENT = -len(_NO_LINK)  # and up to there: the content

# of empty files
_NO_PLACE = b"\0\0"
_PLAIN = _ENCODINGS.index(encodings.PLAIN.name)
_NOTHING = hashlib.sha256().digest()

_NO_NODES = (RunHeader, Snapshot, Log, manifest.End)
_AT_ONCE = 512  # entries that are taken at a time
_HEADS = 64  # objects that are remembered: a pack's contents are neighbours in the manifest too

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
        self._keys = _Keys()
        self._encoding = Encoding()
        self._others = Sorter(spool, 16 * MIB)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for sorter in (self._directories, self._contents, self._others):
            sorter.close()

    def take(self, entries: Iterable[Entry]) -> None:
        """Note what some entries ask for. Blocks on the disk; one thread at a time."""
        several = iter(entries)
        while some := list(islice(several, _AT_ONCE)):
            files: list[Record] = []
            for entry in some:
                if isinstance(entry, _NO_NODES):
                    continue
                try:
                    if isinstance(entry, File):
                        self._take_file(entry, files)
                    else:
                        self._take(entry)
                except (FormatError, struct.error) as exc:
                    self.outcome.fail(entry.path.encode(), f"its entry in the manifest makes no sense: {exc}")
            self._contents.add_all(files)

    def _take_file(self, entry: File, files: list[Record]) -> None:
        path = entry.path.encode() if entry.pathb is UNSET else entry.path_bytes
        check_length(path)
        if path in self._selection:
            files.append((self._keys.of(entry), self._encoding.encoded(entry, path)))
            self.files += 1
            self.bytes += entry.size

    def _take(self, entry: Link | Directory | Fifo | CharDevice | BlockDevice) -> None:
        path = entry.path_bytes
        check_length(path)
        if path not in self._selection and not (isinstance(entry, Directory) and self._selection.leads_to(path)):
            return
        if isinstance(entry, Directory):
            self._directories.add(path, manifest.encode(entry))
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
            if not isinstance(entry, _NO_NODES):
                yield entry

    def fetches(self) -> Iterator[Fetch]:
        """All reads that bring all contents: one for an object, more where gaps or bounds divide it."""
        fetch: Fetch | None = None
        last = content = where = b""
        place: tuple[str, str | None] = ("", None)
        groups: list[list[bytes]] = []
        paths = size = linked = 0  # of the fetch, and of its last group: the bytes of its entries
        for key, line in self._contents.sorted():
            if key == last and not key.endswith(_NO_LINK) and len(groups[-1]) < _LINKS and linked < _LINKED:
                groups[-1].append(line)  # one more name of the same file
            else:
                last, linked = key, 0
                full = paths >= _PATHS or size >= _ENTRIES
                if fetch is None or full or key[:_CONTENT] != content:
                    content = key[:_CONTENT]
                    if key[:_PLACE] != where:
                        where = key[:_PLACE]
                        place = _place(where)
                    wanted = _wanted(key)
                    if fetch is None or full or not joins(fetch, place, wanted):
                        if fetch is not None:
                            fetch.entry_bytes = size
                            yield fetch
                        fetch = begun(place, wanted)
                        paths = size = 0
                    join(fetch, wanted)
                    groups = wanted.groups
                groups.append([line])
            paths += 1
            size += len(line)
            linked += len(line)
        if fetch is not None:
            fetch.entry_bytes = size
            yield fetch


def fetch_of(entry: File) -> Fetch:
    """The read that brings the content of one file. `FormatError` where its entry makes no sense."""
    key = _Keys().of(entry)
    fetch = begun(_place(key[:_PLACE]), wanted := _wanted(key))
    join(fetch, wanted)
    return fetch


class _Keys:
    """
    By what files are sorted: where the content lies, what it is, and which inode wants it.

    Equal keys are hard links of one file.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[object, ...], tuple[bytes, int]] = {}  # of places that were found possible

    def of(self, entry: File) -> bytes:
        """The key of one file. `FormatError` where its entry names no place, or none that can be."""
        size = entry.size
        if not 0 <= size <= _MOST:
            raise FormatError(f"a size of {brief(str(size), 40)}")
        link = _NO_LINK if entry.link is UNSET else hashlib.blake2b(entry.link.encode(), digest_size=16).digest()
        offset, length = entry.offset, entry.length
        whose = (entry.key, entry.version, entry.encoding, offset is UNSET, length is UNSET)
        known = self._heads.get(whose)
        if known is None:
            at = entry.location
            if at is None:
                if size:
                    raise FormatError(f"{size} bytes, but no object that holds them")
                return _NO_PLACE + _TAIL.pack(*_WHOLE, _NOTHING, 0, _PLAIN, link)
            known = self._learn(whose, at)
        head, encoding = known
        sha = _digest(entry.sha)
        if offset is UNSET or length is UNSET:
            return head + _TAIL.pack(*_WHOLE, sha, size, encoding, link)
        _check(offset, length, size)
        return head + _TAIL.pack(offset + 1, length, sha, size, encoding, link)

    def _learn(self, whose: tuple[object, ...], at: Location) -> tuple[bytes, int]:
        known = _head(at)
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        self._heads[whose] = known
        return known


def _head(at: Location) -> tuple[bytes, int]:
    """The first part of a key, and the number of the encoding. `FormatError` where there can be no such place."""
    # a list of chunks is an object of its own
    known = encodings.is_known(at.encoding) or (at.encoding == chunk_list.NAME and at.span is None)
    if not keys.possible(at.key, at.version) or not known:
        version, name = brief(at.version or "none", 80), brief(at.encoding or "none", 80)
        raise FormatError(f"no such place: {brief(at.key)!r}, version {version!r}, encoding {name!r}")
    encoding = at.encoding if at.encoding == chunk_list.NAME else encoding_at(at).name
    return at.key.encode() + b"\0" + (at.version or "").encode() + b"\0", _ENCODINGS.index(encoding)


def _check(offset: int, length: int, size: int) -> None:
    """`FormatError` where a content of that size cannot have that range."""
    # 18: the shortest gzip member there is
    if not (offset >= 0 and 18 <= length <= encodings.largest(size)):
        said = [brief(str(number), 40) for number in (length, offset, size)]
        raise FormatError("{} bytes from {} on, for a content of {}".format(*said))
    if offset + length > _MOST:
        raise FormatError(f"an offset of {brief(str(offset), 40)}")


def _digest(sha: str) -> bytes:
    try:
        digest = bytes.fromhex(sha)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise FormatError(f"{sha[:80]!r} is no SHA-256")
    return digest


def _place(where: bytes) -> tuple[str, str | None]:
    name, _, version = where[:-1].partition(b"\0")
    return name.decode(), version.decode() or None


def _wanted(key: bytes) -> Wanted:
    offset, length, sha, size, encoding, _ = _TAIL.unpack_from(key, len(key) - _TAIL.size)
    return Wanted(sha, size, _ENCODINGS[encoding], Span(offset - 1, length) if offset else None)
