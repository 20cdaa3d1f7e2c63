"""The command as a person calls it, against real servers: backups of real trees, and all that can be wrong."""

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import uvloop

from sysbackup.formats import manifest
from sysbackup.formats.manifest_stream import ManifestReader
from tests.support import backups, comparing, trees
from tests.support.servers import OnServer, Server

MIB = 1 << 20

pytestmark = pytest.mark.lengthy


class Machine:
    """A machine that is configured for a bucket; its command is run as a subprocess."""

    def __init__(self, base: Path, bucket: OnServer, **content: object) -> None:
        self.base = base
        self.bucket = bucket
        self.directory = base / "conf.d"
        self.directory.mkdir(parents=True)
        self.configure({"content": content})

    def configure(self, sections: dict[str, dict[str, object]]) -> None:
        """Write `conf` with these settings besides those that every machine needs."""
        server = self.bucket.server
        said: dict[str, dict[str, object]] = {
            "aws": {"credentials_file": server.credentials},
            "s3": {"bucket": self.bucket.name, "endpoint_url": server.endpoint, "region": "us-east-1"},
            "content": {"host": "alpha", "lock_timeout": "0.2 s"},
            "run": {"give_up_after": "4 s"},
        }
        for section, settings in sections.items():
            said[section] = said.get(section, {}) | settings
        text = "".join(
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
            for section, settings in said.items()
        )
        (self.directory / "conf").write_text(text)
        (self.directory / "conf").chmod(0o600)

    def program(self, directory: str, name: str, script: str) -> None:
        backups.program(self.directory / directory, name, script)

    def call(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `sysbackup` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "sysbackup", *arguments],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=120,
            check=False,
            cwd=Path(__file__).parents[2],
            env={
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "SYSBACKUP_CONFIG_DIR": str(self.directory),
                "SYSBACKUP_CACHE_DIR": str(self.base / "cache"),
                "SYSBACKUP_STATE_DIR": str(self.base / "state"),
                **environ,
            },
        )

    def back_up(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a backup that ends with `code`; its summary."""
        done = self.call("run", "--json", *arguments)
        assert done.returncode == code, done.stderr
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary

    def refuse(self, code: int, *words: str, **environ: str) -> str:
        """Run a backup that must fail with `code` and say all these words, without a traceback."""
        done = self.call("run", **environ)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr, done.stderr
        return done.stderr

    def objects(self) -> list[str]:
        """The keys in the bucket."""

        async def read() -> list[str]:
            async with self.bucket.store() as store:
                return [found.key async for found in store.versions("")]

        return uvloop.run(read())

    def untouched(self) -> None:
        """No manifest is in the bucket and no multipart upload under way."""
        assert not [key for key in self.objects() if key.startswith("manifests/")]
        assert uvloop.run(self.bucket.unfinished()) == 0


@pytest.fixture
def machine(tmp_path: Path, moto: Server) -> Machine:
    return Machine(tmp_path / "machine", uvloop.run(moto.bucket()))


@pytest.fixture
def anywhere(tmp_path: Path, served: OnServer) -> Machine:
    return Machine(tmp_path / "machine", served)


def stdlib() -> Path:
    """A part of the Python installation: real files, a few thousand."""
    return Path(sysconfig.get_paths()["stdlib"]) / "encodings"


@pytest.mark.parametrize("tree", [Path("/etc"), stdlib()], ids=["etc", "python"])
def test_a_real_tree_comes_back(anywhere: Machine, tree: Path, tmp_path: Path) -> None:
    """What a picker finds on this machine is stored on a real server, locked, and restored as it is."""
    anywhere.program("pickers.d", "tree", f"#!/bin/sh\nexec find {tree} -xdev -print0\n")
    summary = anywhere.back_up()
    assert summary["problems"] == 0
    listed = anywhere.call("list")
    assert summary["run"] in listed.stdout
    target = tmp_path / "restored"
    restored = anywhere.call("restore", "latest", "--target", str(target))
    assert restored.returncode == 0, restored.stderr
    assert comparing.differences(bytes(tree), bytes(target) + bytes(tree)) == []
    assert_locked(anywhere.bucket)


def assert_locked(bucket: OnServer) -> None:
    """Every version in the bucket is locked; deleting one is refused."""

    async def look() -> None:
        async with bucket.store() as store:
            found = [version async for version in store.versions("")]
            assert found
            for version in found:
                assert await store.lock_of(version.key, version.version) is not None, version.key

    uvloop.run(look())


def test_the_torture_tree_on_a_real_server(anywhere: Machine, tmp_path: Path) -> None:
    """Everything that makes files hard, through the command, the network and back."""
    (tmp_path / "torture").mkdir()
    torture = trees.torture_tree(os.fsencode((tmp_path / "torture").resolve()))
    anywhere.program("pickers.d", "tree", f"#!/bin/sh\nexec find {os.fsdecode(torture.tree)} -print0\n")
    anywhere.back_up(code=3 if torture.problems else 0)
    target = tmp_path / "restored"
    restored = anywhere.call("restore", "latest", "--target", str(target))
    assert restored.returncode == 0, restored.stderr
    left_out = [path.removeprefix(torture.tree + b"/") for path in torture.passed_over]
    assert comparing.differences(torture.tree, bytes(target) + torture.tree, expect_missing=left_out) == []


def test_snapshots_come_back_and_can_be_piped(anywhere: Machine, tmp_path: Path) -> None:
    """Short and long ones, with what they said; the last restore command counts."""
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(40 * MIB))
    out = tmp_path / "taken back"
    anywhere.program(
        "snapshots.d",
        "long",
        f"""
        #!/bin/bash
        echo 'a long one: naïve ☃'
        echo '::restore-through:: false'
        cat '{noise}' >&${{1:-1}}
        echo 'said at the end'
        echo "::restore-through:: cat > '{out}'"
        """,
    )
    anywhere.program("snapshots.d", "short", "#!/bin/sh\necho short; echo data >&$1\n")
    summary = anywhere.back_up()
    assert summary["snapshots"] == 2
    assert summary["entries"]["s"] == 2
    got = subprocess.run(
        [sys.executable, "-m", "sysbackup", "restore-snapshot", "latest", "short"],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"SYSBACKUP_CONFIG_DIR": str(anywhere.directory), "SYSBACKUP_CACHE_DIR": str(tmp_path / "c")},
    )
    assert got.stdout == b"data\n"
    ran = anywhere.call("restore-snapshot", "latest", "long", "--run", "--yes")
    assert ran.returncode == 0, ran.stderr
    assert out.read_bytes() == noise.read_bytes()


FAILING = {
    "exits": ("#!/bin/sh\necho /etc/hostname\nexit 7\n", "7"),
    "signalled": ("#!/bin/sh\necho /etc/hostname\nkill -SEGV $$\n", "SIGSEGV"),
    "no-interpreter": ("#!/no/such/shell\n", "/no/such/shell"),
    "no-shebang": ("echo /etc/hostname\n", "#!"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_picker_is_a_problem_and_the_rest_is_backed_up(machine: Machine, name: str) -> None:
    """Exit 3, the picker is named with the reason, and a manifest is there."""
    script, reason = FAILING[name]
    machine.program("pickers.d", "good", "#!/bin/sh\necho /etc/passwd\n")
    machine.program("pickers.d", name, script)
    summary = machine.back_up(code=3)
    assert summary["files"] >= 1
    (problem,) = [p for p in summary["first_problems"] if p["event"] == "picker.failed"]
    assert problem["path"] == name
    assert reason in problem["reason"]


def test_a_picker_that_anyone_may_change_is_not_run(machine: Machine) -> None:
    """It is a problem, and what it would have done is not done."""
    machine.program("pickers.d", "good", "#!/bin/sh\necho /etc/passwd\n")
    machine.program("pickers.d", "open", f"#!/bin/sh\ntouch {machine.base}/was-run\n")
    (machine.directory / "pickers.d" / "open").chmod(0o777)
    machine.program("pickers.d", "old.dpkg-old", f"#!/bin/sh\ntouch {machine.base}/was-run\n")
    summary = machine.back_up(code=3)
    assert [p["event"] for p in summary["first_problems"]] == ["program.refused"]
    assert not (machine.base / "was-run").exists()


@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\necho data >&$1\nexit 3\n", "#!/bin/sh\nhead -c 60000000 /dev/zero >&$1\nexit 3\n", "#!/bin/sh\n"],
    ids=["short", "long", "nothing written"],
)
def test_a_failing_snapshotter_leaves_nothing_of_its_snapshot(machine: Machine, script: str) -> None:
    """No object of its own and no upload is left, the problem is named, the files are backed up."""
    machine.program("pickers.d", "good", "#!/bin/sh\necho /etc/passwd\n")
    machine.program("snapshots.d", "dump", script)
    summary = machine.back_up(code=3)
    assert [p["path"] for p in summary["first_problems"]] == ["dump"]
    assert not [key for key in machine.objects() if key.startswith("snapshots/")]
    assert uvloop.run(machine.bucket.unfinished()) == 0


def test_a_silent_picker_is_ended(machine: Machine) -> None:
    """After its idle limit; what it had printed counts."""
    machine.configure({"run": {"picker_idle_limit": "1 s"}})
    machine.program("pickers.d", "stuck", "#!/bin/sh\necho /etc/passwd\nsleep 600\n")
    summary = machine.back_up(code=3)
    assert summary["files"] == 1
    assert "1 s" in summary["first_problems"][0]["reason"]


def test_a_missing_bucket(machine: Machine) -> None:
    """Said by name, with exit 78, before any program runs."""
    machine.program("pickers.d", "p", f"#!/bin/sh\ntouch {machine.base}/was-run\n")
    machine.configure({"s3": {"bucket": "no-such-bucket"}})
    machine.refuse(78, "no-such-bucket")
    assert not (machine.base / "was-run").exists()


def test_a_bucket_without_object_lock(tmp_path: Path, server: Server) -> None:
    """Exit 78, how to mend it, and nothing left."""
    machine = Machine(tmp_path / "machine", uvloop.run(server.bucket(locking=False)))
    machine.program("pickers.d", "p", "#!/bin/sh\necho /etc/passwd\n")
    machine.refuse(78, "Object Lock", "lock_mode")
    machine.untouched()


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials(tmp_path: Path, rgw: Server, wrong: str) -> None:
    """Exit 77; the secret appears nowhere."""
    machine = Machine(tmp_path / "machine", uvloop.run(rgw.bucket()))
    secret = "notthesecret"
    key = "testkey" if wrong == "secret" else "nokey"
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    machine.configure({"aws": {"credentials_file": tmp_path / "credentials"}})
    machine.program("pickers.d", "p", "#!/bin/sh\necho /etc/passwd\n")
    said = machine.refuse(77)
    assert secret not in said
    machine.untouched()


def test_a_store_that_does_not_answer(machine: Machine) -> None:
    """Exit 1 after `give_up_after`, naming the endpoint."""
    machine.program("pickers.d", "p", "#!/bin/sh\necho /etc/passwd\n")
    machine.configure({"s3": {"endpoint_url": "http://127.0.0.1:9"}, "run": {"give_up_after": "1 s"}})
    machine.refuse(1, "http://127.0.0.1:9")


def test_no_programs_at_all(machine: Machine) -> None:
    """A configuration that backs nothing up is no backup: exit 78."""
    machine.refuse(78, "pickers.d", "snapshots.d")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("source", ["snapshot", "files"])
def test_a_full_spool_disk(machine: Machine, small_disk: Path, tmp_path: Path, source: str) -> None:
    """Exit 1, naming the directory; no manifest, no upload."""
    if source == "snapshot":
        machine.program("snapshots.d", "dump", "#!/bin/sh\nhead -c 5000000 /dev/urandom >&$1\n")
    else:
        tree = tmp_path / "many"
        tree.mkdir()
        for n in range(20_000):
            (tree / f"{n}").write_bytes(b"%d" % n)
        machine.program("pickers.d", "many", f"#!/bin/sh\nexec find {tree} -print0\n")
    machine.refuse(1, str(small_disk), "full", SYSBACKUP_CACHE_DIR=str(small_disk))
    machine.untouched()


def test_two_runs_at_once(machine: Machine) -> None:
    """The second gives way with exit 75 and disturbs nothing."""
    machine.program(
        "pickers.d",
        "slow",
        f"""
        #!/bin/sh
        touch {machine.base}/begun
        until [ -e {machine.base}/refused ]; do sleep 0.05; done
        echo /etc/passwd
        """,
    )
    first = subprocess.Popen(
        [sys.executable, "-m", "sysbackup", "run", "--json"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ
        | {
            "SYSBACKUP_CONFIG_DIR": str(machine.directory),
            "SYSBACKUP_CACHE_DIR": str(machine.base / "cache"),
            "SYSBACKUP_STATE_DIR": str(machine.base / "state"),
        },
    )
    with first:
        while not (machine.base / "begun").exists():
            assert first.poll() is None
            time.sleep(0.05)
        try:
            machine.refuse(75, "another run")
        finally:
            (machine.base / "refused").touch()
        assert first.stdout is not None
        assert json.loads(first.stdout.read())["files"] == 1
    assert first.returncode == 0


def test_an_interrupted_run(machine: Machine, tmp_path: Path) -> None:
    """SIGTERM ends it within seconds: no manifest, no upload, no program left."""
    machine.program("snapshots.d", "endless", f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec cat /dev/urandom >&$1\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "sysbackup", "run"],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        env=os.environ
        | {
            "SYSBACKUP_CONFIG_DIR": str(machine.directory),
            "SYSBACKUP_CACHE_DIR": str(machine.base / "cache"),
            "SYSBACKUP_STATE_DIR": str(machine.base / "state"),
        },
    )
    with process:
        while uvloop.run(machine.bucket.unfinished()) == 0:
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert b"Traceback" not in said
    machine.untouched()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_metadata_of_a_snapshot(machine: Machine) -> None:
    """What S3's metadata can hold is there, the manifest has all of it."""
    machine.program(
        "snapshots.d",
        "said",
        "#!/bin/sh\nhead -c 9000 /dev/zero | tr '\\0' x; echo; echo '::restore-through:: psql -f -'\necho d >&$1\n",
    )
    summary = machine.back_up()

    async def look() -> tuple[dict[str, str], list[manifest.Entry]]:
        async with machine.bucket.store() as store:
            (key,) = [v.key async for v in store.versions("snapshots/")]
            info = await store.head(key, None)
            reader = ManifestReader()
            said: list[manifest.Entry] = []
            async for chunk in store.read(summary["manifest"], summary["manifest_version"]):
                said += reader.feed(chunk)
            return dict(info.metadata), said

    metadata, said = uvloop.run(look())
    (snapshot,) = [entry for entry in said if isinstance(entry, manifest.Snapshot)]
    assert snapshot.description == "x" * 9000
    assert snapshot.restore == "psql -f -"
    assert metadata["restore-through"] == "psql -f -"
    assert set(metadata["backup-output"]) == {"x"}
    assert sum(len(name) + len(value) for name, value in metadata.items()) <= 2048


def test_plain_text_is_plain_in_a_snapshot_s_metadata(machine: Machine) -> None:
    """A command with % in it runs as it stands there; what no header can hold is marked, and nothing looks like it."""
    plain = "date +%F && psql -c \"select '100%25' like '%'\" | grep -v '=?utf-8?q?x?=' # <&;*\\>~`|{}[]^$"
    texts = {"plain": plain, "umlaut": "echo Grüße %41 %", "marked": "UTF-8''echo%20x"}
    for name, text in texts.items():
        (machine.base / name).write_text(text)
        script = f"#!/bin/sh\necho One; echo 100%; printf '::restore-through:: %s\\n' \"$(cat {machine.base}/{name})\""
        machine.program("snapshots.d", name, f"{script}\necho d >&$1\n")
    machine.program("snapshots.d", "one", "#!/bin/sh\necho '50 % of  it'; echo d >&$1\n")
    machine.back_up()

    async def look() -> dict[str, Mapping[str, str]]:
        async with machine.bucket.store() as store:
            stored = [v.key async for v in store.versions("snapshots/")]
            return {key.rpartition("-")[2]: (await store.head(key, None)).metadata for key in stored}

    metadata = uvloop.run(look())
    assert metadata["plain"]["restore-through"] == plain
    assert metadata["one"]["backup-output"] == "50 % of  it"
    for name in ("umlaut", "marked"):
        mark, _, value = metadata[name]["restore-through"].partition("''")
        assert (mark, unquote(value)) == ("UTF-8", texts[name])
    for name in texts:
        assert metadata[name]["backup-output"] == "UTF-8''One%0A100%25"


def test_a_narrow_place_cuts_no_path_and_no_key(machine: Machine) -> None:
    """Summary and `catalog info` in a log, or a pipe, that calls itself 30 columns wide."""
    machine.program("pickers.d", "host", "#!/bin/sh\necho /etc/hostname\n")
    done = machine.call("run", COLUMNS="30")
    assert done.returncode == 0, done.stderr
    (manifest_key,) = [key for key in machine.objects() if key.startswith("manifests/")]
    assert any(line.endswith(f"/{manifest_key}") for line in done.stdout.splitlines())
    info = machine.call("catalog", "info", COLUMNS="30")
    assert info.returncode == 0, info.stderr
    assert any(f"{machine.base}/cache/" in line for line in info.stdout.splitlines())
    assert "…" not in done.stdout + info.stdout


def test_what_is_not_locked_is_not_promised(machine: Machine, tmp_path: Path) -> None:
    """With `lock_mode = none` nobody is told of a promise: terminal, JSON, status, metrics, hooks, other machines."""
    (tmp_path / "file").write_bytes(b"what the file holds")
    machine.program("pickers.d", "one", f"#!/bin/sh\necho '{tmp_path}/file'\n")
    machine.program("hooks.d", "note", f"#!/bin/sh\ncat >>'{tmp_path}/told'\n")
    textfile = tmp_path / "sysbackup.prom"
    metrics: dict[str, object] = {"textfile": textfile}
    machine.configure({"content": {"lock_mode": "none"}, "metrics": metrics})
    assert machine.back_up()["promise"] is None
    done = machine.call("run")
    assert done.returncode == 0, done.stderr
    assert "promised  nothing: lock_mode = none" in done.stdout
    assert [json.loads(line)["promise"] for line in (tmp_path / "told").read_text().splitlines()] == [None] * 4
    exposition = textfile.read_text()
    assert "sysbackup_last_backup_files" in exposition
    assert "promise" not in exposition
    told = machine.call("status").stdout
    assert "nothing: the last backup was made with lock_mode = none" in told
    assert "until" not in told
    promises = json.loads(machine.call("status", "--json").stdout)["promises"]
    assert promises == {"last_until": None, "backups": 0, "first_end": None, "last_end": None}
    assert machine.call("list", "--long").stdout.count(" nothing ") == 2
    assert all("promise" not in row for row in json.loads(machine.call("list", "--json").stdout))
    # the same with locks
    machine.configure({"metrics": metrics})
    assert machine.back_up()["promise"]
    assert "promise_timestamp" in textfile.read_text()
    assert machine.call("list", "--long").stdout.count(" nothing ") == 2
    assert "the last backup until" in machine.call("status").stdout
