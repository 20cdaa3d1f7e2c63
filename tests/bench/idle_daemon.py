"""
What a daemon costs while it waits: its memory and processor time, before its first run and after one.

    python tests/bench/idle_daemon.py [--seconds 60] [--tree DIRECTORY]

The run between backs DIRECTORY up into `rclone serve s3` on loopback. All that
can wake an idle daemon is on: a schedule, metrics over HTTP, a watchdog.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sysbackup.service import status_file as statuses
from sysbackup.service.status_file import Status
from tests.bench.contenders import Sysbackup, program
from tests.bench.measuring import cpu_of
from tests.bench.serving import serving

WATCHDOG = 180  # seconds, as in systemd/sysbackup.service
PATIENCE = 600


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch it wait, each time")
    parser.add_argument(
        "--tree", type=Path, default=Path(sysconfig.get_path("stdlib")), help="what the run between backs up"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sysbackup-bench-") as folder:
        work = Path(folder)
        with serving(program("rclone"), work) as server:
            tool = Sysbackup(server, options.tree.resolve(), work / "home")
            tool.prepare()
            with closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            with (work / "home" / "conf.d" / "conf").open("a") as conf:
                conf.write(f"[daemon]\nschedule = 0 3 1 1 *\n[metrics]\nlisten = {port}\n")
            _watch(tool, work, options.seconds)
    return 0


def _watch(tool: Sysbackup, work: Path, seconds: float) -> None:
    path = work / "home" / "run" / "status.json"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd, (work / "log").open("wb") as log:
        systemd.bind(str(work / "notify"))
        environ = tool.env | {"NOTIFY_SOCKET": str(work / "notify"), "WATCHDOG_USEC": str(WATCHDOG * 1_000_000)}
        daemon = subprocess.Popen([sys.executable, "-m", "sysbackup", "daemon"], env=environ, stderr=log)
        try:
            _until(path, lambda status: status.pid == daemon.pid)
            print(f"{'':24}{'resident':>10}{'private':>10}{'processor time':>28}{'threads':>9}")
            _idle("waiting, no run yet", daemon.pid, seconds)
            daemon.send_signal(signal.SIGUSR1)
            ended = _until(path, lambda status: status.last is not None and status.state == "waiting").last
            if ended is None or ended.summary is None:
                raise SystemExit(f"the run failed: {ended}")
            _idle("waiting, after a run", daemon.pid, seconds)
            print(f"(the run: {ended.summary.files:,} files in {ended.summary.seconds:.1f} s)")
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE)


def _idle(what: str, pid: int, seconds: float) -> None:
    time.sleep(2)  # what came before has calmed down
    before = cpu_of(pid)
    time.sleep(seconds)
    used = cpu_of(pid) - before
    said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, private = (int(said[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
    cost = f"{used:.2f} s in {seconds:.0f} s ({used / seconds:.2%})"
    print(f"{what:24}{resident:6.1f} MiB{private:6.1f} MiB{cost:>28}{said['Threads'].strip():>9}", flush=True)


def _until(path: Path, reached: Callable[[Status], bool]) -> Status:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = statuses.read(path)
        if status is not None and reached(status):
            return status
        time.sleep(0.2)
    raise SystemExit(f"the daemon did not come so far within {PATIENCE} s")


if __name__ == "__main__":
    os.environ.pop("NOTIFY_SOCKET", None)
    sys.exit(main())
