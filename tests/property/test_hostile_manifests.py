"""A manifest by somebody who means harm costs itself alone: every command tells of it, for people, and goes on."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sysbackup.api import restorer
from sysbackup.cli.main import invoke
from sysbackup.config.sections import Config
from sysbackup.formats import gzipping, keys, manifest
from sysbackup.formats.manifest import BlockDevice, Entry, Fifo, File, Log, Snapshot
from tests.support.memory_store import MemoryStore
from tests.support.recovering import HOST, MOMENT, MTIME, RUN, Backup, header

OLDER, NEWER = "20261122T041500Z-0001", "20261124T041500Z-0002"

unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)

numbers = st.sampled_from(
    [0, -1, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, -(2**63), 2**80, 10**300, 10**4000]
) | st.integers(-(2**70), 2**70)
dates = st.sampled_from(
    [
        "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-14:00", "2026-01-01T00:00:00",
        "9999-12-31T23:59:59Z", "1969-01-01T00:00:00+00:00", "0000-00-00T00:00:00Z",
    ]
)  # fmt: skip
TEXTS = [
    "", "/", "//", "/..", "/../outside/x", "/a/../../outside/x", "../outside/x", "/outside", "a\0b", "\x1b[2J\x9b31m",
    "x" * 20_000, "/" + "n" * 300, "/d" * 3000, "/" * 70_000, "gzip", "zstd", "null", "\u202e\U0001f600", "f" * 64,
    "content/" + "0" * 64, "content/../manifests", "packs/x", "AAAA", "=", "u::rwx", "u:x\0y:rwx,g::r-x,o::r-x",
    "u::rw-,u:" + "9" * 30 + ":rw-,g::r--,m::rw-,o::---", "sst", "root", "a" * 2000 + "\n", "2026-01-01T00:00:00Z",
]  # fmt: skip
texts = st.integers(0, len(TEXTS) - 1).map(TEXTS.__getitem__) | st.text(max_size=40)
values: st.SearchStrategy[Any] = st.one_of(
    numbers, dates, texts, st.none(), st.booleans(), st.floats(), st.lists(texts, max_size=3),
    st.dictionaries(texts, texts | numbers, max_size=3),
)  # fmt: skip
anything: st.SearchStrategy[Any] = st.deferred(
    lambda: values | st.lists(anything, max_size=4) | st.dictionaries(texts, anything, max_size=4)
)


def _written_once() -> tuple[Backup, list[Entry]]:
    """A bucket, and what a manifest can say of it, of each kind something."""
    backup = Backup()
    backup.directory(b"/d", "u::rwx,g::r-x,o::r-x,d:u::rwx,d:g::r-x,d:o::---")
    backup.file(b"/d/good", b"good")
    backup.file(b"/d/packed", b"packed", xattrs={"user.a": "aGk="}, flags="s--")
    backup.file(b"/d/linked", b"linked", link="1")
    backup.file(b"/d/linked2", b"linked", link="1")
    backup.file(b"/d/alone", bytes(2 << 20))
    backup.file(b"/d/caf\xe9", b"")
    backup.link(b"/d/link", b"good")
    snapshot = backup.bucket.add("snapshots/alpha/x", b"abc")
    backup.entries += [
        Fifo(path="/d/pipe", mode=0o640, mtime=MTIME),
        BlockDevice(path="/d/loop", acl="u::rw-,g::rw-,o::---", major=7, minor=1, mtime=MTIME),
        Snapshot(
            name="db", key=snapshot.key, version=snapshot.version, size=3, sha=hashlib.sha256(b"abc").hexdigest(),
            description="d", restore="true", started=MOMENT, finished=MOMENT,
        ),
        Log(time=MOMENT, event="file.skipped", path="/x", reason="gone"),
    ]  # fmt: skip
    backup.pack()
    said = [header(format=1), *backup.entries, backup.end()]
    for run in (OLDER, NEWER):
        good = Backup(backup.bucket)
        good.file(b"/good", run.encode())
        good.stored(run)
    return backup, said


BACKUP, ENTRIES = _written_once()
SAID = [msgspec.json.decode(manifest.encode(entry)) for entry in ENTRIES]
GOOD = next(n for n, entry in enumerate(ENTRIES) if isinstance(entry, File) and entry.path == "/d/good")


def _line(line: Any) -> bytes:
    if isinstance(line, bytes):
        return line
    try:
        return json.dumps(line).encode()
    except ValueError:  # an integer of more digits than Python turns into text
        return json.dumps(str(type(line))).encode()


def _packed(lines: Sequence[Any]) -> bytes:
    return gzipping.compress(b"".join(_line(line) + b"\n" for line in lines))


WHOLE = _packed(SAID)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a configuration, and a place outside of all targets."""
    base = Path(tempfile.mkdtemp(prefix="sysbackup-test-"))
    (base / "conf").write_text("[s3]\nbucket = test\n")
    (base / "outside").mkdir()
    (base / "outside/kept").write_text("kept")
    yield base
    shutil.rmtree(base)


