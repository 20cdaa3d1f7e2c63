"""A stream of bytes, poured out: to a descriptor, or to a file that appears when it is complete."""

import asyncio
import errno
import os
import select
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

from sysbackup.cli.streams import NobodyReads, Unprinted
from sysbackup.concurrency.waits import outlast
from sysbackup.disk.replacing import replacing
from sysbackup.errors import RestoreError

_PIECE = 1 << 20
_WAKE = 200  # milliseconds after which a thread that waits for a reader looks whether anybody still wants it


async def into_descriptor(data: AsyncIterator[bytes], fd: int) -> None:
    """Write all of it; `BrokenPipeError` where nobody reads any more."""
    stop = Event()
    try:
        async for chunk in data:
            await asyncio.to_thread(_write, fd, chunk, stop)
    finally:
        stop.set()


async def into_output(data: AsyncIterator[bytes]) -> None:
    """Write all of it to standard output. `NobodyReads` and `Unprinted` where that does not go."""
    try:
        await into_descriptor(data, sys.stdout.fileno())
    except BrokenPipeError:
        raise NobodyReads from None
    except OSError as exc:
        raise Unprinted(f"cannot write to standard output: {exc.strerror}") from exc


async def into_file(data: AsyncIterator[bytes], path: Path, *, overwrite: bool) -> None:
    """
    Write a new file, readable by its owner alone, that gets its name when all is in it.

    With `overwrite` a file of that name is replaced; a device or FIFO is written to.
    """
    try:
        if _is_special(path):
            await _into_special(data, path)
        else:
            await _into_new(data, path, overwrite=overwrite)
    except OSError as exc:
        raise RestoreError(f"cannot write {path}: {exc.strerror}") from exc


async def _into_special(data: AsyncIterator[bytes], path: Path) -> None:
    fd = await asyncio.to_thread(os.open, path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        await into_descriptor(data, fd)
    finally:
        os.close(fd)


async def _into_new(data: AsyncIterator[bytes], path: Path, *, overwrite: bool) -> None:
    loop = asyncio.get_running_loop()
    with replacing(path, 0o600, alone=False) as file:
        async for chunk in data:
            await outlast(loop.run_in_executor(None, file.write, chunk))
        if not overwrite:
            _check_free(path)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _write(fd: int, chunk: bytes, stop: Event) -> None:
    """Write all of a chunk without ever being stuck: a pipe that has room takes PIPE_BUF at once (pipe(7))."""
    piece = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else _PIECE
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    at = 0
    while at < len(chunk) and not stop.is_set():
        if ready.poll(_WAKE):
            at += os.write(fd, chunk[at : at + piece])
