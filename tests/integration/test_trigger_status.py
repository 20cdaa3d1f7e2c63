"""`sysbackup trigger` and `sysbackup status` with real daemons, as administrators and monitoring call them."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from sysbackup.cli import status as status_command
from sysbackup.cli.main import invoke
from sysbackup.model import worked_under
from sysbackup.service import status_file as statuses
from tests.support.daemons import ROOT, SOON, Host, Running, command, daemon
from tests.support.servers import Server

NOBODY = 65534

SLOW = "#!/bin/sh\nwhile [ -e '{gate}' ]; do sleep 0.05; done\necho '{file}'\n"


@pytest.fixture
def host(tmp_path: Path, moto: Server) -> Host:
    """A machine with one file to back up."""
    host = Host(tmp_path / "alpha", uvloop.run(moto.bucket()))
    file = tmp_path / "file"
    file.write_text("worth keeping\n")
    host.program("pickers.d", "one", SLOW.format(gate=gate(host), file=file))
    return host


def gate(host: Host) -> Path:
    """As long as this exists a picker does not end."""
    return host.base / "gate"


def triggered(host: Host, code: int, *arguments: str) -> dict[str, Any]:
    """Wait for a run that ends with `code`; how it ended."""
    done = host.call("trigger", "--wait", "--json", *arguments)
    assert done.returncode == code, done.stderr
    ended: dict[str, Any] = json.loads(done.stdout)
    return ended


def told(host: Host, code: int) -> dict[str, Any]:
    """What `status --json` says, and exits with."""
    done = host.call("status", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == code
    return found


@contextmanager
def waiting(host: Host, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`sysbackup trigger --wait`, at work."""
    client = subprocess.Popen(
        command("trigger", "--wait", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=host.environ(),
    )
    with client:
        try:
            yield client
        finally:
            client.kill()


def said(client: "subprocess.Popen[str]") -> tuple[str, str]:
    """All that it printed until its end."""
    return client.communicate(timeout=SOON)


def test_a_trigger_starts_a_run(host: Host) -> None:
    """One line says whom it asked; the run is made."""
    with daemon(host) as running:
        done = host.call("trigger")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            f"The daemon (process {running.process.pid}) is asked for a run. How it goes: sysbackup status\n"
        )
        assert running.until(lambda s: s.last_complete is not None).last is not None


def test_a_trigger_that_waits_shows_the_summary_and_exits_with_the_runs_status(host: Host) -> None:
    """As `sysbackup run` does: complete 0, with problems 3; no line ends in blanks, none is cut."""
    with daemon(host):
        done = host.call("trigger", "--wait")
        assert done.returncode == 0, done.stderr
        assert "is complete in" in done.stdout
        assert done.stderr.startswith("sysbackup: a run is asked for, and begins now\n")
        assert all(line == line.rstrip() for line in done.stdout.splitlines())
        host.program("pickers.d", "broken", "#!/bin/sh\necho relative/path\n")
        ended = triggered(host, 3)
        assert (ended["outcome"], ended["summary"]["problems"]) == ("incomplete", 1)


def test_a_run_that_fails_says_why_and_what_it_was(host: Host) -> None:
    """The reason is on standard error, the status the run's own: 78, no such bucket."""
    host.configure({"s3": {"bucket": "nothing-here"}})
    with daemon(host):
        done = host.call("trigger", "--wait")
        assert done.returncode == 78
        assert done.stdout == ""
        assert "failed, there is no manifest of it" in done.stderr
        assert "nothing-here" in done.stderr
        assert "Traceback" not in done.stderr
        assert triggered(host, 78)["outcome"] == "failed"
        found = told(host, 2)
        assert found["verdict"] == "failing"
        assert "the last run failed" in found["reasons"][0]
        assert "nothing-here" in found["reasons"][0]


