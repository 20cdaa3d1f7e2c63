"""
The units as shipped, under a real systemd, with sysbackup installed as README says and a store on loopback.

Each test has a bucket, a configuration and a journal of its own; the machine is
built once.
"""

import os
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sysbackup.formats import manifest
from sysbackup.formats.run_result import RunResult
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from tests.support.backups import run
from tests.support.servers import OnServer, Server
from tests.systemd.machine import Machine, booted, build, missing

pytestmark = pytest.mark.lengthy

SOURCE = Path(__file__).parents[2]

DAEMON, RUN, TIMER = "sysbackup.service", "sysbackup-run.service", "sysbackup.timer"
CRITICAL, ERROR, WARNING = 2, 3, 4
SHIPPED = "/opt/sysbackup/share/sysbackup"
OWN = ("etc/backup", "var/lib/sysbackup", "var/cache/sysbackup")
SCRATCH = "/var/cache/sysbackup/tmp"

HANGING = f"""\
    #!/bin/sh
    touch {SCRATCH}/hangs
    exec sleep 1000
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with sysbackup and its units, and with nothing configured."""
    if reason := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI boots the units, but {reason}")
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("machine") / "root"
    try:
        build(root, SOURCE)
        with booted(root) as machine:
            install(machine)
            yield machine
    finally:
        shutil.rmtree(root, ignore_errors=True)  # pytest would keep hundreds of megabytes


def install(machine: Machine) -> None:
    """What README has the administrator do."""
    done = machine.run(
        "sh",
        "-euc",
        f"""
        cp {SHIPPED}/systemd/sysbackup*.service {SHIPPED}/systemd/sysbackup.timer /etc/systemd/system/
        mkdir -p /etc/sysusers.d /etc/tmpfiles.d
        cp {SHIPPED}/systemd/sysusers.d/sysbackup.conf /etc/sysusers.d/
        cp {SHIPPED}/systemd/tmpfiles.d/sysbackup.conf /etc/tmpfiles.d/
        systemd-sysusers
        systemctl daemon-reload
        """,
    )
    assert done.returncode == 0, done.stderr


