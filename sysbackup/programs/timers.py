"""What systemd's timers are about to do."""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime

from sysbackup.programs.children import environment

_WITHIN = 2.0
"""Seconds that systemd gets to answer."""

_BOOTED = "/run/systemd/system"
"""There where systemd runs the machine (sd_booted(3))."""

# systemd.time(7): `Tue 2026-11-24 02:15:00 UTC`. Versions before 247 know no other form.
_FORM = re.compile(r"[A-Z][a-z]{2} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC\n?", re.ASCII)


def next_elapse(timer: str) -> datetime | None:
    """When that timer unit of the system's will next elapse; None where nobody knows. Waits for at most 2 s."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not os.path.isdir(_BOOTED):
        return None
    try:
        done = subprocess.run(
            [systemctl, "show", "--property=NextElapseUSecRealtime", "--value", timer],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WITHIN,
            check=True,
            env={**environment(), "LC_ALL": "C", "TZ": "UTC"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return _instant(done.stdout.decode("ascii", "replace"))


def _instant(said: str) -> datetime | None:
    found = _FORM.fullmatch(said)
    try:
        return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None
