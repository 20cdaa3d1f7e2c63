"""Where the demo lives: a directory of its own, and how nothing of it is left."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sysbackup.config.sections import MIB
from sysbackup.config.units import amount
from sysbackup.errors import SysbackupError, UsageError
from sysbackup.model import shown

# Besides the copies: the configuration, the spools, what the snapshotter writes.
_MARGIN = 64 * MIB


@dataclass(frozen=True, slots=True)
class Workspace:
    """The demo's directory; `kept` where the user wants to look around in it afterwards."""

    root: Path
    kept: bool

    @property
    def config(self) -> Path:
        """The configuration directory, as /etc/backup would be."""
        return self.root / "config"

    @property
    def cache(self) -> Path:
        """What /var/cache/sysbackup would be; never kept."""
        return self.root / "cache"

    @property
    def restored(self) -> Path:
        """Where the files come back."""
        return self.root / "restored"


@contextmanager
def workspace(keep: Path | None, held: int) -> Iterator[Workspace]:
    """
    A directory for copies of `held` bytes, closed to other users; gone afterwards unless it is `keep`.

    `keep` is made where it is missing. `UsageError` where it cannot be used,
    `SysbackupError` where no place fits: programs must be allowed to run there.
    """
    # The restored files, and the server's own copies: it sets down objects of some MiB in unnamed files.
    needed = 2 * held + _MARGIN
    root = _kept(keep, needed) if keep else Path(tempfile.mkdtemp(prefix="sysbackup-demo-", dir=_place(needed)))
    usual = tempfile.tempdir
    tempfile.tempdir = str(root)
    try:
        yield Workspace(root, keep is not None)
    finally:
        tempfile.tempdir = usual
        remove(root / "cache" if keep else root)


def _kept(keep: Path, needed: int) -> Path:
    named = shown(os.fsencode(keep))
    try:
        keep = Path(os.path.abspath(keep))
        made = not keep.exists()
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UsageError(f"--keep {named} is not empty: name a directory that is, or that does not exist yet")
        keep.chmod(0o700)  # copies of files that others may not read come here
        if reason := _unfit(keep, needed):
            if made:
                keep.rmdir()
            raise UsageError(f"--keep {named} cannot be used: it {reason}")
    except OSError as error:
        raise UsageError(f"--keep {named} cannot be used: {error.strerror}") from error
    return keep


def _place(needed: int) -> str:
    """The first directory for temporary files that will do."""
    named = (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"))  # noqa: S108 - mkdtemp(3) names what is in there
    places = [place for place in dict.fromkeys(named) if place and os.path.isabs(place)]
    reasons = []
    for place in places:
        reason = _unfit(Path(place), needed)
        if reason is None:
            return place
        reasons.append(f"{shown(os.fsencode(place))} {reason}")
    raise SysbackupError(
        f"the demo finds no directory to work in: {'; '.join(reasons)}. Name one with --keep DIR, or set TMPDIR"
    )


def _unfit(place: Path, needed: int) -> str | None:
    if not os.path.isdir(place):
        return "is no directory"
    if not str(place).isprintable():
        return "has a name that a configuration file cannot hold"
    if not os.access(place, os.W_OK | os.X_OK):
        return "cannot be written"
    system = os.statvfs(place)
    if system.f_flag & os.ST_NOEXEC:
        return "is on a file system mounted noexec, where pickers cannot run"
    free = system.f_bavail * system.f_frsize
    if free < needed:
        return f"has {amount(free)} free, {amount(needed)} are needed"
    return None


def lies_in(path: bytes, above: bytes) -> bool:
    """Whether `path` is `above` or beneath it; both absolute."""
    return path == above or path.startswith(above.rstrip(b"/") + b"/")


def remove(root: Path) -> None:
    """
    Remove a directory with all that is in it, whatever its depth and the rights of what was restored there.

    Every directory is emptied by moving those in it to the top, so no path grows
    long and no descriptor stays open. Nothing is followed. What is missing is gone already.
    """
    with suppress(FileNotFoundError):
        root.chmod(0o700)
        while waiting := _directories(root):
            for place in waiting:
                for inner in _directories(place):
                    os.rename(inner, root / secrets.token_hex(8))
                os.rmdir(place)
        root.rmdir()


def _directories(place: str | Path) -> list[str]:
    """The directories in a directory, open to us; everything else in it is removed."""
    found = []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)  # to be listed, and to be moved: its `..` is rewritten (rename(2))
                found.append(entry.path)
            else:
                os.unlink(entry.path)
    return found
