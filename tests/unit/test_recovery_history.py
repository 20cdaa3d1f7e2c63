"""Which runs a bucket holds, whatever somebody has done to it since."""

from collections.abc import Callable
from datetime import timedelta

import pytest
import uvloop

from sysbackup.errors import FormatError, RestoreError, UsageError
from sysbackup.formats import keys
from sysbackup.formats.manifest import Entry, File, RunHeader
from sysbackup.model import full_name
from sysbackup.recovery import stored_runs
from tests.support.recovering import HOST, NOW, RUN, Backup, header, written

EARLIER = "20261122T041500Z-0001"
LATER = "20261124T041500Z-0002"
WORKING = "20261124T101500Z-80003fa9"
FUTURE = "20261125T043100Z-0000a1b2c3d4e5f6"  # by 16 minutes
LATEST_THINKABLE = "99991231T235959Z-ffffffffffffffff"


@pytest.fixture
def backup() -> Backup:
    """A bucket with three runs of one host."""
    made = Backup()
    made.file(b"/etc/hosts", b"127.0.0.1 localhost\n")
    for run in (LATER, EARLIER, RUN):
        made.stored(run)
    return made


def _found(backup: Backup, run: str, host: str | None = None) -> stored_runs.StoredRun:
    return uvloop.run(stored_runs.find_run(backup.store, run, host))


def _entries(backup: Backup, run: str = RUN) -> list[Entry]:
    async def read() -> list[Entry]:
        found = await stored_runs.find_run(backup.store, run)
        return [entry async for entry in stored_runs.entries(backup.store, found)]

    return uvloop.run(read())


def test_runs_come_oldest_first(backup: Backup) -> None:
    """All runs are listed, the newest last."""
    runs = uvloop.run(stored_runs.runs(backup.store))
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
    assert len(uvloop.run(stored_runs.runs(backup.store))) == 3


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
        found = await stored_runs.find_run(backup.store, RUN)
        return await stored_runs.header(backup.store, found)

    assert uvloop.run(read()).host == HOST


def test_equal_versions_are_one(backup: Backup) -> None:
    """A manifest that was put twice because an answer got lost is no tampering; either version may be named."""
    key = keys.manifest_key(HOST, LATER)
    again = backup.bucket.add(key, backup.bucket.objects[key][0].body)
    found = _found(backup, LATER)
    assert (found.oddity, found.rivals, len(found.distinct), len(found.versions)) == (None, 0, 1, 2)
    assert found.version != again.version
    assert found.but(again.version).oddity is None


def test_no_etag_no_equality(backup: Backup) -> None:
    """Where a listing has no ETags, nothing is known to be equal."""
    key = keys.manifest_key(HOST, LATER)
    for kept in (backup.bucket.objects[key][0], backup.bucket.add(key, backup.bucket.objects[key][0].body)):
        kept.etag = ""
    assert _found(backup, LATER).rivals == 1


def test_a_version_that_was_chosen(backup: Backup) -> None:
    """Any version of a manifest can be read by its id, and is told to be another than the oldest."""
    rival = backup.bucket.add(keys.manifest_key(HOST, RUN), written([header(), File(path="/false"), backup.end()]))

    async def read(version: str) -> list[str]:
        found = await stored_runs.find_run(backup.store, RUN, version=version)
        assert "was chosen" in (found.oddity or "")
        return [e.path async for e in stored_runs.entries(backup.store, found) if isinstance(e, File)]

    assert uvloop.run(read(rival.version)) == ["/false"]
    with pytest.raises(RestoreError, match=f"no version 'x'; it has: .*{rival.version}"):
        uvloop.run(read("x"))


def test_two_manifests_of_one_run(backup: Backup) -> None:
    """Names with one working name are a dispute: `latest` and beginnings are refused, full names and versions serve."""
    names = sorted(full_name(WORKING) for _ in range(2))
    for name in names:
        backup.stored(name)
    for asked in ("latest", WORKING, WORKING[:-6]):
        with pytest.raises(UsageError, match=f"{names[0]}.*{names[1]}"):
            _found(backup, asked)
    for host in (None, HOST):
        found = _found(backup, names[0], host)
        assert (found.run, found.rivals, found.claimants) == (names[0], 0, tuple(names))
        assert names[1] in (found.oddity or "")
    version = backup.bucket.objects[keys.manifest_key(HOST, names[1])][0].version
    assert uvloop.run(stored_runs.find_run(backup.store, WORKING, version=version)).run == names[1]
    # of another host it may be anything
    backup.stored(names[0], "beta")
    assert _found(backup, names[0], "beta").oddity is None


@pytest.mark.parametrize("host", [None, HOST])
@pytest.mark.parametrize("more", [1, 4, 7])
def test_part_of_the_secret_hides_no_rival(backup: Backup, host: str | None, more: int) -> None:
    """Whoever names a run by more than its working name, yet not in full, is told of the dispute, too."""
    ours, theirs = WORKING + "a1b2c3d4", WORKING + "00000000"
    for name in (ours, theirs):
        backup.stored(name)
    found = _found(backup, ours[: len(WORKING) + more], host)
    assert (found.run, found.claimants) == (ours, (theirs, ours))
    assert theirs in (found.oddity or "")


def test_a_working_name_is_no_manifest(backup: Backup) -> None:
    """What lies under the public name of a run was not put there by sysbackup."""
    backup.stored(WORKING)
    name = full_name(WORKING)
    backup.stored(name)
    found = _found(backup, WORKING)
    assert (found.run, found.oddity) == (name, None)


@pytest.mark.parametrize("name", [FUTURE, LATEST_THINKABLE])
def test_a_run_from_the_future(backup: Backup, name: str) -> None:
    """What was stored before it is said to have begun does not become `latest` in silence; its name still serves."""
    backup.stored(name)
    found = uvloop.run(stored_runs.find(backup.store, "latest"))
    assert found.run.run == LATER
    assert name in "".join(found.notes)
    assert "before that" in (_found(backup, name).oddity or "")
    assert not uvloop.run(stored_runs.find(backup.store, LATER)).notes


def test_a_clock_that_is_a_little_fast(backup: Backup) -> None:
    """A quarter of an hour is no future."""
    name = f"{NOW + timedelta(minutes=14):%Y%m%dT%H%M%SZ}-0000a1b2c3d4e5f6"
    backup.stored(name)
    found = uvloop.run(stored_runs.find(backup.store, "latest"))
    assert (found.run.run, found.run.oddity, found.notes) == (name, None, ())


def test_nothing_but_the_future() -> None:
    """Where all runs are from the future there is no `latest`, and they are named."""
    backup = Backup()
    backup.stored(FUTURE)
    with pytest.raises(RestoreError, match=f"from the future.*{FUTURE}"):
        _found(backup, "latest")
    assert _found(backup, FUTURE[:8]).future


def test_an_old_name_written_today(backup: Backup) -> None:
    """A manifest stored long after its start is marked, whether or not it is the latest."""
    old = "20261117T041500Z-00003fa95c0e77d2"
    backup.stored(old)
    found = _found(backup, old)
    assert (found.late, found.future) == (True, False)
    assert "8 days later" in (found.oddity or "")
    assert not _found(backup, EARLIER).late


def test_a_host_by_another_spelling(backup: Backup) -> None:
    """A key whose host is only encoded otherwise is none of that host's manifests."""
    backup.bucket.add(f"manifests/%61lpha/{LATER}.jsonl.gz", written([header(LATER)]))
    assert _found(backup, LATER).oddity is None
    assert len(uvloop.run(stored_runs.runs(backup.store))) == 3