class Commands:
    """Command lines over the bucket with that manifest among good ones."""

    def __init__(self, place: Path, body: bytes) -> None:
        self._place = place
        self._key = keys.manifest_key(HOST, RUN)
        self._body = body

    def __enter__(self) -> "Commands":
        self._before = _tree(self._place / "outside")
        BACKUP.bucket.add(self._key, self._body)
        return self

    def __exit__(self, *_: object) -> None:
        del BACKUP.bucket.objects[self._key]
        for name in ("target", "other", "db"):
            # deeper than Python's own can go
            subprocess.run(["rm", "-rf", str(self._place / name)], check=True)
        assert _tree(self._place / "outside") == self._before

    def __call__(self, *arguments: str, among: tuple[int, ...] = (0, 1)) -> str:
        """What it prints. It ends with one of these statuses, and all it says is for people's eyes."""

        @asynccontextmanager
        async def opened(_: Config) -> AsyncIterator[MemoryStore]:
            yield BACKUP.store

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(restorer, "open_store", opened))
            stack.enter_context(mock.patch.dict(os.environ, {"CACHE_DIRECTORY": str(self._place)}))
            out = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            err = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            status = invoke(["--config-dir", str(self._place), *arguments])
        said = out.getvalue() + err.getvalue()
        assert status in among, (status, arguments, said)
        assert "Traceback" not in said, said
        assert not [c for c in said if not c.isprintable() and c != "\n"], said
        assert status == 0 or err.getvalue().startswith("sysbackup: ")
        return out.getvalue()


def _tree(place: Path) -> dict[str, tuple[object, ...]]:
    return {
        str(path): ((s := path.lstat()).st_ino, s.st_mode, s.st_uid, s.st_ctime_ns)
        for path in (place, *place.rglob("*"))
    }


def _costs_itself_alone(place: Path, body: bytes, *, good_is_back: bool = False) -> None:
    """All commands over it; `good_is_back`: a restore that began brings that file back whatever else is wrong."""
    with Commands(place, body) as run:
        for name in (OLDER, NEWER):
            (row,) = (line for line in run("list", among=(0,)).splitlines() if line.startswith(name))
            assert "complete" in row
        run("list", "--long", among=(0,))
        listed = {row["run"]: row for row in json.loads(run("list", "--long", "--json", among=(0,)))}
        assert [listed[name]["files"] for name in (OLDER, NEWER)] == [1, 1]
        assert RUN in listed
        run("ls", RUN)
        run("ls", RUN, "--json")
        run("ls", RUN, "/d/good", "/d" * 500)
        run("restore-snapshot", RUN, "db", "--output", str(place / "db"))
        target = place / "target"
        run("restore", RUN, "/d/good", "--target", str(target), among=(0, 1, 3))
        run("restore", RUN, "--target", str(target), "--overwrite", among=(0, 1, 3))
        if target.exists() and good_is_back:
            assert (target / "d/good").read_bytes() == b"good"
        for name in (OLDER, NEWER):
            assert "/good" in run("ls", name, among=(0,))
            run("restore", name, "--target", str(place / "other"), "--overwrite", among=(0,))
            assert (place / "other/good").read_text() == name


def _costs_no_other_file(place: Path, number: int, name: str, value: Any) -> None:
    lines = [dict(line) for line in SAID]
    lines[number][name] = value
    path = SAID[number].get("path")
    elsewhere = name not in ("typ", "path", "pathb") and path not in (None, "/d", "/d/good")
    _costs_itself_alone(place, _packed(lines), good_is_back=elsewhere)


