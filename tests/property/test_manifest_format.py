"""Manifests of anything come back unchanged; damaged ones are refused, never half believed."""

import gzip
import hashlib
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, manifest
from sysbackup.formats.ends import end_in
from sysbackup.formats.manifest import (
    BlockDevice,
    CharDevice,
    Directory,
    End,
    Entry,
    Fifo,
    File,
    Link,
    Log,
    Node,
    RunHeader,
    Snapshot,
)
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.model import Location, Span
from tests.support.recovering import older, written

unhurried = settings(deadline=None)  # the machine may be busy with other things

moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]))
paths = st.binary(min_size=1)
numbers = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
common: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"owner": st.one_of(texts, st.integers(0, 2**32)), "group": st.one_of(texts, st.integers(0, 2**32))},
    optional={
        "uid": numbers,
        "gid": numbers,
        "acl": texts,
        "mode": st.integers(0, 0o7777),
        "flags": texts,
        "mtime": numbers,
        "xattrs": st.dictionaries(texts, texts),
    },
)
versions = st.none() | texts.filter(bool)
locations = st.builds(Location, texts, versions, st.none(), st.none() | st.just("gzip")) | st.builds(
    Location, texts, versions, st.builds(Span, counts, counts), st.just("gzip")
)


of_files: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"size": counts, "sha": st.binary(min_size=32, max_size=32).map(bytes.hex)},
    optional={"link": texts, "warnings": st.lists(texts)},
)


@st.composite
def files(draw: st.DrawFn) -> File:
    made = File(**manifest.named(draw(paths)), **draw(common), **draw(of_files))
    where = draw(st.none() | locations)
    if where is not None:
        made.place(where)
        assert made.location == where
    return made


@st.composite
def links(draw: st.DrawFn) -> Link:
    target = draw(paths)
    text, exact = manifest.lossy(target)
    made = Link(**manifest.named(draw(paths)), **draw(common), target=text)
    if exact is not None:
        made.targetb = exact
    assert made.target_bytes == target
    return made


def _others(kind: type[Entry], **more: st.SearchStrategy[object]) -> st.SearchStrategy[Entry]:
    return st.builds(
        lambda path, rest, extra: kind(**manifest.named(path), **rest, **extra),
        paths,
        common,
        st.fixed_dictionaries(more),
    )


entries: st.SearchStrategy[Entry] = st.one_of(
    files(),
    links(),
    _others(Directory),
    _others(Fifo),
    _others(CharDevice, major=counts, minor=counts),
    _others(BlockDevice, major=counts, minor=counts),
    st.builds(
        Snapshot,
        name=texts,
        key=texts,
        version=st.none() | texts,
        size=counts,
        sha=texts,
        description=texts,
        restore=st.none() | texts,
        started=moments,
        finished=moments,
    ),
    st.builds(lambda path, **rest: Log(**manifest.named(path), **rest), paths, time=moments, event=texts, reason=texts),
)
headers = st.builds(RunHeader, format=st.just(1), host=texts, run=texts, started=moments, promise=moments, tool=texts)
ends = st.builds(End, counts=st.dictionaries(texts, counts), bytes=counts, problems=counts)


@st.composite
def manifests(draw: st.DrawFn) -> list[Entry]:
    """Of format 1, in any order of entries, or of format 2."""
    header, between = draw(headers), draw(st.lists(entries, max_size=20))
    if draw(st.booleans()):
        header.format = manifest.FORMAT
        nodes = {entry.path_bytes: entry for entry in between if isinstance(entry, Node)}
        rest = sorted((e for e in between if not isinstance(e, Node)), key=lambda e: isinstance(e, Log))
        between = [*(nodes[path] for path in sorted(nodes)), *rest]
    return [header, *between, draw(ends)]


