"""Commands whose standard streams were closed by whoever started them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_crash(closed: str) -> None:
    """The command ends with its own status, whichever of its standard streams are closed."""
    script = f'exec "$1" -m sysbackup --version {closed}'
    ended = subprocess.run(["/bin/sh", "-c", script, "sh", sys.executable], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
