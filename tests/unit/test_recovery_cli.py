"""`list`, `ls`, `restore` and `restore-snapshot` at the command line: what is printed, and the exit status."""

import hashlib
import json
import os
import pty
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sysbackup.api import restorer
from sysbackup.cli.main import invoke
from sysbackup.config.sections import Config
from sysbackup.errors import AccessDenied
from sysbackup.formats import keys
from sysbackup.formats.manifest import CharDevice, End, Fifo, File, Snapshot
from sysbackup.store.port import ObjectStore
from tests.support.failing import FailingStore, at
from tests.support.recovering import HOST, MOMENT, MTIME, NOW, RUN, Backup, header, older, tree, written

OLDER = "20261122T041500Z-0001"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, mount and make devices")
DATA = b"\x00\xff data of a snapshot\n" * 1000


@pytest.fixture
def backup() -> Backup:
    """One run with a bit of everything."""
    made = Backup()
    made.directory(b"/etc")
    made.file(b"/etc/hosts", b"127.0.0.1\n")
    made.file(b"/etc/su\x1b[31m", b"x", "u::rwx,u:daemon:r--,g::r-x,m::r-x,o::r-x", flags="s--")
    made.link(b"/etc/link", b"hosts")
    made.entries.append(
        CharDevice(path="/etc/null", acl="u::rw-,g::rw-,o::rw-", owner=7, major=1, minor=3, mtime=MTIME)
    )
    made.entries.append(Fifo(path="/etc/pipe", mode=0o640, mtime=-1))
    kept = made.bucket.add(f"snapshots/{HOST}/{RUN}-db", DATA)
    made.entries.append(
        Snapshot(
            name="db",
            key=kept.key,
            version=kept.version,
            size=len(DATA),
            sha=hashlib.sha256(DATA).hexdigest(),
            description="the database",
            started=MOMENT,
            finished=MOMENT,
        )
    )
    return made


@dataclass
class Command:
    """Runs a command line against a store; returns its exit status."""

    backup: Backup
    directory: Path
    store: ObjectStore

    def __call__(self, *arguments: object) -> int:
        if not any(key.startswith("manifests/") for key in self.backup.bucket.objects):
            self.backup.stored()
        return invoke(["--config-dir", str(self.directory), *map(str, arguments)])


