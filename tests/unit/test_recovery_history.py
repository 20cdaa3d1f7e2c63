"""Which runs a bucket holds, whatever somebody has done to it since."""

from collections.abc import Callable

import pytest
import uvloop

from sysbackup.errors import FormatError, RestoreError, UsageError
from sysbackup.formats import keys
from sysbackup.formats.manifest import Entry, File, RunHeader
from sysbackup.recovery import history
from tests.unit.recovering import HOST, RUN, Backup, header, written

EARLIER = "20261122T041500Z-0001"
LATER = "20261124T041500Z-0002"


@pytest.fixture
def backup() -> Backup:
    """A bucket with three runs of one host."""
    made = Backup()
    made.file(b"/etc/hosts", b"127.0.0.1 localhost\n")
    for run in (LATER, EARLIER, RUN):
        made.stored(run)
    return made


def _found(backup: Backup, run: str, host: str | None = None) -> history.Run:
    return uvloop.run(history.find_run(backup.store, run, host))


def _entries(backup: Backup, run: str = RUN) -> list[Entry]:
    async def read() -> list[Entry]:
        found = await history.find_run(backup.store, run)
        return [entry async for entry in history.entries(backup.store, found)]

    return uvloop.run(read())


def test_runs_come_oldest_first(backup: Backup) -> None:
    """All runs are listed, the newest last."""
    runs = uvloop.run(history.runs(backup.store))
    assert [r.run for r in runs] == [EARLIER, RUN, LATER]
    assert {r.host for r in runs} == {HOST}
    assert not any(r.oddity for r in runs)


def test_latest_run(backup: Backup) -> None:
    """`latest` is the newest run."""
    assert _found(backup, "latest").run == LATER


def test_run_by_its_beginning(backup: Backup) -> None:
    """A run is found by as much of its name as no other has."""
    assert _found(backup, "20261124").run == LATER
    assert _found(backup, RUN, HOST).run == RUN
    assert _found(backup, "20261122", HOST).run == EARLIER


def test_beginning_of_several_runs(backup: Backup) -> None:
    """A beginning that fits several runs is refused, and they are named."""
    with pytest.raises(UsageError, match=f"{EARLIER}.*{LATER}"):
        _found(backup, "202611")


@pytest.mark.parametrize(("run", "host"), [("20270101", None), ("latest", "beta"), (RUN, "alph")])
def test_no_such_run(backup: Backup, run: str, host: str | None) -> None:
    """Where nothing fits, that is said; a host's name is never cut short."""
    with pytest.raises(RestoreError, match="holds no run"):
        _found(backup, run, host)


def test_latest_of_several_hosts(backup: Backup) -> None:
    """`latest` of a bucket that several hosts share needs a host, and the message names them."""
    backup.stored("20261125T041500Z-0003", "beta")
    with pytest.raises(UsageError, match="alpha, beta"):
        _found(backup, "latest")
    assert _found(backup, "latest", HOST).run == LATER
    assert _found(backup, "latest", "beta").run == "20261125T041500Z-0003"


def test_delete_marker_hides_nothing(backup: Backup) -> None:
    """A manifest under a delete marker is found and read, and the marker is told."""
    backup.bucket.hide(keys.manifest_key(HOST, LATER))
    found = _found(backup, "latest")
    assert found.run == LATER
    assert "delete marker" in (found.oddity or "")
    assert any(isinstance(e, File) for e in _entries(backup, LATER))


def test_manifest_written_over(backup: Backup) -> None:
    """Of a manifest's versions the oldest is the genuine one: what was written over it later is not read."""
    backup.bucket.add(keys.manifest_key(HOST, RUN), written([header()]))
    backup.bucket.hide(keys.manifest_key(HOST, RUN))
    found = _found(backup, RUN)
    assert found.rivals == 1
    assert "oldest" in (found.oddity or "")
    assert [e.path for e in _entries(backup) if isinstance(e, File)] == ["/etc/hosts"]


@pytest.mark.parametrize("key", ["manifests/alpha/notes.txt", "manifests/alpha/x.jsonl.gz", "manifests/x/y/z.jsonl.gz"])
def test_foreign_objects_are_no_runs(backup: Backup, key: str) -> None:
    """What lies among the manifests but is named otherwise is passed over."""
    backup.bucket.add(key, b"?")
    assert len(uvloop.run(history.runs(backup.store))) == 3


def test_entries_come_in_order(backup: Backup) -> None:
    """The entries come as they were written, from the run's line to the last."""
    found = _entries(backup)
    assert isinstance(found[0], RunHeader)
    assert [e.path for e in found if isinstance(e, File)] == ["/etc/hosts"]


def _cut(body: bytes) -> bytes:
    return body[:-20]


def _flipped(body: bytes) -> bytes:
    return body[:30] + bytes([body[30] ^ 1]) + body[31:]


def _of_another(_: bytes) -> bytes:
    return written([header(run=EARLIER)])


def _nothing(_: bytes) -> bytes:
    return b""


def _no_gzip(_: bytes) -> bytes:
    return b"this is no manifest"


@pytest.mark.parametrize("damage", [_cut, _flipped, _of_another, _nothing, _no_gzip])
def test_damaged_manifest(damage: Callable[[bytes], bytes]) -> None:
    """A damaged manifest is an error that names run and object, never a shorter list."""
    backup = Backup()
    for n in range(100):
        backup.file(b"/etc/%d" % n)
    key = backup.stored()
    kept = backup.bucket.objects[key][0]
    kept.body = damage(kept.body)
    with pytest.raises(FormatError, match=f"(?s){RUN}.*{key}"):
        _entries(backup)


def test_header_alone(backup: Backup) -> None:
    """The first line is had without reading the rest."""

    async def read() -> RunHeader:
        found = await history.find_run(backup.store, RUN)
        return await history.header(backup.store, found)

    assert uvloop.run(read()).host == HOST