def test_during_a_run_a_trigger_waits_for_the_one_after_it(host: Host) -> None:
    """Its end is the second run's, and meanwhile status shows both."""
    gate(host).touch()
    with daemon(host) as running:
        host.call("trigger")
        first = running.until(lambda s: s.current is not None and s.current.run is not None).current
        assert first is not None
        with waiting(host, "--json") as client:
            running.until(lambda s: s.asked)
            found = told(host, 1)
            assert (found["daemon"], found["current"]["run"], found["asked"]) == ("running", first.run, True)
            gate(host).unlink()
            out, err = said(client)
            assert client.returncode == 0, err
            assert "another run goes on; ours comes after it" in err
        runs = [run["run"] for run in told(host, 0)["runs"]]
        assert runs[0] == json.loads(out)["run"]
        assert worked_under(runs[1]) == first.run
    done = host.call("trigger")
    assert done.returncode == 69


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_waiting_does_not_stop_the_run(host: Host, number: signal.Signals) -> None:
    """The client says so, and exits as one does that was interrupted."""
    gate(host).touch()
    with daemon(host) as running:
        with waiting(host) as client:
            running.until(lambda s: s.current is not None and s.current.run is not None)
            client.send_signal(number)
            _, err = said(client)
            assert client.returncode == 128 + number
            assert "the run is made all the same" in err
            assert f"stopped by {number.name}" in err
        gate(host).unlink()
        assert running.until(lambda s: s.last is not None).last_complete is not None


def test_when_the_daemon_is_stopped_who_waits_hears_it(host: Host) -> None:
    """The run was stopped and has no manifest: status 1, not the silence of a crash."""
    gate(host).touch()
    with daemon(host) as running, waiting(host, "--json") as client:
        running.until(lambda s: s.current is not None and s.current.run is not None)
        assert running.stop() == 0
        out, err = said(client)
        assert client.returncode == 1
        assert json.loads(out)["outcome"] == "stopped"
        assert "was stopped, there is no manifest of it" in err
        found = told(host, 2)
        assert [found["daemon"], found["last"]["outcome"]] == ["absent", "stopped"]


def test_when_the_daemon_is_killed_who_waits_hears_what_that_means(host: Host) -> None:
    """Status 69; afterwards status knows the file that it left for what it is."""
    gate(host).touch()
    with daemon(host) as running, waiting(host) as client:
        running.until(lambda s: s.current is not None and s.current.run is not None)
        running.process.kill()
        running.process.wait(SOON)
        _, err = said(client)
        assert client.returncode == 69
        assert "the daemon went away before the run had ended" in err
        found = told(host, 2)
        assert found["daemon"] == "dead"
        assert "killed, or crashed during a run" in found["reasons"][0]
        done = host.call("trigger")
        assert done.returncode == 69
        assert "was left behind by process" in done.stderr
        path = host.runtime / "status.json"
        left = statuses.read(path)
        assert left is not None
        statuses.write(path, msgspec.structs.replace(left, state="stopping"))  # killed while it was being stopped
        done = host.call("trigger")
        assert (done.returncode, "is being stopped" in done.stderr) == (69, False)
        assert "was left behind by process" in done.stderr
        gate(host).unlink()
    with daemon(host):
        triggered(host, 0)
        told(host, 0)


def test_a_daemon_that_was_stopped_by_a_signal_is_not_fresh(host: Host) -> None:
    """Its process lives, and does nothing: what it was asked for is overdue, and status says so."""
    with daemon(host) as running:
        triggered(host, 0)
        running.until(lambda s: s.state == "waiting")
        running.signal(signal.SIGSTOP)
        try:
            path = host.runtime / "status.json"
            status = statuses.read(path)
            assert status is not None
            long_ago = datetime.now(UTC) - timedelta(hours=1)
            statuses.write(path, msgspec.structs.replace(status, next=long_ago, written=long_ago))
            found = told(host, 2)
            assert "should have started a run at" in found["reasons"][0]
            assert "SIGSTOP" in host.call("status").stdout
        finally:
            running.signal(signal.SIGCONT)
        assert running.stop() == 0


def test_a_process_that_has_got_the_daemons_number_is_not_signalled(host: Host) -> None:
    """The file that a killed daemon left names a process that lives now, and is another: SIGUSR1 would kill it."""
    with daemon(host) as running:
        status = running.until(lambda _: True)
        path = host.runtime / "status.json"
        with still(running), subprocess.Popen(["sleep", "600"]) as stranger:
            try:
                for born in (status.born, (statuses.born(stranger.pid) or 0) + 1):
                    statuses.write(path, _of(status, stranger.pid, born))
                    done = host.call("trigger")
                    assert done.returncode == 69
                    assert f"was left behind by process {stranger.pid}, which is gone" in done.stderr
                assert told(host, 2)["daemon"] == "dead"
                assert stranger.poll() is None
            finally:
                stranger.kill()


