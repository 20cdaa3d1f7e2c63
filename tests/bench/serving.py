"""The S3 server that all tools are measured against: `rclone serve s3` on loopback, objects in a folder."""

import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measuring import cpu_of

ACCESS_KEY, SECRET_KEY = "benchaccess", "benchsecret"  # for a loopback server that lives for one benchmark
REQUEST = re.compile(rb"DEBUG : serve s3: ([A-Z][A-Z ]+[A-Z]\b|(?:initiate|put|complete|abort) multipart upload\b)")
"""What rclone logs for each request it takes, and only for that: `serve s3: HEAD OBJECT …`."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did in a while."""

    cpu: float
    requests: Counter[str]


class Server:
    """A running server. Each bucket is a folder."""

    def __init__(self, rclone: str, folder: Path, log: Path, port: int, process: "subprocess.Popen[bytes]") -> None:
        self._rclone = rclone
        self.endpoint = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._log = log
        self._process = process

    def bucket(self, name: str) -> Path:
        """
        The folder of a new bucket.

        To be made before the first request: rclone remembers for minutes what a folder held.
        """
        path = self._folder / name
        path.mkdir()
        return path

    def settle(self) -> None:
        """
        List all objects, so that none of them is read for it later, in somebody's turn.

        S3 knows ETags from uploads; rclone reads an object through when it is listed first.
        """
        access = ["--s3-access-key-id", ACCESS_KEY, "--s3-secret-access-key", SECRET_KEY]
        remote = ["--s3-provider", "Rclone", "--s3-endpoint", self.endpoint, *access, "--config", ""]
        for bucket in self._folder.iterdir():
            subprocess.run(
                [self._rclone, "lsf", "-R", *remote, f":s3:{bucket.name}"], stdout=subprocess.DEVNULL, check=True
            )

    @contextmanager
    def watched(self) -> Iterator[list[Served]]:
        """Fills the list, at the end, with what the server did inside."""
        offset, cpu = self._log.stat().st_size, cpu_of(self._process.pid)
        served: list[Served] = []
        yield served
        with self._log.open("rb") as log:
            log.seek(offset)
            kinds = Counter(m[1].decode().lower() for m in REQUEST.finditer(log.read()))
        served.append(Served(cpu_of(self._process.pid) - cpu, kinds))


def stored(bucket: Path) -> tuple[int, int]:
    """How many objects a bucket holds, and how many bytes."""
    sizes = [
        os.lstat(os.path.join(directory, name)).st_size for directory, _, names in os.walk(bucket) for name in names
    ]
    return len(sizes), sum(sizes)


@contextmanager
def serving(rclone: str, work: Path) -> Iterator[Server]:
    """A server for the time of the block, its objects and log under `work`."""
    folder, log = work / "served", work / "server.log"
    folder.mkdir()
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    argv = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    process = subprocess.Popen(
        [*argv, "--config", "", "-vv", "--log-file", str(log), str(folder)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_answer(port, process)
        yield Server(rclone, folder, log, port, process)
    finally:
        process.terminate()
        process.wait()


def _await_answer(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"the S3 server ended with {process.returncode} before it answered")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the S3 server did not answer within ten seconds")
