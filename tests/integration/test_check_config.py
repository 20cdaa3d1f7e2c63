"""`sysbackup check-config`, as a person or a script runs it."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sysbackup.config.sections import Config
from sysbackup.formats.run_result import Outcome, RunResult, Summary
from sysbackup.service import history

ROOT = Path(__file__).parents[2]


def sysbackup(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command's end, with an environment that has nothing of ours but what is given."""
    return subprocess.run(
        [sys.executable, "-m", "sysbackup", *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A configuration directory that can be used."""
    tmp_path.chmod(0o755)
    for folder in ("pickers.d", "snapshots.d"):
        (tmp_path / folder).mkdir(mode=0o755)
    write(tmp_path / "conf", "[s3]\nbucket = my-backups\n[content]\ndays_retained = 30\n", 0o644)
    write(tmp_path / "pickers.d" / "etc", "#!/bin/sh\nfind /etc\n")
    return tmp_path


def write(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_a_good_configuration_is_printed_and_the_status_is_0(directory: Path) -> None:
    """Values from the file stand as they are, defaults as comments, both with their meaning; no warning."""
    ended = sysbackup("--config-dir", directory, "check-config")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert "bucket = my-backups" in lines
    assert "days_retained = 30" in lines
    assert "# lock_timeout = 2 s" in lines
    assert "# pickers: etc" in lines
    assert "warning" not in ended.stdout
    assert "\x1b" not in ended.stdout


def test_what_is_printed_is_a_configuration_itself(directory: Path) -> None:
    """The output may be the start of a new `conf`, defaults uncommented."""
    printed = sysbackup("--config-dir", directory, "check-config").stdout
    conf = re.sub(r"^# (\w+ = \S.*)$", r"\1", printed, flags=re.MULTILINE)
    assert conf != printed
    write(directory / "conf", conf, 0o644)
    again = sysbackup("--config-dir", directory, "check-config")
    assert (again.returncode, again.stderr) == (0, "")
    assert "days_retained = 30" in again.stdout.splitlines()
    assert "lock_timeout = 2 s" in again.stdout.splitlines()


def test_every_mistake_is_told_at_once_and_the_status_is_78(directory: Path) -> None:
    """On standard error, a line each; nothing that is wrong is printed as if it held."""
    write(directory / "conf", "[s3]\nbuckt = b\n[content]\ndays_retained = never\n[run]\nuploads = 0\n", 0o644)
    ended = sysbackup("--config-dir", directory, "check-config")
    assert ended.returncode == 78
    assert ended.stderr.splitlines() == [
        f"sysbackup: {directory}/conf: [s3] buckt is no setting: is it bucket?",
        f"sysbackup: {directory}/conf: [content] days_retained = 'never' is not a whole number; "
        "allowed: a whole number from 1 to 36500",
        f"sysbackup: {directory}/conf: [run] uploads = '0' is out of range; allowed: a whole number from 1 to 1000",
    ]
    assert "days_retained" not in ended.stdout


def test_a_missing_configuration_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """The environment names the directory, too."""
    ended = sysbackup("check-config", SYSBACKUP_CONFIG_DIR=str(tmp_path / "none"))
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"sysbackup: {tmp_path}/none/conf does not exist: create it")
    assert len(ended.stderr.splitlines()) == 1


def test_programs_that_will_not_be_run_are_told_with_the_reason(directory: Path) -> None:
    """Unsafe ones, leftovers, and those that the kernel will refuse."""
    write(directory / "pickers.d" / "loose", mode=0o777)
    write(directory / "pickers.d" / "plain", mode=0o644)
    write(directory / "pickers.d" / "etc.dpkg-old")
    write(directory / "snapshots.d" / "pg", "pg_dump\n")
    ended = sysbackup("--config-dir", directory, "check-config")
    assert ended.returncode == 0
    assert [line for line in ended.stdout.splitlines() if line.startswith(("# pickers: ", "# snapshotters: "))] == [
        "# pickers: etc",
        "# pickers: etc.dpkg-old: not run: its name ends in .dpkg-old",
        "# pickers: loose: not run: it is writable by everybody (chmod go-w)",
        "# pickers: plain: not run: it is not executable (chmod +x)",
        "# snapshotters: pg: will fail: the kernel does not know this kind of file: is the #! line missing, "
        "or not the very first?",
    ]


@pytest.mark.parametrize(
    ("conf", "warning"),
    [
        ("[content]\nlock_mode = none", "lock_mode = none: nothing is locked"),
        ("[s3]\nendpoint_url = http://store.example", "contents travel to store.example unencrypted"),
        ("[aws]\ncredentials_file = {0}/keys", "{0}/keys can be read by everybody: chmod 600 {0}/keys"),
    ],
)
def test_settings_that_are_allowed_but_risky_are_warned_of(directory: Path, conf: str, warning: str) -> None:
    """The status stays 0."""
    write(directory / "keys", "", 0o644)
    write(directory / "conf", conf.format(directory), 0o644)
    ended = sysbackup("--config-dir", directory, "check-config")
    assert ended.returncode == 0
    (warned,) = [line for line in ended.stdout.splitlines() if line.startswith("# warning: ")]
    assert warning.format(directory) in warned


def test_snapshots_that_came_compressed_are_warned_of(directory: Path, tmp_path: Path) -> None:
    """By what the last run saw of them: nothing is run for it."""
    write(directory / "snapshots.d" / "dump", "#!/bin/sh\nhead -c 3000000 /dev/urandom >&$1\n")
    state = tmp_path / "state"
    config = Config(directory=directory, cache=tmp_path / "cache", state=state, runtime=tmp_path / "run")
    started = datetime(2026, 11, 26, tzinfo=UTC)
    summary = Summary(host="alpha", run="20261126T000000Z-00000000", started=started, compressed=["dump"])
    history.remember(config, RunResult(outcome=Outcome.COMPLETE, exit_code=0, started=started, summary=summary))
    ended = sysbackup("--config-dir", directory, "check-config", STATE_DIRECTORY=str(state))
    assert ended.returncode == 0
    assert f"# warning: {directory}/snapshots.d/dump: what it wrote in the last run is compressed" in ended.stdout


def test_directories_that_others_may_write_are_warned_of(directory: Path) -> None:
    """Whoever can put a file there decides what is run as root."""
    (directory / "pickers.d").chmod(0o775)
    directory.chmod(0o777)
    printed = sysbackup("--config-dir", directory, "check-config").stdout
    for path in (directory, directory / "pickers.d"):
        assert f"# warning: {path} can be written by others than its owner" in printed
    assert f"{directory}/snapshots.d can be written" not in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look for another user")
def test_root_is_warned_of_programs_that_the_service_cannot_execute(directory: Path) -> None:
    """They would run here, and be problems at night."""
    state = directory / "state"
    state.mkdir()
    os.chown(state, 4711, 4711)
    write(directory / "snapshots.d" / "app", mode=0o700)
    write(directory / "snapshots.d" / "group", mode=0o710)
    os.chown(directory / "snapshots.d" / "group", 0, 4711)
    ended = sysbackup("--config-dir", directory, "check-config", SYSBACKUP_STATE_DIR=str(state))
    (warning,) = [line for line in ended.stdout.splitlines() if "cannot be executed" in line]
    assert f"{directory}/snapshots.d/app cannot be executed by user 4711" in warning
    os.chown(state, 0, 0)
    ended = sysbackup("--config-dir", directory, "check-config", SYSBACKUP_STATE_DIR=str(state))
    assert "cannot be executed" not in ended.stdout


def test_a_readme_is_mentioned_and_nothing_more(directory: Path) -> None:
    """Not run, not a problem of each run, and not taken for something to back up with."""
    write(directory / "pickers.d" / "README", "Pickers of this machine.\n", 0o644)
    ended = sysbackup("--config-dir", directory, "check-config")
    assert "# pickers: README: not run: it is a text" in ended.stdout
    assert "# warning" not in ended.stdout
    found = json.loads(sysbackup("--config-dir", directory, "check-config", "--json").stdout)
    assert [(file["name"], file["expected"]) for file in found["programs"]["pickers"]] == [
        ("README", True),
        ("etc", True),
    ]
    (directory / "pickers.d" / "etc").unlink()
    assert "nothing will be backed up" in sysbackup("--config-dir", directory, "check-config").stdout


def test_nothing_to_back_up_is_warned_of(directory: Path) -> None:
    """An empty configuration would make empty backups for years."""
    (directory / "pickers.d" / "etc").unlink()
    (directory / "snapshots.d").rmdir()
    printed = sysbackup("--config-dir", directory, "check-config").stdout
    assert "# warning: nothing will be backed up: there is neither a picker nor a snapshotter" in printed
    assert f"# warning: {directory}/snapshots.d does not exist: there are no snapshotters" in printed


def test_json_holds_all_of_it(directory: Path) -> None:
    """For scripts: with the mistakes, and the same exit status."""
    ended = sysbackup("--config-dir", directory, "check-config", "--json", CACHE_DIRECTORY="/var/cache/here:/other")
    found = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert (found["mistakes"], found["warnings"]) == ([], [])
    assert found["cache"] == "/var/cache/here"
    days = next(line for line in found["settings"] if line["name"] == "days_retained")
    assert (days["section"], days["value"], days["default"]) == ("content", "30", False)
    assert found["programs"]["pickers"] == [{"name": "etc", "run": True, "reason": None, "expected": True}]

    write(directory / "conf", "[s3]\nbuckt = b\n", 0o644)
    ended = sysbackup("--config-dir", directory, "check-config", "--json")
    assert (ended.returncode, ended.stderr) == (78, "")
    assert json.loads(ended.stdout)["mistakes"] == [f"{directory}/conf: [s3] buckt is no setting: is it bucket?"]


def on_terminal(directory: Path, columns: int, *options: str) -> str:
    """What check-config, which must end well, shows on a terminal of that width; escapes are left out."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sysbackup", "--config-dir", str(directory), "check-config", *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": str(columns), "LC_ALL": "C.UTF-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the other side has closed
                break
            if not chunk:
                break
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in seen
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r\n", "\n")


def test_on_a_terminal_it_is_a_table(directory: Path) -> None:
    """Values, defaults and meanings side by side; brackets in a value are no markup."""
    write(directory / "conf", "[content]\nshare = db[12] web-*\n", 0o644)
    text = on_terminal(directory, 100)
    assert re.search(r"share +db\[12\] web-\* +the hosts whose stored contents", text)
    assert re.search(r"lock_timeout +2 s +how long to wait", text)
    assert "✔ etc" in text
    assert f"✔ {directory}/conf can be used." in text


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_on_a_narrow_terminal_meanings_fold_and_values_stay_whole(directory: Path, columns: int) -> None:
    """A long URL goes on at the terminal's edge, so that it can be copied; nothing else is wider than the terminal."""
    url = "https://" + "a-name-of-some-length." * 6 + "example:9000"
    write(directory / "conf", f"[s3]\nendpoint_url = {url}\n", 0o644)
    lines = on_terminal(directory, columns).splitlines()
    table = lines[: lines.index("pickers")]
    (long,) = [line for line in table if url in line]
    assert long.split() == ["endpoint_url", url]
    assert max(len(line.rstrip()) for line in table if line != long) <= columns
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("columns", [None, 50, 57, 80, 120])
def test_comments_fold_to_the_terminal_s_width(directory: Path, columns: int | None) -> None:
    """80 where there is none. Settings stay as they are, and no line of a comment looks like one."""
    environ = {} if columns is None else {"COLUMNS": str(columns)}
    whole = sysbackup("--config-dir", directory, "check-config", COLUMNS="10000").stdout.splitlines()
    lines = sysbackup("--config-dir", directory, "check-config", **environ).stdout.splitlines()
    assert max(map(len, lines)) <= (columns or 80)
    assert max(map(len, whole)) > 120

    def settings(printed: list[str]) -> list[str]:
        return [line for line in printed if re.match(r"(# )?\w+ =", line)]

    def joined(printed: list[str]) -> str:
        return " ".join(line.removeprefix("#").strip() for line in printed)

    assert settings(lines) == settings(whole)
    assert joined(lines) == joined(whole)


def test_what_differs_from_the_defaults_can_be_seen_alone(directory: Path) -> None:
    """Not what the file says and would hold anyway; programs, warnings and mistakes stand as ever."""
    write(directory / "conf", "[s3]\nbucket = b-2\n[content]\nrenewal_slack = 1 week\nlock_mode = none\n", 0o644)

    def printed(*options: str) -> str:
        return sysbackup("--config-dir", directory, "check-config", "--changed", *options).stdout

    lines = printed().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [
        "[s3]",
        "bucket = b-2",
        "[content]",
        "lock_mode = none",
    ]
    assert "# pickers: etc" in lines
    assert any(line.startswith("# warning: [content] lock_mode = none") for line in lines)
    assert [line["name"] for line in json.loads(printed("--json"))["settings"]] == ["bucket", "lock_mode"]
    shown = on_terminal(directory, 80, "--changed")
    assert re.search(r"^bucket +b-2 ", shown, re.MULTILINE)
    assert "renewal_slack" not in shown
    write(directory / "conf", "", 0o644)
    assert "# no setting differs from its default" in printed().splitlines()
    assert "no setting differs from its default" in on_terminal(directory, 80, "--changed")
    write(directory / "conf", "[s3]\nbuckt = b\n", 0o644)
    ended = sysbackup("--config-dir", directory, "check-config", "--changed")
    assert (ended.returncode, "no setting differs" in ended.stdout) == (78, False)


def test_help_lists_every_command_and_loads_none_of_them() -> None:
    """Nor S3's libraries: it answers at once."""
    code = "import sys; from sysbackup.cli.main import invoke; status = invoke(['--help']);"
    code += "print(status, [m for m in sys.modules if m.partition('.')[0] in ('aiobotocore', 'botocore', 'moto')"
    code += " or m.startswith(('sysbackup.pipeline', 'sysbackup.recovery', 'sysbackup.cli.check_config'))])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("0 []\n")
    for name in ("run", "list", "ls", "restore", "restore-snapshot", "check-config", "demo"):
        assert re.search(rf"^  {name}  +[A-Z]", ended.stdout, re.MULTILINE)
    assert sysbackup("-h").stdout == sysbackup("--help").stdout


def test_a_reader_that_goes_away_is_no_reason_to_complain(directory: Path) -> None:
    """`sysbackup check-config | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "sysbackup", "--config-dir", str(directory), "check-config"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert ended.stderr == b""
    assert ended.returncode == 0  # the configuration is right, whoever hears of it
