"""The cache directory during a run: held by one run at a time, and cleared of what a killed one left."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sysbackup.config.sections import Config
from sysbackup.disk.locked_file import held
from sysbackup.disk.sorting import spooling


@contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """
    Hold the cache directory, made if it is missing, against other runs.

    A killed run leaves no lock behind. `BusyError` where another run holds it.
    """
    lock = cache / "run.lock"
    with ExitStack() as stack:
        with spooling(cache):
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(
                held(
                    lock,
                    busy=f"another run is in progress: it holds {lock}. Wait for it to end; this one did nothing",
                    elsewhere="The cache directory must be on a file system with locks; name another with"
                    " SYSBACKUP_CACHE_DIR",
                )
            )
        yield


def bucket_identity(config: Config, bucket: str) -> str:
    """What a catalog is bound to: a bucket of that name at another address is another bucket."""
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    return f"{bucket} at {config.s3.endpoint_url or next(filter(None, named), 'AWS')}"


def catalog_path(cache: Path) -> Path:
    """Where the catalog is. Only the holder of the directory may write to it, see `exclusive`."""
    return cache / "catalog.sqlite"