@unhurried
@given(st.data())
def test_one_field_is_changed(place: Path, data: st.DataObject) -> None:
    """Whatever stands in one field of one line: nothing outside the target, other lines' files are back."""
    number = data.draw(st.integers(0, len(SAID) - 1))
    more = ["typ", "pathb", "mode", "acl", "sb", "enc", "off", "len", "x", "id", "ver", "lock"]
    name = data.draw(st.sampled_from([*sorted(SAID[number]), *more]))
    _costs_no_other_file(place, number, name, data.draw(anything))


SPOILT = {
    "nothing": b"",
    "no JSON": b"\x00\xff\x1b[2J",
    "deep": b'{"typ":"f","path":"/x","z":' + b"[" * 100_000 + b"}",
    "another end": SAID[-1],
    "another run": SAID[0],
    "a number of 5,000 digits": b'{"typ":"f","path":"/x","sz":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("number", range(len(SAID)))
def test_each_line_is_spoilt(place: Path, number: int, spoilt: str) -> None:
    """Each of the manifest's lines in turn is something else."""
    _costs_itself_alone(place, _packed([*SAID[:number], SPOILT[spoilt], *SAID[number + 1 :]]))


@unhurried
@given(st.lists(st.integers(0, len(SAID) - 1), max_size=30), st.integers(0, 3))
@example([], 1)
@example([*range(1, len(SAID))] * 2, 1)
def test_lines_in_any_order(place: Path, order: list[int], ends: int) -> None:
    """Lines left out, repeated, out of order."""
    _costs_itself_alone(place, _packed([SAID[0], *(SAID[n] for n in order), *[SAID[-1]] * ends]))


@unhurried
@given(anything | st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"typ":"f","path":"/x","o":' + b"[" * 10_000_000)
@example(b'{"typ":"f","path":"\\ud800"}')
@example(b'{"typ":"f","path":"\\ud800\\udc00","tgt":"\xed\xa0\x80"}')
@example(b'{"typ":"\\u001b[31mred' + b"x" * 100_000 + b'"}')
@example(b'{"typ":"f","path":"/x","sz":NaN}')
@example(b'{"typ":"f","path":"/x","sz":-Infinity}')
@example(b'{"typ":"f","path":"/x","sz":1e400}')
@example(b'{"typ":"f","path":"/x","path":"/../outside/x","typ":"l","tgt":"/etc"}')
@example(b'{"typ":"f","typ":"d","path":"/x"}')
@example(b"x" * (33 << 20))
def test_any_line(place: Path, line: Any) -> None:
    """Any JSON, and what only begins like it, as a line or as the first or the last line."""
    for lines in ([SAID[0], line, SAID[-1]], [line, SAID[-1]], [SAID[0], line]):
        _costs_itself_alone(place, _packed(lines))


@unhurried
@given(st.data())
def test_any_damage(place: Path, data: st.DataObject) -> None:
    """Cut short, with bytes changed, put in or left out."""
    body = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        end = min(len(body), at + data.draw(st.sampled_from([0, 1, 1, 1, 8, len(body)])))
        body[at:end] = data.draw(st.binary(max_size=8))
    _costs_itself_alone(place, bytes(body))


@unhurried
@given(st.binary(max_size=500) | st.binary(max_size=100).map(gzipping.compress))
@example(gzipping.compress(bytes(200 << 20)))
@example(_packed(SAID[:1]) + gzipping.compress(bytes(200 << 20)))
@example(gzipping.compress(b"") * 10_000)
@example(gzipping.compress(b"\n" * (64 << 20)))
@example(WHOLE * 2)
@example(b"".join(map(gzipping.compress, (line + b"\n" for line in map(_line, SAID)))))
@example(WHOLE + b"rubbish")
@example(WHOLE + gzipping.compress(b"rubbish"))
@example(gzipping.compress(WHOLE))
@example(b"\x1f\x8b")
def test_any_bytes(place: Path, body: bytes) -> None:
    """What is no gzip, several members, and what unpacks to hundreds of megabytes."""
    _costs_itself_alone(place, body)