def _pieces(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield body[at : at + size]
        at += size
    yield body[at:]


def _read(body: bytes, sizes: list[int]) -> list[Entry]:
    reader = ManifestReader()
    found = [entry for piece in _pieces(body, sizes) for entry in reader.feed(piece)]
    reader.finish()
    return found


sizes = st.lists(st.integers(0, 200))


@unhurried
@given(manifests(), sizes)
def test_any_manifest_comes_back(said: list[Entry], cuts: list[int]) -> None:
    """Whatever entries a manifest holds and however its bytes arrive, the same entries come out in the same order."""
    assert _read(written(said), cuts) == said
    header = said[0]
    assert isinstance(header, RunHeader)
    if header.format == 1:
        assert _read(older(said, members=1), cuts) == said


@unhurried
@given(manifests(), st.integers(0, 3000))
def test_any_end_is_read_alone(said: list[Entry], more: int) -> None:
    """The last line is had from the last bytes, however many; other tools see one stream of lines all the same."""
    body = written(said)
    own = len(body) - body.rindex(b"\x1f\x8b\x08")
    tail = body[-own - more :]
    short = len(gzip.decompress(body[-own:])) <= 4096 and own <= 4096
    assert end_in(tail) == (said[-1] if short else None)
    lines = gzip.decompress(body).splitlines(keepends=True)
    of_table = (b'{"typ":"m"', b'{"typ":"t"')
    assert [line for line in lines if not line.startswith(of_table)] == [manifest.encode(e) + b"\n" for e in said]
    assert end_in(body[-own + 1 :]) is None
    assert end_in(tail + b"x") is None


@unhurried
@given(st.binary() | st.binary().map(gzipping.compress), st.binary())
@example(gzipping.compress(b'{"typ":"end","counts":{},"bytes":0,"problems":0}'), b"")
@example(gzipping.compress(b'{"typ":"d","path":"/"}\n'), b"")
@example(b"\x1f\x8b\x08" * 500, b"")
def test_no_end_is_read_from_other_bytes(tail: bytes, before: bytes) -> None:
    """What is not a last line is none, and no error."""
    assert end_in(before + tail) is None


@unhurried
@given(paths)
@example(b"\xff")
@example(b"\xed\xa0\x80")
@example("e\u0301".encode())
@example(b"\n\0\x1b")
def test_any_path_comes_back(path: bytes) -> None:
    """Every path a kernel can have survives the way through JSON byte by byte."""
    entry = manifest.decode(manifest.encode(Directory(**manifest.named(path))))
    assert isinstance(entry, Directory)
    assert entry.path_bytes == path


@unhurried
@given(manifests(), st.data())
def test_truncated_manifest(said: list[Entry], data: st.DataObject) -> None:
    """A manifest cut short anywhere is damaged."""
    body = written(said)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(FormatError):
        _read(body[:cut], [])


@unhurried
@given(manifests(), st.data(), sizes)
def test_flipped_byte(said: list[Entry], data: st.DataObject, cuts: list[int]) -> None:
    """A manifest with a byte changed is damaged, or (in gzip's header) says the very same; nothing else happens."""
    body = bytearray(written(said))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        found = _read(bytes(body), cuts)
    except FormatError:
        return
    assert found == said


@unhurried
@given(st.binary(), sizes)
@example(b"", [])
@example(b"\x1f\x8b", [])
def test_any_bytes(body: bytes, cuts: list[int]) -> None:
    """Bytes that are no manifest are refused, never with another error."""
    with pytest.raises(FormatError):
        _read(body, cuts)
    with pytest.raises(FormatError):
        _read(gzipping.compress(body), cuts)


@unhurried
@given(st.lists(entries | headers | ends, max_size=6))
def test_order_of_lines(said: list[Entry]) -> None:
    """Only a run's line, entries, and the end, in that order, are a manifest."""
    kinds = [type(entry) for entry in said]
    whole = (
        len(said) > 1
        and kinds[0] is RunHeader
        and kinds[-1] is End
        and RunHeader not in kinds[1:]
        and End not in kinds[:-1]
    )
    try:
        found = _read(written(said), [])
    except FormatError:
        assert not whole
    else:
        assert whole
        assert found == said


@unhurried
@given(st.integers(), headers)
def test_other_formats(number: int, header: RunHeader) -> None:
    """A manifest of a format not known is refused rather than guessed at."""
    header.format = number % 2**60 + manifest.FORMAT + 1
    with pytest.raises(FormatError, match="newer"):
        _read(written([header, End(counts={}, bytes=0, problems=0)]), [])


@unhurried
@given(st.binary())
def test_empty_file_has_no_place(path: bytes) -> None:
    """A file without an object has no location, before and after the journey."""
    made = File(**manifest.named(path), sha=hashlib.sha256().hexdigest())
    found = manifest.decode(manifest.encode(made))
    assert isinstance(found, File)
    assert found.location is None


@unhurried
@given(st.text())
def test_damaged_pathb(text: str) -> None:
    """A path's exact bytes that are no base64 are refused when they are asked for."""
    entry = Directory(path="x", pathb=text)
    try:
        found = entry.path_bytes
    except FormatError:
        return
    assert isinstance(found, bytes)
