"""Files that change under the reader's eyes: not now and then, but just when someone opens or reads them."""

import ctypes
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal, Self

Change = Literal["grow", "shrink", "rewrite", "replace", "vanish"]

IN_ACCESS, IN_OPEN = 0x1, 0x20  # inotify(7)
EVENT = struct.Struct("iIII")
LIBC = ctypes.CDLL(None, use_errno=True)


class Restless:
    """
    Changes one file each time somebody, in whatever process, opens or reads it.

    `grow` appends 4 KiB, `shrink` cuts the last 4 KiB off, `rewrite` overwrites
    the first bytes and keeps the size, `replace` renames a new file over it,
    `vanish` unlinks it. At most `times`; then the file rests, so a reader that
    tries again succeeds. A context manager: inside, a thread watches.
    """

    def __init__(self, path: bytes, change: Change, *, times: int = 1_000) -> None:
        self.changes = 0
        """How many changes have been made."""
        self._directory, self._name = os.path.split(path)
        self._path = path
        self._times = times
        self._make: Callable[[], None] = getattr(self, f"_{change}")
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name=f"restless: {change}")

    def __enter__(self) -> Self:
        self._stop = os.eventfd(0)
        # Held open, because opening it again would be an event of our own.
        self._file = os.open(self._path, os.O_RDWR)
        self._inotify = _called(LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        # The directory is watched, not the file: a file that replaces it counts too.
        _called(LIBC.inotify_add_watch(self._inotify, self._directory, IN_ACCESS | IN_OPEN))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for fd in (self._inotify, self._file, self._stop):
            os.close(fd)

    def wait(self, changes: int, seconds: float = 10) -> None:
        """Returns once that many changes have been made; `TimeoutError` if they are not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.changes >= changes, seconds):
                raise TimeoutError(f"{self._path!r} was changed {self.changes} times, not {changes}")

    def _watch(self) -> None:
        while self.changes < self._times:
            ready, _, _ = select.select([self._inotify, self._stop], [], [])
            if self._stop in ready:
                return
            if self._name in _names(os.read(self._inotify, 1 << 16)):
                with suppress(FileNotFoundError):  # it vanished, or its directory did
                    self._make()
                    with self._changed:
                        self.changes += 1
                        self._changed.notify_all()

    def _grow(self) -> None:
        os.pwrite(self._file, b"more" * 1024, os.fstat(self._file).st_size)

    def _shrink(self) -> None:
        os.ftruncate(self._file, max(0, os.fstat(self._file).st_size - 4096))

    def _rewrite(self) -> None:
        os.pwrite(self._file, b"change %d" % self.changes, 0)

    def _replace(self) -> None:
        fresh = self._path + b".fresh"
        with open(fresh, "xb") as f:
            f.write(b"replacement %d\n" % self.changes * 1000)
        os.rename(fresh, self._path)

    def _vanish(self) -> None:
        os.unlink(self._path)


def _called(result: int) -> int:
    """The result of a C call that says -1 when it fails."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _names(events: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(events):
        *_, length = EVENT.unpack_from(events, offset)
        offset += EVENT.size + length
        yield events[offset - length : offset].rstrip(b"\0")