class Service:
    """sysbackup on the machine, with a bucket; configured, and not started yet."""

    def __init__(self, machine: Machine, bucket: OnServer, folder: Path) -> None:
        self.machine = machine
        self.bucket = bucket
        self._folder = folder
        self._cursor = machine.cursor()
        machine.call("install", "--directory", "--mode=750", "/etc/backup")
        machine.write("/etc/backup/aws-credentials", bucket.server.credentials.read_text(), 0o600)
        self.configure()
        self.drop_in(DAEMON, "[Service]\nLoadCredential=aws:/etc/backup/aws-credentials\nRestartSec=0.5s")
        self.drop_in(RUN, "[Unit]\nOnFailure=sysbackup-alert@%n.service")

    def configure(self, more: str = "", endpoint: str | None = None) -> None:
        """Write `conf`; `more` are lines of it."""
        conf = f"""\
            [aws]
            credentials_file = %d/aws
            [s3]
            bucket = {self.bucket.name}
            endpoint_url = {endpoint or self.bucket.server.endpoint}
            region = us-east-1
            [content]
            host = alpha
            """
        self.machine.write("/etc/backup/conf", textwrap.dedent(conf) + textwrap.dedent(more), 0o640)

    def program(self, kind: str, name: str, script: str) -> None:
        """A picker (`pickers.d`) or snapshotter (`snapshots.d`)."""
        self.machine.write(f"/etc/backup/{kind}.d/{name}", textwrap.dedent(script), 0o755)

    def drop_in(self, unit: str, text: str, name: str = "test") -> None:
        """Change a unit as an administrator would."""
        self.machine.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text + "\n")
        self.machine.systemctl("daemon-reload")

    def start(self) -> None:
        """Start the daemon; systemd waits until it is ready."""
        self.machine.systemctl("start", DAEMON)

    def ask(self) -> int:
        """Have a backup made as an administrator would; the exit status of the unit that waits for it."""
        self.machine.run("systemctl", "start", RUN)
        return int(self.machine.show(RUN, "ExecMainStatus"))

    def hang(self) -> None:
        """Begin a run that does not end by itself."""
        self.program("pickers", "hanging", HANGING)
        self.start()
        self.machine.systemctl("start", "--no-block", RUN)
        self.machine.await_true(lambda: self.scratch("hangs").exists(), "the picker hangs")

    def scratch(self, name: str) -> Path:
        """A file in the snapshotters' TMPDIR, seen from outside."""
        return self.machine.root / SCRATCH.lstrip("/") / name

    def past(self) -> list[RunResult]:
        """How runs ended, the first one first."""
        try:
            text = (self.machine.root / "var/lib/sysbackup/history.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return [msgspec.json.decode(line, type=RunResult) for line in text.splitlines()]

    def main(self) -> int:
        """The daemon's process, as it is numbered inside."""
        return int(self.machine.show(DAEMON, "MainPID"))

    def children(self) -> list[int]:
        """The daemon's children, whichever of its threads started them."""
        listed = self.machine.call("sh", "-c", f"cat /proc/{self.main()}/task/*/children")
        return [int(word) for word in listed.split()]

    def said(self, unit: str | None = None, priority: int = 7) -> str:
        """What a unit, or anybody, has told the journal, at this priority (syslog(3)) or a more urgent one."""
        return "\n".join(
            entry["MESSAGE"]
            for entry in self.machine.journal(self._cursor)
            if int(entry["PRIORITY"]) <= priority and unit in (None, entry.get("_SYSTEMD_UNIT"), entry.get("UNIT"))
        )

    def manifests(self) -> int:
        """How many backups are in the bucket."""

        async def count() -> int:
            async with self.bucket.store() as store:
                return len([found async for found in store.versions("manifests/")])

        return run(count())

    def entries(self) -> dict[str, manifest.Entry]:
        """What the latest backup holds, by path."""

        async def read() -> dict[str, manifest.Entry]:
            async with self.bucket.store() as store:
                found = await stored_runs.find_run(store, "latest", "alpha")
                said = [entry async for entry in stored_runs.entries(store, found)]
                return {entry.path: entry for entry in said if isinstance(entry, manifest.Node)}

        return run(read())

    def restored(self, path: str) -> bytes:
        """A file's content as it is in the latest backup."""

        async def work() -> None:
            async with self.bucket.store() as store:
                found = await stored_runs.find_run(store, "latest", "alpha")
                await restore(store, found, [os.fsencode(path)], bytes(self._folder), Options(spool=self._folder))

        run(work())
        return (self._folder / path.lstrip("/")).read_bytes()

    def snapshot(self, program: str) -> bytes:
        """What a snapshotter has written, from the latest backup."""

        async def read() -> bytes:
            async with self.bucket.store() as store:
                (found,) = [version async for version in store.versions("snapshots/alpha/") if program in version.key]
                return b"".join([chunk async for chunk in store.read(found.key, found.version)])

        return run(read())

    def clear(self) -> None:
        """End all, and leave the machine as it was."""
        for unit in (TIMER, RUN, DAEMON):
            self.machine.run("systemctl", "stop", unit)
        for folder in OWN:
            shutil.rmtree(self.machine.root / folder, ignore_errors=True)
        for unit in (TIMER, RUN, DAEMON):
            shutil.rmtree(self.machine.root / f"etc/systemd/system/{unit}.d", ignore_errors=True)
        self.machine.systemctl("daemon-reload")
        self.machine.run("systemctl", "reset-failed")


@pytest.fixture
def service(machine: Machine, moto: Server, tmp_path: Path) -> Iterator[Service]:
    service = Service(machine, run(moto.bucket()), tmp_path)
    yield service
    service.clear()


def test_started_it_is_ready_and_says_what_it_does(service: Service) -> None:
    """`systemctl start` returns when the daemon is ready: as its own user, with its own directories, with a status."""
    service.start()
    assert service.machine.show(DAEMON, "ActiveState") == "active"
    assert service.machine.show(DAEMON, "StatusText") == "Waiting; no run yet"
    assert service.machine.call("stat", "--format=%U", f"/proc/{service.main()}") == "sysbackup"
    for folder in ("/var/lib/sysbackup", "/var/cache/sysbackup", SCRATCH, "/run/sysbackup"):
        assert service.machine.call("stat", "--format=%U:%G %a", folder) == "sysbackup:sysbackup 750"
    assert service.machine.call("stat", "--format=%U:%G", "/etc/backup") == "root:root"


def test_the_timer_makes_a_backup_of_what_only_root_may_read(service: Service) -> None:
    """When its time has come, there is a backup in the bucket: of root's files, homes, and the shared /tmp."""
    secrets = ("/root/secret", "/home/anna/secret", "/tmp/secret", "/var/tmp/secret")
    for path in secrets:
        service.machine.run("sh", "-c", f"umask 077; mkdir -p $(dirname {path}); echo the secret of {path} > {path}")
    service.program("pickers", "secrets", f"#!/bin/sh\nprintf '%s\\n' {' '.join(secrets)}\n")
    service.drop_in(TIMER, "[Timer]\nOnCalendar=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms")
    service.machine.systemctl("start", TIMER)
    service.machine.await_true(service.past, "the timer has had a run made")
    service.machine.await_true(lambda: service.machine.show(RUN, "ActiveState") == "inactive", "its unit has ended")
    assert service.machine.show(RUN, "Result") == "success"
    assert [ended.outcome for ended in service.past()] == ["complete"]
    for path in secrets:
        assert service.restored(path) == f"the secret of {path}\n".encode()


def test_the_timer_as_shipped_comes_every_night(service: Service) -> None:
    """Enabled, it has a next time, and one that a restart of the timer does not move."""
    service.machine.systemctl("enable", "--now", TIMER)
    first = service.machine.show(TIMER, "NextElapseUSecRealtime")
    service.machine.systemctl("restart", TIMER)
    assert first
    assert service.machine.show(TIMER, "NextElapseUSecRealtime") == first
    assert service.machine.show(TIMER, "Unit") == RUN
    service.machine.systemctl("disable", "--now", TIMER)


def test_whoever_starts_the_run_hears_how_it_ended(service: Service) -> None:
    """`systemctl start sysbackup-run` starts the daemon too, and succeeds when the backup is complete."""
    service.program("pickers", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    service.machine.systemctl("start", RUN)
    assert service.machine.show(RUN, "Result") == "success"
    assert "/etc/passwd" in service.entries()
    assert "Waiting; last run complete at" in service.machine.show(DAEMON, "StatusText")


def test_problems_fail_the_unit_and_raise_the_alarm(service: Service) -> None:
    """A picker that fails: status 3, OnFailure= is called, and the journal has a warning that says why."""
    service.program("pickers", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    service.program("pickers", "broken", "#!/bin/sh\necho it is broken >&2\nexit 5\n")
    service.start()
    assert service.ask() == 3
    assert service.machine.show(RUN, "ActiveState") == "failed"
    warnings = service.said(DAEMON, WARNING)
    assert "broken" in warnings
    assert "outcome=incomplete" in warnings
    assert "run.starting" not in warnings
    # Of anybody: who has ended by the time that the journal looks has no unit.
    service.machine.await_true(
        lambda: f"{RUN} has failed with status 3" in service.said(priority=CRITICAL), "the alarm is in the journal"
    )
    assert "/etc/passwd" in service.entries()


def test_a_failed_backup_fails_the_unit_and_not_the_daemon(service: Service) -> None:
    """No store answers: status 1, no backup, and the daemon goes on waiting."""
    service.program("pickers", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    service.configure("[run]\ngive_up_after = 1 s\n", endpoint="http://127.0.0.1:1")
    service.start()
    before = service.main()
    assert service.ask() == 1
    assert "outcome=failed" in service.said(DAEMON, ERROR)
    assert service.main() == before
    assert service.machine.show(DAEMON, "ActiveState") == "active"


def test_without_a_usable_configuration_nothing_is_tried_again(service: Service) -> None:
    """The daemon fails with 78 and stays down; whoever asks for a run hears that there is no daemon."""
    service.configure("days_retaind = 30\n")
    assert service.machine.run("systemctl", "start", DAEMON).returncode == 1
    assert service.machine.show(DAEMON, "ExecMainStatus") == "78"
    assert service.machine.show(DAEMON, "NRestarts") == "0"
    assert "is it days_retained?" in service.said(DAEMON)
    assert service.ask() == 69


def test_a_reload_takes_what_is_right_and_refuses_what_is_not(service: Service) -> None:
    """`systemctl reload` takes a new configuration; one with a mistake is named, and the old one holds."""
    service.program("pickers", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    service.start()
    before = service.main()

    def read() -> int:
        return service.said(DAEMON).count("config.read")

    def reloaded(until: Callable[[], object]) -> None:
        service.machine.systemctl("reload", DAEMON)  # it sends a signal, and does not wait for what comes of it
        service.machine.await_true(until, "the daemon has looked at its configuration")

    earlier = read()
    service.configure("days_retained = 3\n")
    reloaded(lambda: read() > earlier)
    service.configure("days_retained = many\n")
    reloaded(lambda: "days_retained" in service.said(DAEMON, ERROR))
    assert "the configuration has mistakes" in service.machine.show(DAEMON, "StatusText")
    assert service.machine.show(DAEMON, "ActiveState") == "active"
    assert service.main() == before
    assert service.ask() == 0
    summary = service.past()[-1].summary
    assert summary is not None
    assert summary.promise is not None
    assert (summary.promise.date() - summary.started.date()).days == 3


def test_a_stop_in_the_middle_of_an_upload_leaves_nothing(service: Service) -> None:
    """Within the daemon's own ten seconds: no process, no unfinished upload, no manifest; and that is no failure."""
    service.program("snapshots", "endless", '#!/bin/sh\nhead -c 40M /dev/urandom >&"$1"\nexec sleep 1000\n')
    service.start()
    service.machine.systemctl("start", "--no-block", RUN)
    service.machine.await_true(lambda: run(service.bucket.unfinished()) == 1, "an upload is under way")
    service.machine.systemctl("stop", DAEMON)
    # systemd would have killed it after TimeoutStopSec=, with the result `timeout`
    assert service.machine.show(DAEMON, "Result") == "success"
    assert service.machine.show(DAEMON, "ExecMainStatus") == "0"
    assert service.machine.processes(DAEMON) == []
    assert run(service.bucket.unfinished()) == 0
    assert service.manifests() == 0
    assert [ended.outcome for ended in service.past()] == ["stopped"]
    service.machine.await_true(
        lambda: service.machine.show(RUN, "ActiveState") == "failed", "who waited has heard of it"
    )


def test_a_run_that_is_killed_does_not_take_the_daemon_along(service: Service) -> None:
    """As the kernel does for want of memory: the run has failed, its programs are gone, the daemon lives."""
    service.hang()
    before = service.main()
    (worker,) = service.children()
    service.machine.run("sh", "-c", f"kill -KILL {worker}")
    service.machine.await_true(service.past, "the run has ended")
    assert service.past()[-1].outcome == "failed"
    assert "SIGKILL" in (service.past()[-1].reason or "")
    service.machine.await_true(lambda: service.machine.processes(DAEMON) == [before], "only the daemon is left")
    service.machine.await_true(
        lambda: service.machine.show(RUN, "ActiveState") == "failed", "who waited has heard of it"
    )
    assert service.machine.show(RUN, "ExecMainStatus") == "1"


def test_a_daemon_that_is_killed_comes_back_alone(service: Service) -> None:
    """systemd ends what it left behind, and starts it again; who waited for the run hears that it is lost."""
    service.hang()
    before = service.main()
    service.scratch("hangs").unlink()
    service.machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", DAEMON)
    service.machine.await_true(lambda: service.main() not in (0, before), "it was started again")
    service.machine.await_true(lambda: service.machine.show(DAEMON, "ActiveState") == "active", "it is ready")
    assert service.machine.show(DAEMON, "NRestarts") == "1"
    assert service.machine.processes(DAEMON) == [service.main()]
    service.machine.await_true(
        lambda: service.machine.show(RUN, "ActiveState") == "failed", "who waited has heard of it"
    )
    assert service.machine.show(RUN, "ExecMainStatus") == "69"
    assert not service.scratch("hangs").exists()
    assert service.manifests() == 0


def test_a_daemon_that_hangs_is_started_again(service: Service) -> None:
    """A stopped process does not speak to the watchdog."""
    service.drop_in(DAEMON, "[Service]\nWatchdogSec=3s", name="watchdog")
    service.start()
    before = service.main()
    service.machine.systemctl("kill", "--kill-whom=main", "--signal=STOP", DAEMON)
    service.machine.await_true(lambda: service.main() not in (0, before), "it was started again")
    service.machine.await_true(lambda: service.machine.show(DAEMON, "ActiveState") == "active", "it is ready")
    assert "Watchdog timeout" in service.said(DAEMON)


def test_a_signal_makes_a_backup(service: Service) -> None:
    """`systemctl kill --kill-whom=main --signal=USR1`: as the user wanted it."""
    service.program("pickers", "passwd", "#!/bin/sh\necho /etc/passwd\n")
    service.start()
    service.machine.systemctl("kill", "--kill-whom=main", "--signal=USR1", DAEMON)
    service.machine.await_true(service.past, "the run has ended")
    assert "/etc/passwd" in service.entries()


def test_programs_can_read_all_and_write_almost_nothing(service: Service) -> None:
    """A picker writes to the cache directory alone, and can become nobody else; nice and ionice do no harm."""
    places = "/tmp /var/tmp /etc /etc/backup /home /root /usr /opt/sysbackup /run /run/lock /var/lib /dev"
    service.machine.run("chmod", "1777", "/tmp", "/var/tmp")
    service.program(
        "pickers",
        "probe",
        f"""\
        #!/bin/sh
        exec >"$TMPDIR/probe" 2>/dev/null
        for place in {places}; do
            touch $place/probe && echo "wrote to $place"
        done
        cat /proc/1/environ >/dev/null && echo "read the memory of others"
        unshare --user true && echo "has a namespace of its own"
        : >"$TMPDIR/program" && chmod u+s "$TMPDIR/program" && echo "made a setuid program"
        setpriv --reuid=1 true && echo "became somebody else"
        nice -n 1 ionice -c 3 true && echo "was modest"
        cat /etc/shadow >/dev/null && echo "read all"
        mktemp --dry-run
        """,
    )
    service.start()
    assert service.ask() == 0
    *could, temporary = service.scratch("probe").read_text().splitlines()
    assert could == ["was modest", "read all"]
    assert temporary.startswith(f"{SCRATCH}/")


def test_what_is_mounted_for_a_run_is_seen_by_it(service: Service) -> None:
    """As the sample has it: a snapshot of a file system, made and removed outside the sandbox."""
    machine = service.machine
    make = "mkdir -p /mnt/snapshot && mount -t tmpfs none /mnt/snapshot && echo held > /mnt/snapshot/file"
    machine.write("/usr/local/sbin/make-snapshot", f"#!/bin/sh\n{make}\n", 0o755)
    machine.write("/usr/local/sbin/remove-snapshot", "#!/bin/sh\numount /mnt/snapshot\n", 0o755)
    samples = machine.root / f"{SHIPPED}/systemd".lstrip("/")
    unit = (samples / "filesystem-snapshot.service.sample").read_text()
    machine.write("/etc/systemd/system/filesystem-snapshot.service", unit)
    drop_in = (samples / f"{RUN}.d/filesystem-snapshot.conf.sample").read_text()
    service.drop_in(RUN, drop_in, name="filesystem-snapshot")
    service.program("pickers", "snapshot", "#!/bin/sh\nmountpoint -q /mnt/snapshot && echo /mnt/snapshot/file\n")
    service.start()
    assert service.ask() == 0
    assert service.restored("/mnt/snapshot/file") == b"held\n"
    machine.await_true(lambda: machine.run("mountpoint", "-q", "/mnt/snapshot").returncode != 0, "it is removed")


@pytest.mark.parametrize("mode", ["delete", "wal", "wal, in use"])
def test_the_sample_for_sqlite_copies_a_database_of_others(service: Service, mode: str) -> None:
    """A database that only its owner may read is kept as it is at that moment, also while it is written to."""
    machine = service.machine
    journal = mode.partition(",")[0]
    fill = f"PRAGMA journal_mode={journal}; CREATE TABLE t (n); INSERT INTO t VALUES (1), (2), (3);"
    machine.run("sh", "-c", f"rm -rf /var/lib/app && mkdir -m 700 /var/lib/app && sqlite3 /var/lib/app/app.db '{fill}'")
    machine.run("chown", "-R", "daemon:", "/var/lib/app")
    if mode == "wal, in use":
        use = "import sqlite3, time; c = sqlite3.connect('/var/lib/app/app.db'); c.execute('INSERT INTO t VALUES (4)')"
        use += "; c.commit(); time.sleep(1000)"
        machine.run("systemd-run", "--unit=app", "--property=User=daemon", "python3", "-c", use)
        machine.await_true((machine.root / "var/lib/app/app.db-shm").exists, "the database is in use")
    sample = (machine.root / f"{SHIPPED}/systemd/samples/snapshots.d/sqlite".lstrip("/")).read_text()
    service.program("snapshots", "sqlite", sample)
    service.start()
    status = service.ask()
    machine.run("systemctl", "stop", "app")
    assert status == 0
    (machine.root / "root/copy").write_bytes(service.snapshot("sqlite"))
    total = "10" if mode == "wal, in use" else "6"
    assert machine.call("sqlite3", "/root/copy", "PRAGMA integrity_check; SELECT sum(n) FROM t") == f"ok\n{total}"
    assert list((machine.root / SCRATCH.lstrip("/")).iterdir()) == []
