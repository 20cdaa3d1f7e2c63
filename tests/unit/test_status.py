"""`sysbackup status`: whose daemon is meant."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sysbackup.cli import status
from sysbackup.cli.invocation import Invocation
from sysbackup.service.verdict import Facts
from tests.support.daemons import Host, daemon

NOBODY = 65534


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Facts]:
    """A user without a daemon of his own, on a machine whose directories are in the test's."""
    for name in status._NAMED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(status, "SYSTEM_RUNTIME", tmp_path / "machine" / "run")
    monkeypatch.setattr(status, "SYSTEM_STATE", tmp_path / "machine" / "state")
    return lambda: status.gather(Invocation(tmp_path / "none"))


def test_without_a_daemon_of_ones_own_the_machines_is_meant(alone: Callable[[], Facts], tmp_path: Path) -> None:
    """Monitoring's user asks for the machine's backups and sets no variable."""
    with daemon(Host(tmp_path / "machine", None)) as running:
        facts = alone()
        assert facts.alive
        assert facts.status is not None
        assert facts.status.pid == running.process.pid
    assert not alone().alive


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    """No traceback, and no silence: it says who may."""
    tmp_path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o750)
    (closed / "status.json").write_text("{}")
    script = (
        "import os, sys; from pathlib import Path; from sysbackup.cli import status;"
        "from sysbackup.cli.invocation import Invocation;"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY});"
        f"status.SYSTEM_RUNTIME = Path({str(closed)!r});"
        "print(*status.gather(Invocation(Path('/none'))).warnings, sep='\\n')"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o005)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert f"a daemon of this machine's may be in {closed}, which this user may not read" in done.stdout
