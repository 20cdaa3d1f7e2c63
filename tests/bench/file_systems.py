"""What lies below the folder that is measured in, and whether it would spoil a measurement."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NO_JOURNAL = "<none>"  # what journal_task says then (fs/ext4/sysfs.c)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of proc(5), mountinfo, as far as it matters here."""

    point: bytes
    device: str
    """Its numbers, as `259:1`."""
    kind: str


def warning(work: Path) -> str | None:
    """What would spoil a restore that is measured there, or None."""
    mount = below(os.fsencode(os.path.realpath(work)), mounts(Path("/proc/self/mountinfo").read_bytes()))
    if mount.kind != "ext4" or has_journal(mount.device):
        return None
    return (
        f"warning: {work} lies on ext4 without a journal, which avoids the inodes of what was deleted within the last "
        "five minutes: after a removal, as between two runs, files are created up to three times slower. "
        "Measure on tmpfs (--work /dev/shm)."
    )


def mounts(mountinfo: bytes) -> list[Mount]:
    """All mounts, in their order: what is mounted over another comes after it."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
        found.append(Mount(point, fields[2].decode(), after.split(b" ")[0].decode()))
    return found


def below(path: bytes, all_mounts: Iterable[Mount]) -> Mount:
    """The mount that a path (absolute, without links) lies on: the last of the longest."""
    found = None
    for mount in all_mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip(b"/") + b"/")
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    if found is None:
        raise SystemExit(f"no file system is mounted at {os.fsdecode(path)}")
    return found


def has_journal(device: str, sys: Path = Path("/sys")) -> bool:
    """Whether the ext4 on a device keeps a journal; taken for granted where the kernel does not say."""
    try:
        name = os.path.basename(os.readlink(sys / "dev/block" / device))
        return (sys / "fs/ext4" / name / "journal_task").read_text().strip() != _NO_JOURNAL
    except OSError:
        return True
