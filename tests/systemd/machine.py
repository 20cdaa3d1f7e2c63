"""
A small Debian with a systemd of its own as PID 1, in a directory: systemd-nspawn(1).

Never run systemd on the machine's own root: its tmpfiles would empty /tmp. Here
it has its own root, mounts, processes and control groups; the network is the
machine's, so that a server on its loopback can be reached from inside.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PROGRAMS = ("mmdebstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv", "chroot")

_PACKAGES = ("systemd", "systemd-sysv", "python3-venv", "sqlite3")
_NOT_NEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_PYTHON = "3.11"  # bookworm's

_SECONDS = 120.0

# A control group below the unified hierarchy's root, which nspawn divides further. Where the machine has the older
# layout, the unified one is mounted over it, for nspawn's eyes alone.
_BOOT = """\
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1" && echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
exec systemd-nspawn --quiet --directory="$0" --machine="$1" --register=no --keep-unit --console=pipe --boot \
    -- systemd.unit=multi-user.target
"""

_CLEAR = """\
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$0" -depth -type d -exec rmdir {} +
"""

_ALONE = ("unshare", "--mount", "--propagation", "private", "bash", "-c")


def missing() -> str | None:
    """What keeps a machine from being made here, or None."""
    if os.geteuid() != 0:
        return "a systemd of its own can be booted by root alone"
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if lacking:
        return f"{', '.join(lacking)} not found: apt-get install --no-install-recommends mmdebstrap systemd-container"
    return None


def build(root: Path, source: Path) -> None:
    """Make the root: Debian's packages, and sysbackup from `source`, installed as README says, with no index."""
    _call(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=essential",
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_NEEDED),
        f"--include={','.join(_PACKAGES)}",
        "bookworm",
        str(root),
        *_mirror(),
    )
    wheels = root / "wheels"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _call(*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(source))
    wheel = next(str(path) for path in wheels.iterdir())
    # Debian's Python may be another than ours.
    _call(*pip, "download", "--only-binary=:all:", f"--python-version={_PYTHON}", f"--dest={wheels}", wheel)
    _call("chroot", str(root), "python3", "-m", "venv", "/opt/sysbackup")
    inside = ("/opt/sysbackup/bin/pip", "install", "--quiet", "--no-index", "--find-links=/wheels", "sysbackup")
    _call("chroot", str(root), "env", "-i", "PATH=/usr/sbin:/usr/bin", *inside)


def _mirror() -> tuple[str, ...]:
    """Where apt has its packages from, if it says so."""
    asked = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm")
    said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=_SECONDS)
    return tuple(said.stdout.split()[:1])


def _call(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(argv[:6])} … ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
        )


@contextmanager
def booted(root: Path) -> Iterator["Machine"]:
    """Run its systemd for the time of the block."""
    name = f"sysbackup-test-{os.getpid()}"
    log = root.with_name("console.log")
    with log.open("wb") as console:
        # TERM makes nspawn shut it down: when we end, however that is, so does it.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *_ALONE, _BOOT, str(root), name],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    try:
        try:
            machine = Machine(root, _init(process))
            machine.await_true(lambda: machine.call("systemctl", "is-system-running") == "running", "it has booted")
        except AssertionError as error:
            raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-4000:]}") from error
        yield machine
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(RuntimeError, ProcessLookupError):
                os.kill(_init(process), signal.SIGKILL)
            process.kill()
            process.wait()
        subprocess.run([*_ALONE, _CLEAR, name], check=False, timeout=_SECONDS)


def _init(nspawn: "subprocess.Popen[bytes]") -> int:
    """Its PID 1, by the number that it has out here."""
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and nspawn.poll() is None:
        for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
            with suppress(OSError):
                if os.readlink(f"/proc/{child}/exe").endswith("/systemd"):
                    return int(child)
        time.sleep(0.05)
    raise AssertionError("systemd-nspawn started no systemd")


class Machine:
    """A running one. `root` is its root directory as it is seen out here, `init` its PID 1."""

    def __init__(self, root: Path, init: int) -> None:
        self.root = root
        self._inside = ("nsenter", f"--target={init}", "--mount", "--pid", "--uts", "--ipc", "--cgroup")

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as its root, to whatever end."""
        environ = ("env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", "HOME=/root")
        return subprocess.run(
            (*self._inside, *environ, *argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def call(self, *argv: str) -> str:
        """What such a command prints."""
        return self.run(*argv).stdout.strip()

    def systemctl(self, *arguments: str) -> None:
        """`systemctl`, which must end well."""
        done = self.run("systemctl", *arguments)
        assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.call("systemctl", "show", "--value", f"--property={name}", unit)

    def journal(self, since: str) -> list[dict[str, str]]:
        """
        The journal after a cursor, entries as in systemd.journal-fields(7).

        All of it: with matches, journalctl passes over the first that it finds after a cursor that is none.
        """
        self.run("journalctl", "--sync")
        said = self.call("journalctl", "--output=json", "--quiet", f"--after-cursor={since}")
        return [json.loads(line) for line in said.splitlines()]

    def cursor(self) -> str:
        """The journal's end."""
        self.run("journalctl", "--sync")
        return self.call("journalctl", "--lines=0", "--show-cursor", "--quiet").removeprefix("-- cursor: ")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of root's."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def processes(self, unit: str) -> list[int]:
        """The processes of a service, by the numbers that they have inside."""
        group = self.show(unit, "ControlGroup")
        listed = self.call("find", f"/sys/fs/cgroup{group}", "-name", "cgroup.procs", "-exec", "cat", "{}", "+")
        return [int(number) for number in listed.split()] if group else []

    def await_true(self, condition: Callable[[], T], what: str) -> T:
        """Ask again and again; an AssertionError that says `what` never came."""
        until = time.monotonic() + _SECONDS
        while not (found := condition()):
            if time.monotonic() > until:
                raise AssertionError(f"in vain waited until {what}\n{self.call('journalctl', '--lines=100')}")
            time.sleep(0.1)
        return found
