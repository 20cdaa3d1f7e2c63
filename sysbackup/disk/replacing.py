"""Files that are written whole or not at all: whoever reads one sees the old or the new, never half of either."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NAME_BYTES = 200  # of the 255 that a name may have


@contextmanager
def replacing(path: Path, mode: int, *, durable: bool = False, alone: bool = True) -> Iterator[IO[bytes]]:
    """
    A new file, to be written, that takes the place of `path` when the context is left without an error.

    With an error, a full disk above all, it is gone and `path` is as it was.
    `mode` is what open(2) takes: the umask is taken from it. `durable`: what was
    written is on the disk before it gets its name. Until then it is a hidden file
    beside `path`. Where nobody else replaces `path` at the same time (`alone`) that has
    one name, so what a killed process left goes with the next; else, and in
    directories of others, one that nobody can foresee.
    """
    name = os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])
    fresh = path.with_name(f".{name}.new" if alone else f".{name}.{secrets.token_hex(4)}.new")
    if alone:
        fresh.unlink(missing_ok=True)

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, mode)

    # "x": what has that name by now was put there by somebody else.
    file = open(fresh, "xb", opener=create)  # noqa: SIM115 - closed below, before it gets its name
    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
