"""
A real S3 for tests: Ceph's RADOS gateway on one node, in memory, on loopback.

It enforces locks, policies and lifecycle rules. Monitor, one OSD and the
gateway run in the foreground as children that die with this process; a manager
would only watch over them.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"

_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_START_SECONDS = 120.0

LIFECYCLE_DAY = 2
"""How many seconds a day of a lifecycle rule lasts."""

_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/log/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {device_bytes}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd max object name len = 2048
mon max pg per osd = 1000
mon allow pool size one = true
mon data avail crit = 1
mon warn on pool no redundancy = false
# without these radosgw now and then waits for ever for its first authentication
ms mon client mode = crc
ms client mode = crc
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw lc debug interval = {lifecycle_day}
# how long the monitor waits for more changes before it acts on one: a second for each of the gateway's pools
paxos propose interval = 0.05
debug ms = 0
"""


def missing() -> str | None:
    """What to install where Ceph is not complete, or None."""
    lacking = [name for name in _PROGRAMS if not shutil.which(name)]
    if not lacking:
        return None
    return (
        f"{', '.join(lacking)} not found: apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"
    )


@contextmanager
def shared_gateway(folder: Path) -> Iterator[str]:
    """
    A gateway that all processes use which name this folder; yields its endpoint's URL.

    The first of them runs it, until none of the others is in the block any more:
    two gateways would cost their start twice, and most of a gibibyte of memory each.
    """
    folder.mkdir(exist_ok=True)
    known = folder / "endpoint"
    with ExitStack() as stack:
        using = stack.enter_context((folder / "using").open("ab"))
        with _alone(folder):
            if known.exists():
                endpoint = known.read_text()
            else:
                endpoint = stack.enter_context(gateway(folder / f"{os.getpid()}"))
                known.write_text(endpoint)
                # the last in is the first out: nobody begins with it any more, the others leave, it is stopped
                stack.callback(fcntl.flock, using, fcntl.LOCK_EX)
                stack.callback(_forget, folder, known)
            fcntl.flock(using, fcntl.LOCK_SH)
        yield endpoint


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget(folder: Path, known: Path) -> None:
    with _alone(folder):
        known.unlink()


@contextmanager
def gateway(folder: Path, *, gib: int = 4) -> Iterator[str]:
    """Run a gateway for the time of the block; yields its endpoint's URL."""
    mon_v2, mon_v1, port = _free_ports(3)
    for name in ("mon", "osd", "rgw", "run", "log"):
        (folder / name).mkdir(parents=True)
    conf, fsid = folder / "ceph.conf", str(uuid.uuid4())
    conf.write_text(
        _CONF.format(
            folder=folder,
            fsid=fsid,
            mon_v2=mon_v2,
            mon_v1=mon_v1,
            port=port,
            lifecycle_day=LIFECYCLE_DAY,
            device_bytes=gib << 30,
        )
    )
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log" / "up.log").open("ab"))
        node = _Node(folder, conf, log.fileno(), stack)
        try:
            node.prepare(fsid, f"[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]")
            node.start(f"http://127.0.0.1:{port}")
        except (subprocess.SubprocessError, TimeoutError) as exc:
            said = (folder / "log" / "up.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"Ceph did not start: {exc}\n{said}") from exc
        yield f"http://127.0.0.1:{port}"


class _Node:
    """The three daemons of one gateway, and the commands that set them up."""

    def __init__(self, folder: Path, conf: Path, log: int, stack: ExitStack) -> None:
        self._folder = folder
        self._conf = conf
        self._log = log
        self._stack = stack

    def prepare(self, fsid: str, addresses: str) -> None:
        """Keys, the monitor's map and the monitor's store."""
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
        osd = ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *osd)
        self._run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", addresses, monmap)
        self._ceph("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def start(self, endpoint: str) -> None:
        """The daemons, one after the other; returns when the gateway answers."""
        self._daemon("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._ceph("ceph", "osd", "new", osd)
        self._ceph("ceph", "auth", "import", "-i", str(self._folder / "keyring"))
        self._ceph("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.admin", f"--rgw-data={self._folder}/rgw")
        _wait_for(endpoint)
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._ceph("radosgw-admin", "-n", "client.admin", "user", "create", "--uid=test", "--display-name=test", *keys)

    def _ceph(self, program: str, *arguments: str) -> None:
        self._run(program, "-c", str(self._conf), *arguments)

    def _run(self, *argv: str) -> None:
        subprocess.run(
            argv, check=True, timeout=_START_SECONDS, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    def _daemon(self, program: str, *arguments: str) -> None:
        # in a session of its own, so that Ctrl-C reaches pytest first; and gone when pytest is killed
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", program, "-f", "-c", str(self._conf), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self._folder)},
        )
        self._stack.callback(_stop, process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    # all of it is in memory and nobody's: there is nothing to shut down in order
    process.kill()
    process.wait()


def _wait_for(endpoint: str) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urlopen(endpoint, timeout=5):
                return
        except (URLError, OSError) as exc:
            if time.monotonic() > until:
                raise TimeoutError(f"{endpoint} does not answer: {exc}") from exc
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(socket.socket())) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
