"""The cache directory during a run: held by one run at a time, and cleared of what a killed one left."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sysbackup.config.sections import Config
from sysbackup.disk.ownership import leave_to_owner
from sysbackup.disk.sorting import spooling
from sysbackup.errors import BusyError, SpoolError


@contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """
    Hold the cache directory, made if it is missing, against other runs.

    The lock is the kernel's (flock(2)): a killed run leaves none behind.
    `BusyError` where another run holds it.
    """
    with spooling(cache):
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(cache / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        leave_to_owner(fd, cache)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another run is in progress: it holds {cache / 'run.lock'}. Wait for it to end; this one did nothing"
            ) from None
        except OSError as exc:
            raise SpoolError(
                f"cannot lock {cache / 'run.lock'}: {exc.strerror}. The cache directory must be on a file system with"
                " locks; name another with SYSBACKUP_CACHE_DIR"
            ) from exc
        yield
    finally:
        os.close(fd)


def bucket_identity(config: Config, bucket: str) -> str:
    """What a catalog is bound to: a bucket of that name at another address is another bucket."""
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    return f"{bucket} at {config.s3.endpoint_url or next(filter(None, named), 'AWS')}"


def catalog_path(cache: Path) -> Path:
    """Where the catalog is. Only the holder of the directory may write to it, see `exclusive`."""
    return cache / "catalog.sqlite"
