"""Format 2 of the manifest: members that depend on nothing but their entries, and a table that is true or refused."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping, manifest, manifest_members, manifest_table
from sysbackup.formats.lines import LaterFormat
from sysbackup.formats.manifest import Directory, Entry, File, Node
from sysbackup.formats.manifest_members import LOG, ManifestMember, begins, further, members
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.formats.manifest_writing import ManifestWriter
from tests.support.recovering import END, header, of_members, written

unhurried = settings(deadline=None)

names = st.binary(min_size=1, max_size=3)
trees = st.sets(names.map(lambda name: b"/" + name), max_size=40).map(sorted)


@contextmanager
def small() -> Iterator[None]:
    """Members and tables of few lines."""
    with ExitStack() as stack:
        for name, value in (("_FEWEST", 1), ("LINES", 4), ("_ONE_IN", 3), ("TEXT", 400)):
            stack.enter_context(mock.patch.object(manifest_members, name, value))
        stack.enter_context(mock.patch.object(manifest_table, "ROWS", 2))
        yield


def nodes(paths: Sequence[bytes]) -> list[Entry]:
    return [Directory(**manifest.named(path)) for path in paths]


def lines(paths: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return ((path, manifest.encode(Directory(**manifest.named(path)))) for path in paths)


def read(body: bytes, step: int = 1 << 20) -> list[Entry]:
    reader = ManifestReader()
    found = [entry for at in range(0, len(body), step) for entry in reader.feed(body[at : at + step])]
    reader.finish()
    return found


@unhurried
@given(trees, st.integers(1, 300))
@example([], 1)
def test_many_members_and_levels_are_one_manifest(paths: list[bytes], step: int) -> None:
    """However many members there are, and levels of their table: the same entries come out."""
    said = [header(), *nodes(paths), END]
    with small():
        assert read(written(said), step) == said


@unhurried
@given(trees, st.data())
def test_ranges_may_be_cut_apart(paths: list[bytes], data: st.DataObject) -> None:
    """Ranges of paths that are cut each by itself, in whichever process, are the same manifest."""
    with small():
        cut = data.draw(st.integers(0, len(paths)))
        apart = [*members(lines(paths[:cut])), *members(lines(paths[cut:]))]
        assert read(of_members(header(), apart, END)) == [header(), *nodes(paths), END]
        if cut < len(paths) and begins(paths[cut]):
            # the least of lines, here 1, is the one thing that is told from before
            assert apart == [*members(lines(paths))]


def test_what_two_runs_have_in_common_is_equal_members() -> None:
    """One entry more, or another one, costs the members around it, of hundreds."""
    paths = [b"/srv/data/f%06d" % number for number in range(50_000)]
    before = {member.sha for member in members(lines(paths))}
    assert 120 < len(before) < 200
    for changed in (paths[:20_000] + paths[20_001:], sorted([*paths, b"/srv/data/f020000a"])):
        after = {member.sha for member in members(lines(changed))}
        assert 1 <= len(after - before) <= 5


def test_members_are_bounded() -> None:
    """By their lines, and by their bytes where lines are long: one line of 8 MiB is one member, never two of them."""
    found = [*members((b"/%d" % number, b"x" * 100) for number in range(20_000))]
    assert {64 <= member.lines <= 1024 for member in found[:-1]} == {True}
    long = [*members((b"/%d" % number, b"x" * (8 << 20)) for number in range(3))]
    assert [member.lines for member in long] == [1, 1, 1]
    mixed = [*members((b"/%d" % number, b"x" * (300 << 10)) for number in range(10))]
    assert [member.lines for member in mixed] == [3, 3, 3, 1]
    assert [member.lines for member in further([b"x" * 100] * 3000, LOG)] == [1024, 1024, 952]
    assert [member.lines for member in further([b"x" * (600 << 10)] * 3, LOG)] == [1, 1, 1]
    for member in (*found, *long, *mixed):
        assert member.sha == hashlib.sha256(member.packed).digest()
        assert len(gzip.decompress(member.packed)) <= max(1 << 20, (8 << 20) + 1)


def test_members_in_the_wrong_order_are_not_written() -> None:
    """What would be locked for years and refused by every reader never leaves the machine."""
    first, second = [*members(lines([b"/a"])), *members(lines([b"/b"]))]
    for wrong in ([second, first], [first, first], [*further([b"{}"], LOG), first]):
        with pytest.raises(FormatError):
            of_members(header(), wrong, END)


def texts(body: bytes) -> list[bytes]:
    """What is in each member."""
    inflater = gzipping.MemberInflater()
    found, text = [], b""
    for piece in inflater.members(body):
        if isinstance(piece, bytes):
            text += piece
        else:
            found.append(text)
            text = b""
    return found


def packed(texts: Sequence[bytes]) -> bytes:
    return b"".join(map(gzipping.compress, texts))


SAID = [header(), *nodes([b"/%03d" % number for number in range(30)]), END]
with small():
    TEXTS = texts(written(SAID))


@unhurried
@given(st.data())
def test_another_row_of_members_is_refused(data: st.DataObject) -> None:
    """Members left out, repeated, exchanged, joined or cut: the table tells."""
    with small():
        changed = [*TEXTS]
        at, other = (data.draw(st.integers(0, len(TEXTS) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["left out", "repeated", "exchanged", "joined", "cut", "empty"])):
            case "left out":
                del changed[at]
            case "repeated":
                changed.insert(other, changed[at])
            case "exchanged":
                changed[at], changed[other] = changed[other], changed[at]
            case "joined":
                changed[at : at + 2] = [b"".join(changed[at : at + 2])]
            case "cut":
                end = data.draw(st.integers(0, len(changed[at])))
                changed[at : at + 1] = [changed[at][:end], changed[at][end:]]
            case "empty":
                changed.insert(at, b"")
        if changed != TEXTS:
            with pytest.raises(FormatError):
                read(packed(changed), data.draw(st.sampled_from([1, 50, 1 << 20])))


@pytest.mark.parametrize("wrong", [{"first": b"/0"}, {"sha": bytes(32)}, {"lines": 7}])
@pytest.mark.parametrize("number", [0, 5])
def test_a_table_that_tells_of_other_members_is_refused(number: int, wrong: dict[str, Any]) -> None:
    """All of it hangs together, up to the line that leads to it: but it is not true."""
    with small():
        stretches = [*members(lines([b"/%03d" % n for n in range(30)]))]
        at = stretches[number]
        if "first" in wrong and number:
            wrong = {"first": at.first + b"\0"}
        stretches[number] = replace(at, **wrong)
        with pytest.raises(FormatError, match="not that of its members"):
            read(of_members(header(), stretches, END))


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": 3}, {"host": "beta"}, {"run": "20261123T041500Z-3fa8"}, {"off": 0}, {"off": -1}, {"len": 1},
        {"lvl": 0}, {"lvl": -1}, {"sha": "0" * 64}, {"sha": ""}, {"typ": "m"}, {"off": None}, {"lvl": 1 << 70},
    ],
)  # fmt: skip
def test_a_last_member_that_leads_elsewhere_is_refused(wrong: dict[str, object]) -> None:
    """Nobody reads from the middle what is not there when all is read."""
    root, end = TEXTS[-1].splitlines(keepends=True)
    with small():
        assert read(packed([*TEXTS[:-1], root + end])) == SAID
        for last in (
            json.dumps(json.loads(root) | wrong).encode() + b"\n" + end,
            end,
            root,
            end + root,
            root * 2 + end,
        ):
            with pytest.raises(FormatError):
                read(packed([*TEXTS[:-1], last]))


def test_members_of_earlier_manifests_are_a_later_versions() -> None:
    """There is room for them in the table; who cannot follow says so."""
    row = {"typ": "m", "first": "/a", "n": 1, "off": 0, "len": 20, "sha": "0" * 64, "dat": "manifests/a/b", "ver": "v"}
    with pytest.raises(LaterFormat, match="later version"):
        manifest_table.rows(json.dumps(row).encode() + b"\n", 0, 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"off": -1}, {"len": 17}, {"len": 1 << 40}, {"off": 990}, {"n": 0}, {"lvl": 1}, {"of": "x"}, {"of": "log"},
        {"first": ""}, {"off": 1 << 80}, {"firstb": "!"}, {"typ": "t"},
    ],
)  # fmt: skip
def test_rows_that_cannot_be(wrong: dict[str, object]) -> None:
    """They are refused where they are read alone, too."""
    row = {"typ": "m", "first": "/a", "n": 1, "off": 0, "len": 20, "sha": "0" * 64}
    line = json.dumps(row).encode() + b"\n"
    assert manifest_table.rows(line, 0, 1000)[0].first == "/a"
    with pytest.raises(FormatError):
        manifest_table.rows(json.dumps(row | wrong).encode() + b"\n", 0, 1000)
    for text in (line * 2, line[:-1], b"\n", line * 600):
        with pytest.raises(FormatError):
            manifest_table.rows(text, 0, 1 << 30)


@pytest.mark.parametrize("paths", [[b"/b", b"/a"], [b"/a", b"/a"]])
def test_entries_that_are_not_sorted(paths: list[bytes]) -> None:
    """They would be found by one who reads all of them, and not by one who looks them up."""
    text = b"".join(line + b"\n" for _, line in lines(paths))
    body = gzipping.compress(text)
    member = ManifestMember(paths[0], body, hashlib.sha256(body).digest(), 2)
    with pytest.raises(FormatError, match="not sorted"):
        read(of_members(header(), [member], END))


def test_the_writer_holds_the_table_alone() -> None:
    """Packed, of which a member takes some 75 bytes, and not what was added."""
    writer = ManifestWriter(header())
    writer.begin()
    paths = [b"/srv/data/directory %03d/file %06d" % (number // 1000, number) for number in range(100_000)]
    added = 0
    for member in members(lines(paths)):
        writer.add(member)
        added += 1
    table = sum(len(piece) for piece in writer.end(END))
    assert table < added * 100


def test_a_file_among_directories_keeps_its_fields() -> None:
    """Nothing of an entry is lost on its way through members."""
    said: list[Entry] = [header(), File(path="/a", size=3, sha="0" * 64, key="k", version="v"), END]
    assert read(written(said)) == said
    assert [e.path for e in said if isinstance(e, Node)] == ["/a"]
