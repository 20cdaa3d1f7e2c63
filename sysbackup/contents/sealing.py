"""
The secret by which a host knows its own word again.

It lies in the state directory, not in the cache: what a catalog is lost with
must not take along what builds the next one. After a break-in it is worth
nothing, and is deleted: then all that was published is a stranger's word, and
proven before it is relied on.
"""

import os
import secrets
from pathlib import Path

import structlog

from sysbackup.disk.ownership import leave_to_owner
from sysbackup.formats.index import Seal

log = structlog.get_logger()

_BYTES = 32


def host_seal(state: Path, host: str, bucket: str) -> Seal | None:
    """
    The seal of `host` for a `bucket` (`bucket_identity`), under the key in `state`, made where there is none.

    None, with a warning, where no key can be had: nothing is sealed then, and a
    lost catalog costs proofs.
    """
    path = state / "host.key"
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
        return Seal(host, bucket, _read(path) or _made(path))
    except OSError as exc:
        log.warning(
            "seal.unusable",
            path=str(path),
            reason=exc.strerror or str(exc),
            hint="without it, what this host published is proven again should its catalog be lost",
        )
        return None


def _read(path: Path) -> bytes | None:
    """The key, where there is a whole one that nobody else can read or write."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        key = os.read(fd, _BYTES + 1)
        safe = len(key) == _BYTES and not os.fstat(fd).st_mode & 0o077
    finally:
        os.close(fd)
    if not safe:
        log.warning("seal.replaced", path=str(path), reason="it is damaged, or open to others")
        path.unlink()
        return None
    return key


def _made(path: Path) -> bytes:
    key = secrets.token_bytes(_BYTES)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        leave_to_owner(fd, path.parent)
        os.write(fd, key)
        os.fsync(fd)
    finally:
        os.close(fd)
    return key