def test_whoever_may_write_the_status_cannot_have_root_signal_others(host: Host) -> None:
    """A status that belongs to another user than the process that it names is not believed."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    with daemon(host) as running, still(running), subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            path = host.runtime / "status.json"
            forged = _of(running.until(lambda _: True), stranger.pid, statuses.born(stranger.pid) or 0)
            statuses.write(path, forged)
            os.chown(path, NOBODY, NOBODY)
            assert host.call("trigger").returncode == 69
            assert stranger.poll() is None
        finally:
            stranger.kill()


@contextmanager
def still(running: Running) -> Iterator[None]:
    """A daemon that is stopped meanwhile, and cannot write its own status over a forged one."""
    running.signal(signal.SIGSTOP)
    try:
        while b") T " not in Path(f"/proc/{running.process.pid}/stat").read_bytes():
            time.sleep(0.01)
        yield
    finally:
        running.signal(signal.SIGCONT)


def _of(status: statuses.Status, pid: int, born: int) -> statuses.Status:
    values = {name: getattr(status, name) for name in status.__struct_fields__}
    return statuses.Status(**{**values, "pid": pid, "born": born})


def test_without_a_daemon_it_is_said_how_to_have_one(host: Host) -> None:
    """Which directory was looked in, and how to start it; whatever the configuration is."""
    (host.directory / "conf").write_text("[nonsense]\n")
    for arguments in (("trigger",), ("trigger", "--wait")):
        done = host.call(*arguments)
        assert done.returncode == 69
        assert str(host.runtime) in done.stderr
        assert "systemctl start sysbackup" in done.stderr
    found = told(host, 2)
    assert found["daemon"] == "absent"
    assert any("the configuration cannot be used" in warning for warning in found["warnings"])


def test_a_daemon_can_be_asked_while_its_configuration_has_mistakes(host: Host) -> None:
    """It works by the one from before, and status says so."""
    with daemon(host) as running:
        host.configure({"content": {"days_retaind": 14}})
        running.signal(signal.SIGHUP)
        running.until(lambda s: bool(s.refused))
        triggered(host, 0)
        found = told(host, 0)
        assert "days_retaind" in found["refused"][0]
        done = host.call("status")
        assert "warning: the daemon has refused a changed configuration" in done.stdout


def test_status_from_the_first_run_on(host: Host) -> None:
    """No run yet is stale, not failing; a complete backup is fresh; without a daemon the history still tells."""
    host.configure({"daemon": {"schedule": "15 2 * * *"}})
    with daemon(host):
        found = told(host, 1)
        assert found["reasons"] == ["there is no complete backup yet"]
        assert (found["last"], found["next_by"]) == (None, "schedule")
        ended = triggered(host, 0)
        found = told(host, 0)
        assert (found["verdict"], found["reasons"], found["warnings"]) == ("fresh", [], [])
        assert found["last"]["run"] == found["last_complete"]["run"] == ended["run"]
        assert found["promises"]["backups"] == 1
        assert found["promises"]["last_until"] == ended["summary"]["promise"]
    found = told(host, 2)
    assert found["reasons"][0].startswith("no daemon runs")
    assert found["last_complete"]["run"] == ended["run"]


def test_an_incomplete_backup_does_not_make_it_fresh(host: Host) -> None:
    """Stale as soon as the last complete one is too old, however many have come since."""
    with daemon(host):
        triggered(host, 0)
    past = host.state / "history.jsonl"
    ended = json.loads(past.read_text())
    ended["finished"] = ended["started"] = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    past.write_text(json.dumps(ended) + "\n")
    host.program("pickers.d", "broken", "#!/bin/sh\nprintf 'rel\\033ative\\n'\n")
    with daemon(host):
        assert triggered(host, 3)["outcome"] == "incomplete"
        found = told(host, 1)
        assert found["reasons"] == ["the last complete backup ended 3 d ago: stale_after is 1 d 12 h"]
        text = host.call("status").stdout
        assert text.startswith("stale: the last complete backup ended 3 d ago")
        assert "warning: the last run could not back up 1 source as asked" in text
        assert "\x1b" not in text
        assert "rel\\x1bative" in text


def test_status_is_for_pipes_and_old_locales_too(host: Host) -> None:
    """No colour and no trailing blanks where it is no terminal; `| head` is no error; ASCII is enough."""
    with daemon(host):
        triggered(host, 0)
        done = host.call("status", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("fresh: the last complete backup ended ")
        assert all(line == line.rstrip() for line in done.stdout.splitlines())
        assert "\x1b" not in done.stdout
        reading, writing = os.pipe()
        os.close(reading)  # who reads has gone already
        with os.fdopen(writing) as pipe:
            gone = subprocess.run(
                command("status"), stdout=pipe, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=host.environ(),
                timeout=SOON, check=False,
            )  # fmt: skip
        assert gone.stderr == ""
        assert gone.returncode == 0  # the verdict stands


def test_status_does_not_need_the_history(host: Host) -> None:
    """What the daemon says is enough; that the history is out of reach is said."""
    with daemon(host):
        triggered(host, 0)
        done = host.call("status", "--json", SYSBACKUP_STATE_DIR=str(host.directory / "conf"))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert len(found["runs"]) == 1
        assert any("cannot read the history of runs" in warning for warning in found["warnings"])


@contextmanager
def nobody(group: int = NOBODY) -> Iterator[None]:
    """As another user, in another group."""
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(group, group, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@pytest.fixture
def open_host(moto: Server) -> Iterator[Host]:
    """One whose directories others may reach (pytest's let nobody in)."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        yield Host(Path(base) / "alpha", uvloop.run(moto.bucket()))


def test_who_may_not_know_is_told_so(
    open_host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user gets a sentence and 69, from all three; one in the daemon's group may see, not trigger."""
    for name, value in open_host.environ().items():
        monkeypatch.setenv(name, value)
    # Once as root: what Python loads on demand may lie where nobody cannot read it.
    assert [invoke(arguments) for arguments in (["status"], ["trigger"], ["trigger", "--wait"])] == [2, 69, 69]
    with daemon(open_host) as running:
        status = running.until(lambda _: True)
        assert invoke(["status"]) == 1
        capsys.readouterr()
        for arguments, words in (
            (["status"], "cannot be read: Permission denied"),
            (["trigger"], "cannot be read: Permission denied"),
            (["trigger", "--wait"], "this user may not connect to"),
        ):
            with nobody():
                assert invoke(arguments) == 69
            assert words in capsys.readouterr().err
        assert open_host.runtime.stat().st_gid == 0
        with nobody(group=0):
            assert invoke(["status"]) == 1
            assert f"process {status.pid}" in capsys.readouterr().out
            assert invoke(["trigger"]) == 69
            assert "this user may not signal the daemon" in capsys.readouterr().err
            assert invoke(["trigger", "--wait"]) == 69
            assert "this user may not connect to" in capsys.readouterr().err
        assert running.until(lambda _: True).last is None


def test_status_where_proc_hides_the_daemon(
    open_host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that exists and may not be looked at (hidepid) is taken for the daemon, and that is said."""
    for name, value in open_host.environ().items():
        monkeypatch.setenv(name, value)
    with daemon(open_host):
        assert invoke(["status"]) == 1  # once as root: what Python loads on demand may lie where nobody cannot read it
        monkeypatch.setattr(statuses, "born", lambda _: None)
        monkeypatch.setattr(status_command, "born", lambda _: None)
        with nobody(group=0):
            assert invoke(["status"]) == 1
        assert "warning: /proc hides process" in capsys.readouterr().out


def test_a_configuration_that_was_not_reloaded_is_said(host: Host) -> None:
    """By `status`, its JSON and `trigger`, until the daemon has read it; the same bytes written again are no change."""

    def told() -> tuple[bool, bool]:
        found = json.loads(host.call("status", "--json").stdout)
        warned = any("conf was changed and not reloaded" in warning for warning in found["warnings"])
        return found["conf_changed"], warned

    with daemon(host) as running:
        assert told() == (False, False)
        host.configure({})
        assert told() == (False, False)
        host.configure({"content": {"days_retained": 3}})
        assert told() == (True, True)
        for arguments in (["trigger"], ["trigger", "--wait"]):
            assert "conf was changed and not reloaded" in host.call(*arguments).stderr
        running.signal(signal.SIGHUP)
        running.until(lambda status: status.conf == statuses.fingerprint(host.directory))
        assert told() == (False, False)
        assert "not reloaded" not in host.call("trigger", "--wait").stderr
        host.configure({"content": {"days_retained": "never"}})
        running.signal(signal.SIGHUP)
        running.until(lambda status: bool(status.refused))
        assert told() == (True, False)  # that it was refused is said instead
