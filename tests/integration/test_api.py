"""The way in from Python: backups are made, listed and restored as the commands do it, against real servers."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import uvloop

import sysbackup
from sysbackup.errors import BucketUnusable, BusyError, ConfigError, UsageError
from sysbackup.formats.manifest import File
from sysbackup.recovery.restore_report import Options
from tests.support.servers import OnServer


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "file").write_text("content")
    (tree / "below" / "other").write_bytes(os.urandom(5000))
    (tree / "below" / "other").chmod(0o640)
    (tree / "link").symlink_to("file")
    return tree


@pytest.fixture
def directory(tmp_path: Path, served: OnServer, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory as an administrator writes it, that names no bucket."""
    conf = tmp_path / "backup"
    for name, script in (
        ("pickers.d/tree", f"exec find '{tree}' -print0"),
        ("snapshots.d/dump", "printf 'the dump\\n'; head -c 25600 /dev/zero >&$1"),
    ):
        path = conf / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    server = served.server
    (conf / "conf").write_text(
        textwrap.dedent(f"""\
            [aws]
            credentials_file = {server.credentials}
            [s3]
            endpoint_url = {server.endpoint}
            region = us-east-1
            [content]
            host = alpha
            days_retained = 1
            """)
    )
    for name in ("CACHE_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return conf


def looks(tree: Path) -> dict[str, object]:
    """What is in a tree: types, permissions, contents."""
    found: dict[str, object] = {}
    for path in sorted(tree.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        held = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(tree))] = (mode, held)
    return found


def test_a_script_saves_and_restores(directory: Path, served: OnServer, tree: Path, tmp_path: Path) -> None:
    """As its documentation says: a bucket set before the configuration is loaded, and three calls."""
    saver = sysbackup.Saver()
    saver.bucket = served.name
    saver.load_config(directory)
    summary = saver.save_now()
    assert (summary.outcome, summary.bucket, summary.problems, summary.snapshots) == ("complete", served.name, 0, 1)

    restorer = sysbackup.Restorer(bucket=served.name)
    restorer.load_config(directory)
    (run,) = restorer.runs_now()
    assert (run.host, run.run) == ("alpha", summary.run)
    report = restorer.restore_now("latest", tmp_path / "restored")
    assert (report.problems, report.counts.failed) == ((), 0)
    assert looks(tmp_path / "restored" / tree.relative_to("/")) == looks(tree)
    report = restorer.restore_now(summary.run, tmp_path / "some", [tree / "below"], options=Options(workers=0))
    assert looks(tmp_path / "some" / (tree / "below").relative_to("/")) == looks(tree / "below")
    assert not (tmp_path / "some" / (tree / "file").relative_to("/")).exists()


def test_a_program_with_a_loop_of_its_own_does_all_of_it(directory: Path, served: OnServer, tree: Path) -> None:
    """Saved twice, the second time next to nothing; looked into; the snapshot read back."""

    async def work() -> None:
        saver = sysbackup.Saver(served.name)
        saver.load_config(directory)
        stages = []
        first = await saver.save(watch=lambda tally: stages.append(tally.stage))
        again = await saver.save()
        assert stages == ["starting"]
        assert (first.contents, again.contents) == (2, 0)
        restorer = sysbackup.Restorer(served.name)
        restorer.load_config(directory)
        async with restorer.backups() as backups:
            runs = await backups.runs("alpha")
            assert [run.run for run in runs] == [first.run, again.run]
            assert await backups.runs("beta") == []
            found = await backups.find("latest", "alpha")
            assert found.run.run == again.run
            outlines = await backups.outlines(runs)
            assert [outline.end.bytes for outline in outlines if outline.end] == [first.bytes, again.bytes]
            files = [entry async for entry in backups.entries(found.run) if isinstance(entry, File)]
            assert {os.fsdecode(file.path_bytes) for file in files} == {
                str(path) for path in tree.rglob("*") if path.is_file() and not path.is_symlink()
            }
            snapshot = await backups.snapshot(found.run, "dump")
            assert snapshot.description == "the dump"
            assert b"".join([chunk async for chunk in backups.snapshot_data(snapshot)]) == bytes(25600)
            assert await backups.is_whole(snapshot)

    uvloop.run(work())


def test_what_is_wrong_is_an_error_for_people(directory: Path, served: OnServer, tmp_path: Path) -> None:
    """One of the tree that every command knows, with its exit status; nothing was loaded, mistyped, not there."""
    saver = sysbackup.Saver()
    with pytest.raises(UsageError, match="load_config"):
        saver.save_now()
    (tmp_path / "mistyped").mkdir()
    (tmp_path / "mistyped" / "conf").write_text("[content]\ndays_retaind = 7\n")
    with pytest.raises(ConfigError, match="days_retained"):
        saver.load_config(tmp_path / "mistyped")
    saver.bucket = "no-such-bucket-of-ours"
    saver.load_config(directory)
    with pytest.raises(BucketUnusable):
        saver.save_now()
    assert issubclass(BusyError, sysbackup.SysbackupError)


def test_importing_it_loads_nothing_of_s3() -> None:
    """`sysbackup --help`, and whoever wants the version alone, need not wait for botocore."""
    code = (
        "import sys, sysbackup; sysbackup.__version__;"
        "assert not {'aiobotocore', 'botocore', 'asyncio'} & sys.modules.keys();"
        "sysbackup.Saver; assert 'aiobotocore' in sys.modules; sysbackup.nothing"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1] == "AttributeError: module 'sysbackup' has no attribute 'nothing'"


def test_what_is_stored_is_locked_for_as_long_as_the_configuration_says(directory: Path, served: OnServer) -> None:
    """The configuration's lock, whoever asks for the backup."""
    saver = sysbackup.Saver(served.name)
    saver.load_config(directory)
    summary = saver.save_now()

    async def look() -> None:
        async with served.store() as store:
            lock = await store.lock_of(summary.manifest, summary.manifest_version)
            assert lock is not None
            assert summary.promise is not None
            assert lock.until >= summary.promise

    uvloop.run(look())


def test_it_works_in_any_thread_and_prints_nothing(directory: Path, served: OnServer, tmp_path: Path) -> None:
    """A script's standard output is its own; what is to be warned of goes to standard error."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""\
            import threading, sysbackup

            def work():
                saver = sysbackup.Saver({served.name!r})
                saver.load_config({str(directory)!r})
                print(saver.save_now().outcome)
                restorer = sysbackup.Restorer({served.name!r})
                restorer.load_config({str(directory)!r})
                print(len(restorer.runs_now()))

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            """)
    )
    unfit = directory / "pickers.d" / "unfit"
    unfit.write_text("#!/bin/sh\n")
    unfit.chmod(0o777)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.stdout == "incomplete\n1\n", ended.stderr
    assert [line for line in ended.stderr.splitlines() if "program.refused" in line]
    assert "object.stored" not in ended.stderr
