"""The demo's configuration: what a user would write, from which a user learns how."""

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sysbackup.demo.embedded import REGION, Endpoint
from sysbackup.demo.workspace import Workspace, lies_in
from sysbackup.errors import SysbackupError

BUCKET = "demo-backups"
SNAPSHOT = "machine"

_PLAIN = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")
_SPECIAL = re.compile(rb"([*?\[\]\\])")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")

_PACKAGES = b"""\
#!/bin/sh
# Any program that prints paths will do, also one path on a line.
for file in /etc/os-release /var/lib/dpkg/status /lib/apk/db/installed; do
    if [ -r "$file" ]; then echo "$file"; fi
done
"""

# `ps` is missing in many containers; /proc never is.
_MACHINE = b"""\
#!/bin/sh
# A snapshotter fetches what is no file: here what the kernel says, at
# home a database: pg_dumpall >&"$1", and restore through psql.
echo "Kernel, memory and mounts of $(uname -n)"
echo "::restore-through:: cat > %s"
{ uname -a; cat /proc/meminfo /proc/mounts; } >&"$1"
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One file of the configuration: its name there, its text, its permission bits."""

    name: str
    text: bytes
    mode: int = 0o755
    shown: bool = True


def samples(subject: bytes, place: Workspace, endpoint: Endpoint) -> list[Sample]:
    """The files for a demo that backs `subject` up to the server at `endpoint`."""
    through = shlex.quote(str(snapshot_target(place))).encode()
    return [
        Sample("credentials", _credentials(endpoint), 0o600, shown=False),
        Sample("conf", _conf(place, endpoint), 0o600),
        Sample("pickers.d/files", _files(subject, place)),
        Sample("pickers.d/packages", _PACKAGES),
        Sample(f"snapshots.d/{SNAPSHOT}", _MACHINE % through),
    ]


def write(files: Sequence[Sample], directory: Path) -> None:
    """Write them, with exactly their permission bits: sysbackup runs nothing that others could change."""
    for sample in files:
        path = directory / sample.name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(sample.text)
        path.chmod(sample.mode)


def snapshot_target(place: Workspace) -> Path:
    """Where the snapshot's restore command puts its data."""
    return place.root / "machine.txt"


def _credentials(endpoint: Endpoint) -> bytes:
    return (
        f"[default]\naws_access_key_id = {endpoint.access_key}\naws_secret_access_key = {endpoint.secret_key}\n"
    ).encode()


def _conf(place: Workspace, endpoint: Endpoint) -> bytes:
    host = os.uname().nodename
    named = [] if _HOST.fullmatch(host) else ["host = demo"]
    lines = [
        "[aws]",
        f"credentials_file = {place.config / 'credentials'}",
        "",
        "[s3]",
        f"bucket = {BUCKET}",
        f"endpoint_url = {endpoint.url}",
        f"region = {REGION}",
        "",
        "[content]",
        "days_retained = 14",
        "# COMPLIANCE: for so long nobody can delete. GOVERNANCE has a way out.",
        "lock_mode = COMPLIANCE",
        *named,
        "",
    ]
    return "\n".join(lines).encode()


def _files(subject: bytes, place: Workspace) -> bytes:
    """A picker for a whole tree; without root's rights, for what of it may be read."""
    where = _quoted(subject)
    found = shutil.which("find")
    if found is None:
        raise SysbackupError("the demo's picker needs the program find: install findutils")
    root = os.fsencode(place.root)
    own = b" -path " + _quoted(_SPECIAL.sub(rb"\\\1", root)) + b" -prune -o" if lies_in(root, subject) else b""
    if os.geteuid() == 0:
        return (
            b"#!/bin/sh\n# A picker prints paths. -print0 is safe with any name.\n"
            b"find " + where + b" -xdev" + own + b" -print0\n"
        )
    # busybox, Alpine's find, has no -readable
    busy = os.path.basename(os.path.realpath(found)) == "busybox"
    readable = b"-exec test -r {} ';'" if busy else b"-readable"
    return (
        b"#!/bin/sh\n# A picker prints paths. -print0 is safe with any name.\n"
        b"# This one leaves out what its user may not read.\n"
        b"find " + where + b" -xdev" + own + b" \\\n"
        b"    -type d ! '(' " + readable + b" -executable ')' -prune -o \\\n"
        b"    '(' " + readable + b" -o -type l ')' -print0\n"
    )


def _quoted(path: bytes) -> bytes:
    """A path as one word of the shell."""
    if _PLAIN.fullmatch(path):
        return path
    return b"'" + path.replace(b"'", b"'\\''") + b"'"