@pytest.fixture
def command(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Command lines against that backup."""
    conf = tmp_path / "conf.d"
    conf.mkdir()
    (conf / "conf").write_text("[s3]\nbucket = test\n")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    made = Command(backup, conf, backup.store)

    @asynccontextmanager
    async def opened(_: Config) -> AsyncIterator[ObjectStore]:
        yield made.store

    monkeypatch.setattr(restorer, "open_store", opened)
    return made


def test_list(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """`list` shows each run with host and start, in UTC."""
    backup.stored()
    backup.stored("20261124T041500Z-0002", "beta")
    assert command("list") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].split()[:5] == [RUN, HOST, "2026-11-23", "04:15", "UTC"]
    assert lines[2].startswith("20261124T041500Z-0002")
    assert command("list", "--host", "beta", "--json", "--long") == 0
    (only,) = json.loads(capfd.readouterr().out)
    assert only["host"] == "beta"
    assert only["promise"] == "2026-11-23T04:15:00Z"


def test_list_tells_how_backups_ended(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """Outcome, files and bytes come from the manifest's last line, the promise from its first."""
    backup.stored()
    end = End(counts={"f": 1200}, bytes=3 << 20, problems=2)
    later = "20261124T041500Z-0000000000000002"
    backup.bucket.add(
        keys.manifest_key(HOST, later), written([header(later, promise=NOW, lock="GOVERNANCE"), *backup.entries, end])
    )
    assert command("list", "--long") == 0
    first, second = (re.split(r" {2,}", line) for line in capfd.readouterr().out.splitlines()[1:])
    assert first[3:8] == ["complete", "2026-11-23 04:15 UTC", "test", "2", "11 B"]
    assert second[3:8] == ["2 problems", "2026-11-25 04:15 UTC", "test", "1,200", "3.0 MiB"]
    assert command("list", "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert [(r["outcome"], r["files"], r["problems"]) for r in said] == [("complete", 2, 0), ("incomplete", 1200, 2)]
    assert said[1]["lock"] == "GOVERNANCE"


def test_list_of_what_promises_nothing(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """A backup made without locks says so on every machine."""
    body = written([header(lock="none"), *backup.entries, backup.end()])
    backup.bucket.add(keys.manifest_key(HOST, RUN), body)
    assert command("list", "--long") == 0
    assert "  complete  nothing  " in capfd.readouterr().out
    assert command("list", "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["lock"], "promise" in row) == ("none", False)


def test_list_reads_little(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a large manifest the first and the last bytes alone; one of an older version, all in one member, shows a ?."""
    for n in range(30_000):
        backup.entries.append(File(path=f"/{n}", sha=hashlib.sha256(b"%d" % n).hexdigest(), size=1))
    lines = [header(), *backup.entries, backup.end()]
    size = len(written(lines))
    assert size > 1 << 20
    backup.bucket.add(keys.manifest_key(HOST, RUN), written(lines))
    oldest = older([header(OLDER, format=1), *lines[1:]], members=1)
    backup.bucket.add(keys.manifest_key(HOST, OLDER), oldest)
    store = command.store
    assert command("list", "--json") == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row.get("files") for row in rows] == [None, 30_002]
    assert all(row["tool"] == "test" for row in rows)
    assert store.requests.by_kind["GetObject"] == 4
    assert store.requests.received < 200_000


def test_list_reads_the_newest(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """Of very many backups the newest hundred are looked into, unless all are asked for."""
    for n in range(103):
        backup.stored(f"20261123T041500Z-{n:08x}00000000")
    store = command.store
    assert command("list") == 0
    out, err = capfd.readouterr()
    assert [line.split()[5] for line in out.splitlines()[1:]] == ["-"] * 3 + ["complete"] * 100
    assert "--all" in err
    assert store.requests.by_kind["GetObject"] == 100
    assert command("list", "--all") == 0
    out, err = capfd.readouterr()
    assert out.count("complete") == 103
    assert not err


def test_one_bad_manifest_costs_itself_alone(
    command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands under a manifest's key, the others are shown, and what is wrong is told."""
    bad = {
        "20261120T041500Z-0001": b"rubbish",
        "20261120T041500Z-0002": b"",
        "20261120T041500Z-0003": written([header(RUN), backup.end()]),
        "20261120T041500Z-0004": written([header("20261120T041500Z-0004")]),
        "20261120T041500Z-0005": written(
            [header("20261120T041500Z-0005"), End(counts={"f": -1}, bytes=1 << 70, problems=0)]
        ),
    }
    for run, body in bad.items():
        backup.bucket.add(keys.manifest_key(HOST, run), body)
    backup.stored()
    assert command("list", "--long") == 0
    out, err = capfd.readouterr()
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[5] for row in rows] == ["?"] * 5 + ["complete"]
    assert [line.split(":")[1].strip() for line in err.splitlines()] == [*bad]
    assert "it says that it is of run" in err


def test_list_for_whoever_may_only_list(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """Without the right to read the runs are shown all the same."""
    backup.stored()
    backup.stored("20261124T041500Z-0002")
    command.store = FailingStore(backup.store, at("read"), lambda: AccessDenied("GetObject was denied"))
    assert command("list") == 0
    out, err = capfd.readouterr()
    assert [line.split()[5:8] for line in out.splitlines()[1:]] == [["?", "?", "?"]] * 2
    assert err.count("GetObject was denied") == 1
    assert "2 manifests may not be read" in err


def test_a_disputed_manifest(
    command: Command, backup: Backup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`list` shows all its versions that are manifests, `ls`, `restore` and `restore-snapshot` take each of them."""
    key = backup.stored()
    rival = backup.bucket.add(key, written([header(), File(path="/false"), End(counts={"f": 1}, bytes=0, problems=0)]))
    backup.bucket.add(key, b"rubbish")
    assert command("list") == 0
    out, err = capfd.readouterr()
    assert f"Disputed: {RUN} of {HOST}" in out
    table = out.splitlines()[out.splitlines().index(f"Disputed: {RUN} of {HOST}; choose with --version") + 2 :]
    assert [line.split()[0] for line in table] == [backup.bucket.objects[key][0].version, rival.version]
    assert table[0].endswith("used")
    assert "written over 2 time(s)" in err
    assert command("list", "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert [(v["files"], v["used"]) for v in row["versions"]] == [(2, True), (1, False)]
    assert command("ls", RUN, "--version", rival.version) == 0
    out, err = capfd.readouterr()
    assert out.endswith("/false\n")
    assert "was chosen" in err
    assert command("restore", RUN, "--version", rival.version, "--target", tmp_path / "t", "--json") == 0
    assert json.loads(capfd.readouterr().out)["manifest_version"] == rival.version
    assert [*tree(tmp_path / "t")] == ["false"]
    assert command("restore-snapshot", RUN, "db", "--version", rival.version, "--output", tmp_path / "db") == 1
    assert command("ls", RUN, "--version", "none") == 1
    assert "has no version 'none'" in capfd.readouterr().err


@ROOT
def test_latest_is_not_of_the_future(
    command: Command, backup: Backup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`restore latest` passes over what was stored before it began, and says so; `list` marks it."""
    backup.stored()
    future = "20270101T041500Z-0000a1b2c3d4e5f6"
    backup.stored(future)
    assert command("list") == 0
    assert f"{future}: its name says" in capfd.readouterr().err
    assert command("restore", "latest", "--target", tmp_path / "t", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["run"] == RUN
    assert f"passed over {future}" in err


def test_list_of_nothing(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """An empty bucket is no error."""
    backup.bucket.objects.clear()
    backup.bucket.add("manifests/x", b"")
    assert command("list") == 0
    assert "no backup yet" in capfd.readouterr().out


def test_list_of_a_host_that_has_none(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """A misspelt name is not answered as an empty bucket is; programs get their empty list."""
    assert command("list", "--host", "aplha") == 1
    assert "no backup of aplha" in capfd.readouterr().err
    assert command("list", "--host", "aplha", "--json") == 0
    assert json.loads(capfd.readouterr().out) == []


def test_list_tells_of_tampering(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """A manifest under a delete marker is listed, and the marker told of."""
    backup.bucket.hide(backup.stored())
    assert command("list") == 0
    out, err = capfd.readouterr()
    assert RUN in out
    assert "delete marker" in err


def test_ls(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """`ls` prints like `ls -l`, safe for a terminal, times in UTC."""
    assert command("ls", "latest") == 0
    lines = {line[:10] + line[10:11]: line for line in capfd.readouterr().out.splitlines()}
    assert lines["drwxr-xr-x "].endswith(" 2023-11-14 22:13:20 /etc")
    assert lines["-rw-r--r-- "].split()[1:4] == ["root", "root", "10"]
    assert lines["-rwsr-xr-x+"].endswith(r"/etc/su\x1b[31m")
    assert lines["lrwxrwxrwx "].endswith("/etc/link -> hosts")
    assert "1, 3" in lines["crw-rw-rw- "]
    assert "1969-12-31 23:59:59 /etc/pipe" in lines["prw-r----- "]
    assert lines["snapshot   "].endswith("db  (the database)")


def test_ls_of_paths(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """`ls` with paths prints these alone; one that is not there is told, with status 1."""
    assert command("ls", RUN[:6], "/etc/hosts", "--json") == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["path"] == "/etc/hosts"
    assert command("ls", RUN, "/no/such") == 1
    assert "/no/such" in capfd.readouterr().err
    assert command("ls", RUN, "etc/hosts") == 2


@ROOT
def test_restore(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`restore` brings all back and says how much, status 0."""
    assert command("restore", "latest", "--target", tmp_path / "t") == 0
    assert "Restored 2 files" in capfd.readouterr().out
    assert len(tree(tmp_path / "t")) == 6


def test_restore_with_problems(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What cannot be restored is named on standard error and in the JSON, status 3; the second try overwrites."""
    (tmp_path / "t/etc").mkdir(parents=True)
    (tmp_path / "t/etc/hosts").write_text("mine")
    assert command("restore", RUN, "/etc/hosts", "/etc/link", "--target", tmp_path / "t", "--json") == 3
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert [p["path"] for p in summary["problems"]] == ["/etc/hosts"]
    assert summary["counts"]["symlinks"] == 1
    assert err.count("/etc/hosts") == 1
    assert command("restore", RUN, "/etc/hosts", "--target", tmp_path / "t", "--overwrite") == 0
    assert (tmp_path / "t/etc/hosts").read_text() == "127.0.0.1\n"


def test_restore_needs_a_target(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    """Without --target, or with another name for the root directory, nothing is restored: status 2."""
    assert command("restore", RUN) == 2
    assert command("restore", RUN, "--target", "//") == 2
    assert "--target /" in capfd.readouterr().err


def test_restore_of_damaged_manifest(command: Command, backup: Backup, tmp_path: Path) -> None:
    """A damaged manifest ends in status 1, and nothing is written."""
    backup.stored(cut=-5)
    assert command("restore", RUN, "--target", tmp_path / "t") == 1
    assert not (tmp_path / "t").exists()


def test_snapshot_to_standard_output(command: Command, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A snapshot's data go to standard output, byte by byte."""
    assert command("restore-snapshot", RUN, "db") == 0
    assert capfdbinary.readouterr().out == DATA


def test_snapshot_to_a_file(command: Command, tmp_path: Path) -> None:
    """With --output the data become a file that only its owner may read; an existing one needs --force."""
    out = tmp_path / "out"
    assert command("restore-snapshot", RUN, "db", "--output", out) == 0
    assert out.read_bytes() == DATA
    assert out.stat().st_mode & 0o777 == 0o600
    assert command("restore-snapshot", RUN, "db", "--output", out) == 2
    out.write_text("old")
    assert command("restore-snapshot", RUN, "db", "--output", out, "--force") == 0
    assert out.read_bytes() == DATA
    assert command("restore-snapshot", RUN, "db", "--output", tmp_path / "no/such") == 1


def test_damaged_snapshot_makes_no_file(
    command: Command, backup: Backup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Damaged data make no file, nor replace one: status 1, and the object is named."""
    key = next(k for k in backup.bucket.objects if k.startswith("snapshots/"))
    backup.bucket.objects[key][0].body = DATA[:-1] + b"?"
    (tmp_path / "out").write_text("old")
    assert command("restore-snapshot", RUN, "db", "--output", tmp_path / "out", "--force") == 1
    assert (tmp_path / "out").read_text() == "old"
    assert key in capfd.readouterr().err
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_snapshot_through_its_command(
    command: Command, backup: Backup, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --run the recorded command is shown and gets the data, once somebody has agreed to it."""
    snapshot = next(e for e in backup.entries if isinstance(e, Snapshot))
    snapshot.restore = f"cat > '{tmp_path}/through'"
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert command("restore-snapshot", RUN, "db", "--run") == 2
    assert "cat > " in capfd.readouterr().err
    assert not (tmp_path / "through").exists()
    assert command("restore-snapshot", RUN, "db", "--run", "--yes") == 0
    assert (tmp_path / "through").read_bytes() == DATA


def test_restore_command_that_fails(command: Command, backup: Backup, capfd: pytest.CaptureFixture[str]) -> None:
    """A restore command that fails, or was never recorded, is an error: status 1."""
    assert command("restore-snapshot", RUN, "db", "--run", "--yes") == 1
    assert "no restore command" in capfd.readouterr().err
    next(e for e in backup.entries if isinstance(e, Snapshot)).restore = "cat >/dev/null; exit 7"
    del backup.bucket.objects[keys.manifest_key(HOST, RUN)]
    assert command("restore-snapshot", RUN, "db", "--run", "--yes") == 1
    assert "status 7" in capfd.readouterr().err


def test_damaged_data_do_not_pass_for_whole(command: Command, backup: Backup, tmp_path: Path) -> None:
    """A restore command that gets damaged data is killed before it could take their end for the end."""
    key = next(k for k in backup.bucket.objects if k.startswith("snapshots/"))
    backup.bucket.objects[key][0].body = b"?" + DATA[1:]
    snapshot = next(e for e in backup.entries if isinstance(e, Snapshot))
    snapshot.restore = f"cat > '{tmp_path}/got'; touch '{tmp_path}/complete'"
    assert command("restore-snapshot", RUN, "db", "--run", "--yes") == 1
    assert not (tmp_path / "complete").exists()


def test_no_data_on_a_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binary data do not go to a terminal unless that is forced."""
    ours, theirs = pty.openpty()
    with open(ours, "rb"), open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert command("restore-snapshot", RUN, "db") == 2


@ROOT
def test_getfacl_agrees(command: Command, tmp_path: Path) -> None:
    """The ACL that `ls` marks with a + is there after the restore."""
    assert command("restore", RUN, "/etc/su\x1b[31m", "--target", tmp_path / "t") == 0
    shown = subprocess.run(
        ["getfacl", "-p", str(tmp_path / "t/etc/su\x1b[31m")], capture_output=True, text=True, check=True
    ).stdout
    assert "user:daemon:r--" in shown
    assert "# flags: s--" in shown


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], None]:
    """Makes this machine one that makes backups, under that name."""

    def configure(host: str) -> None:
        (tmp_path / "conf.d/conf").write_text(f"[s3]\nbucket = test\n[content]\nhost = {host}\n")

    return configure


@ROOT
def test_own_host_is_the_default(
    command: Command, backup: Backup, own: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where backups are made, `latest` and a name's beginning mean this machine's own; --host chooses another's."""
    backup.stored()
    other = Backup(backup.bucket)
    other.file(b"/etc/other", b"x")
    other.stored("20261124T041500Z-0002", "beta")
    assert command("ls", "latest") == 2  # a rescue system's bare conf: of several hosts one must be named
    assert "--host" in capfd.readouterr().err
    own(HOST)
    for arguments in (["ls", "latest", "--json"], ["ls", "2026", "--json"]):
        assert command(*arguments) == 0
        assert '"/etc/hosts"' in capfd.readouterr().out
    assert command("restore", "latest", "--target", tmp_path / "mine") == 0
    assert (tmp_path / "mine/etc/hosts").exists()
    assert command("restore-snapshot", "latest", "db", "--output", tmp_path / "db") == 0
    assert command("restore", "latest", "--host", "beta", "--target", tmp_path / "theirs") == 0
    assert set(tree(tmp_path / "theirs")) == {"etc", "etc/other"}
    capfd.readouterr()
    assert command("list") == 0
    assert "beta" in capfd.readouterr().out


def test_own_host_without_a_backup(
    command: Command, backup: Backup, own: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """Where this machine has no backup, the error names those that have one, and nobody else's is taken instead."""
    backup.stored()
    own("gamma")
    for name in ("latest", RUN, RUN[:10]):
        assert command("ls", name) == 1
        out, err = capfd.readouterr()
        assert not out
        assert HOST in err
        assert "gamma" in err
        assert "--host" in err
    assert command("ls", "2031") == 1
    assert "--host" not in capfd.readouterr().err
    assert command("ls", RUN, "--host", HOST) == 0


def test_what_is_wrong_with_a_run_of_this_machine_is_said(
    command: Command, backup: Backup, own: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """A version that there is not, or runs from the future: that, and not that this machine has no backup."""
    future = "20261126T041500Z-0003"
    backup.stored(future)
    own(HOST)
    for arguments, says in (
        ((future, "--version", "wrong"), "has no version 'wrong'; it has: "),
        (("latest",), "are from the future"),
        (("latest", "--version", "wrong"), "are from the future"),
    ):
        assert command("ls", *arguments) == 1
        err = capfd.readouterr().err
        assert says in err
        assert "which is this machine" not in err


def test_machine_with_a_picker_has_a_host(
    command: Command, backup: Backup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A conf that does not say `host` means the machine's own name, once there is a picker."""
    backup.stored()
    assert command("ls", "latest") == 0
    (tmp_path / "conf.d/pickers.d").mkdir()
    (tmp_path / "conf.d/pickers.d/all").write_text("#!/bin/sh\n")
    capfd.readouterr()
    assert command("ls", "latest") == 1
    assert f"there is one of {HOST}" in capfd.readouterr().err
