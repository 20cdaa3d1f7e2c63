"""The units as systemd's own tools judge them, without being started; `tests/systemd` starts them."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
UNITS = SOURCE / "systemd"
PROGRAM = "/opt/sysbackup/bin/sysbackup"
EXPOSED_AT_MOST = 3.0


@pytest.fixture(autouse=True)
def tools() -> None:
    """Fails in CI where they are missing."""
    if not shutil.which("systemd-analyze"):
        reason = "systemd-analyze not found: apt-get install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI checks the units, but {reason}")
        pytest.skip(reason)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units in a folder, with a program in place of ours, which is not installed; samples as they would be used."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.write_text(path.read_text().replace(PROGRAM, "/bin/true").replace("/usr/local/sbin/", "/bin/sh -c "))
            if path.suffix == ".sample":
                path.rename(path.with_suffix(""))
    return folder


def analyze(*arguments: str, units: Path | None = None) -> "subprocess.CompletedProcess[str]":
    # The trailing colon: the system's own units are looked for too.
    path = {"SYSTEMD_UNIT_PATH": f"{units}:"} if units else {}
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, **path, "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def exposure(unit: Path) -> float:
    """What `systemd-analyze security` says of a unit file, from 0 to 10."""
    done = analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    print(found[0])
    return float(found[1])


def settings(unit: Path) -> dict[str, list[str]]:
    """What a unit sets, and how often."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if re.match(r"[A-Z]\w*=", line):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "sysbackup.service",
        "sysbackup-run.service",
        "sysbackup.timer",
        "sysbackup-alert@sysbackup-run.service.service",
        "filesystem-snapshot.service",
    ],
)
def test_systemd_finds_nothing_to_complain_of(units: Path, name: str) -> None:
    """Not even a warning, which is all that an unknown setting gets; with the drop-ins as they are shipped."""
    unit = units / name
    if "@" in name:
        (units / "sysbackup-alert@.service").rename(unit)
    done = analyze("verify", str(unit), units=units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mistyped_setting_would_be_found(units: Path) -> None:
    """The check above can fail."""
    unit = units / "sysbackup.service"
    unit.write_text(unit.read_text().replace("KillMode=", "KillMod="))
    assert "KillMod" in analyze("verify", str(unit), units=units).stderr


def test_all_of_the_drop_in_is_understood(units: Path) -> None:
    """The lines that an administrator may uncomment, too."""
    drop_in = units / "sysbackup.service.d/snapshotters.conf"
    text = re.sub(r"^#(?=[A-Z]\w*=)", "", drop_in.read_text(), flags=re.MULTILINE)
    assert text.count("\nCapabilityBoundingSet=CAP_SETUID") == 1
    drop_in.write_text(text.replace("ReadWritePaths=", "ReadWritePaths=-"))
    done = analyze("verify", str(units / "sysbackup.service"), units=units)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_is_hardened() -> None:
    """As far as a reader of everything can be; printed, so that CI's output has the figure."""
    assert exposure(UNITS / "sysbackup.service") <= EXPOSED_AT_MOST
    assert exposure(UNITS / "sysbackup-run.service") <= EXPOSED_AT_MOST


def test_the_drop_in_costs_what_it_says(tmp_path: Path) -> None:
    """The figures in its comments are those of systemd-analyze."""
    text = (UNITS / "sysbackup.service.d/snapshotters.conf.sample").read_text()
    shipped = re.search(r"; ([\d.]+) as shipped", text)
    others = re.search(r"sudo, which[^:]*: ([\d.]+)\.\n", text)
    assert shipped
    assert others
    assert exposure(UNITS / "sysbackup.service") == float(shipped[1])
    lines = re.findall(r"^#((?:User|Group|AmbientCapabilities|CapabilityBoundingSet|SystemCallFilter)=.*)$", text, re.M)
    assert len(lines) == 5
    unit = tmp_path / "sysbackup.service"
    unit.write_text("\n".join([(UNITS / "sysbackup.service").read_text(), "[Service]", *lines, ""]))
    assert exposure(unit) == float(others[1])


def test_the_daemon_is_given_the_time_that_it_takes() -> None:
    """systemd waits for a stop longer than the ten seconds that are promised, and mends no mistakes by restarting."""
    service = settings(UNITS / "sysbackup.service")
    assert 10 < int(service["TimeoutStopSec"][0]) <= 30
    assert {"2", "75", "77", "78"} <= set(service["RestartPreventExitStatus"][0].split())
    assert settings(UNITS / "sysbackup-run.service")["TimeoutStartSec"] == ["infinity"]


def test_the_timer_has_a_time() -> None:
    """At night, in a calendar that systemd understands."""
    (when,) = settings(UNITS / "sysbackup.timer")["OnCalendar"]
    done = analyze("calendar", "--iterations=2", when)
    assert done.returncode == 0, done.stderr
    assert "02:00:00" in done.stdout


def test_the_user_is_made(tmp_path: Path) -> None:
    """systemd-sysusers makes the user that the units name, with a home of its own and without a shell."""
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "sysusers.d/sysbackup.conf")], check=True, timeout=60
    )
    (line,) = (tmp_path / "etc/passwd").read_text().splitlines()
    name, _, uid, _, _, home, shell = line.split(":")
    assert name == settings(UNITS / "sysbackup.service")["User"][0]
    assert 0 < int(uid) < 1000
    assert home == "/var/lib/sysbackup"
    assert shell.endswith("nologin")


def test_what_killed_snapshotters_leave_goes_in_time(tmp_path: Path) -> None:
    """systemd-tmpfiles removes old files from their TMPDIR, and no young ones."""
    scratch = tmp_path / "var/cache/sysbackup/tmp"
    scratch.mkdir(parents=True)
    (scratch / "young").touch()
    rules = UNITS / "tmpfiles.d/sysbackup.conf"
    (rule,) = (line for line in rules.read_text().splitlines() if not line.startswith("#"))
    assert rule.split()[1] == settings(UNITS / "sysbackup.service")["Environment"][0].removeprefix("TMPDIR=")
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--clean", str(rules)], check=True, timeout=60)
    assert [path.name for path in scratch.iterdir()] == ["young"]


def test_a_wheel_brings_units_and_samples(tmp_path: Path) -> None:
    """`pip install` puts them into share/sysbackup, the samples executable as they are here."""
    build = ["-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps", f"--wheel-dir={tmp_path}"]
    subprocess.run([sys.executable, *build, str(SOURCE)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            entry.filename.partition("/data/share/sysbackup/")[2]: entry.external_attr >> 16 & 0o777
            for entry in archive.infolist()
        }
    shipped = [path for path in (SOURCE / "systemd").rglob("*") if path.is_file()]
    assert len(shipped) > 8
    for path in shipped:
        assert packed[str(path.relative_to(SOURCE))] & 0o111 == path.stat().st_mode & 0o111, path
