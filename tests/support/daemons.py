"""The daemon as a process: in directories of its own, its log in a file, asked and ended as an administrator would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sysbackup.service import status_file as statuses
from sysbackup.service.status_file import Status
from tests.support import backups
from tests.support.servers import OnServer

SOON = 60.0
"""Seconds after which what was waited for will not come, on however slow a machine."""


class Host:
    """A machine's directories in `base`, configured for a bucket."""

    def __init__(self, base: Path, bucket: OnServer | None) -> None:
        self.base = base
        self.bucket = bucket
        self.directory = base / "conf.d"
        self.state = base / "state"
        self.runtime = base / "run"
        self.log = base / "log"
        self.directory.mkdir(parents=True)
        self.configure({})

    def configure(self, sections: Mapping[str, Mapping[str, object]]) -> None:
        """Write `conf` with these settings besides those that every machine needs."""
        said: dict[str, Mapping[str, object]] = {
            "content": {"host": "alpha", "lock_timeout": "0.2 s"},
            "run": {"give_up_after": "4 s"},
        }
        if self.bucket is not None:
            server = self.bucket.server
            said["aws"] = {"credentials_file": server.credentials}
            said["s3"] = {"bucket": self.bucket.name, "endpoint_url": server.endpoint, "region": "us-east-1"}
        for section, settings in sections.items():
            said[section] = {**said.get(section, {}), **settings}
        text = "".join(
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
            for section, settings in said.items()
        )
        fresh = self.directory / "conf.new"
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.rename(self.directory / "conf")

    def program(self, folder: str, name: str, script: str) -> None:
        """An executable script in `pickers.d`, `snapshots.d` or `hooks.d`."""
        backups.program(self.directory / folder, name, script)

    def environ(self, **more: str) -> dict[str, str]:
        """What the command finds in its environment."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.base),
            "SYSBACKUP_CONFIG_DIR": str(self.directory),
            "SYSBACKUP_CACHE_DIR": str(self.base / "cache"),
            "SYSBACKUP_STATE_DIR": str(self.state),
            "SYSBACKUP_RUNTIME_DIR": str(self.runtime),
            **more,
        }

    def call(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `sysbackup` to its end."""
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=2 * SOON,
            check=False,
            cwd=ROOT,
            env=self.environ(**environ),
        )


ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    """A command line of ours."""
    return [sys.executable, "-m", "sysbackup", *arguments]


class Running:
    """A daemon that has been started."""

    def __init__(self, host: Host, process: "subprocess.Popen[bytes]") -> None:
        self.host = host
        self.process = process

    def status(self) -> Status | None:
        """What this very daemon says of itself; None as long as it says nothing."""
        found = statuses.read(self.host.runtime / "status.json")
        return found if found is not None and found.pid == self.process.pid else None

    def until(self, met: Callable[[Status], bool]) -> Status:
        """Wait for its status to be so. A daemon that has ended, or takes too long, fails the test with its log."""
        deadline = time.monotonic() + SOON
        while (found := self.status()) is None or not met(found):
            assert self.process.poll() is None, f"the daemon has ended: {self.said()}"
            assert time.monotonic() < deadline, f"{found}\n{self.said()}"
            time.sleep(0.02)
        return found

    def said(self) -> str:
        """Its log so far, and that of its runs."""
        return self.host.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        lines = (json.loads(line) for line in self.said().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Tell it to end; its exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(SOON)


@contextmanager
def daemon(host: Host, **environ: str) -> Iterator[Running]:
    """A daemon that is ready. At the end it is stopped, if the test has not done so."""
    with host.log.open("ab") as log:
        process = subprocess.Popen(
            command("daemon"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=host.environ(**environ)
        )
    running = Running(host, process)
    try:
        running.until(lambda _: True)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(SOON)
        except subprocess.TimeoutExpired:
            process.kill()  # its run ends itself then
            process.wait()
