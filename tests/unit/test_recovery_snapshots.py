"""What snapshotters wrote comes back byte by byte, and never whole if it is wrong."""

import hashlib
import random

import pytest
import uvloop

from sysbackup.errors import FormatError, RestoreError
from sysbackup.formats.manifest import Snapshot
from sysbackup.recovery import snapshots, stored_runs
from tests.support.recovering import HOST, MOMENT, RUN, Backup

DATA = random.Random(3).randbytes(300_000)


def _backup(content: bytes = DATA) -> tuple[Backup, Snapshot]:
    backup = Backup()
    kept = backup.bucket.add(f"snapshots/{HOST}/{RUN}-postgres", content)
    made = Snapshot(
        name="postgres",
        key=kept.key,
        version=kept.version,
        size=len(content),
        sha=hashlib.sha256(content).hexdigest(),
        restore="psql",
        started=MOMENT,
        finished=MOMENT,
    )
    backup.entries.append(made)
    backup.stored()
    return backup, made


def _fetched(backup: Backup, name: str = "postgres") -> tuple[bytes, Exception | None]:
    """What came, and how it ended."""

    async def work() -> tuple[bytes, Exception | None]:
        run = await stored_runs.find_run(backup.store, RUN)
        found = await snapshots.find_snapshot(backup.store, run, name)
        came = b""
        try:
            async for chunk in snapshots.data(backup.store, found):
                came += chunk
        except FormatError as exc:
            return came, exc
        return came, None

    return uvloop.run(work())


@pytest.mark.parametrize("content", [DATA, b"", b"x", bytes(2 << 20)])
def test_data_come_back(content: bytes) -> None:
    """A snapshot's data come back as they were written."""
    assert _fetched(_backup(content)[0]) == (content, None)


@pytest.mark.parametrize("damaged", [DATA[:-1], DATA + b"x", DATA[:-1] + b"?", b"?" + DATA[1:], b"", DATA * 3], ids=len)
def test_damaged_data_never_come_whole(damaged: bytes) -> None:
    """Data that are not what was written end in an error that names the object, and their end is held back."""
    backup, made = _backup()
    backup.bucket.objects[made.key][0].body = damaged
    came, error = _fetched(backup)
    assert made.key in str(error)
    assert len(came) < len(DATA)


def test_no_such_snapshot() -> None:
    """A name that no snapshot has is an error that names those there are."""
    with pytest.raises(RestoreError, match="'postgres'"):
        _fetched(_backup()[0], "mysql")
