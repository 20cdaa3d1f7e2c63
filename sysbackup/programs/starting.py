"""
Child processes started: in a thread, so that one that hangs stops neither the loop nor us.

`subprocess.Popen` in a thread rather than asyncio's own: that one forks the
whole process on the loop's thread under uvloop (70 to 80 ms at 1 GiB), where
Popen uses vfork (see `children` for where it does not).
"""

import asyncio
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sysbackup.concurrency.waits import settled
from sysbackup.programs.children import Child, environment, known, moment, reap, spawning, starts

LATE = 0.3
"""Seconds for which a start that is no longer wanted is waited for: exec(2) waits as long as a file system hangs."""

# A descriptor of one digit, whatever ours are: dash, Debian's /bin/sh, takes `>&12` for a syntax error. Popen
# sets standard input, output and error alone; so the pipe goes in as the first of them, and a shell moves it.
_MOVE_INPUT = b'exec "$0" 3 3>&0 0</dev/null'

DISCARDED = subprocess.DEVNULL
"""Stands for a stream that nobody reads, or writes."""

Streams = tuple[int, int | None, int | None]
"""A child's standard input, output and error: descriptors, or None to inherit ours."""


async def start(
    arguments: Sequence[bytes],
    streams: Streams,
    data: int | None = None,
    environ: Mapping[str, str] | None = None,
    held: Sequence[signal.Signals] = (),
    first: Callable[[], None] | None = None,
) -> "Child":
    """
    Start a program in its own session, in `/`, with default signal handling.

    Where `data` is given, a descriptor open for writing, `arguments` is a
    path alone: the program has that descriptor as its number 3, `3` as its
    argument, and nothing on standard input. The descriptors stay ours to close.
    `environ` is for processes of our own; others have what `environment` gives.
    So is `held`, signals that wait until the process lets them through.
    `first` is called before, where a file system may hang; what it raises comes
    out here. `OSError` where the program cannot be started. When cancelled
    nothing is left; a start that hangs then is left to itself, and what comes
    to life of it is killed.
    """
    if data is not None:
        arguments = [b"/bin/sh", b"-c", _MOVE_INPUT, *arguments]
        streams = (data, *streams[1:])
    starting = _Starting(arguments, streams, environ, held, first)
    # A thread cannot be called back.
    cancelled = await settled(starting.done, patience=lambda: LATE)
    if cancelled is not None:
        starting.leave()
        raise cancelled
    return Child(starting.result())


class _Starting:
    """
    The start of a program, in a thread of its own.

    Not in one of the loop's threads, of which there are few: any number of
    starts may hang. It is a daemon's (`threading`), for which nobody waits.
    """

    def __init__(
        self,
        arguments: Sequence[bytes],
        streams: Streams,
        environ: Mapping[str, str] | None,
        held: Sequence[signal.Signals],
        first: Callable[[], None] | None,
    ) -> None:
        self._arguments = arguments
        self._environ = environment() if environ is None else environ
        self._held = held
        self._first = first
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._error: BaseException | None = None
        self._left = False
        self._handing = threading.Lock()
        self._owned: list[int] = []
        try:
            # Of our own: those of the caller are closed when it has left, and their numbers are given to others.
            self._streams = [self._own(stream) for stream in streams]
            threading.Thread(target=self._run, name="start", daemon=True).start()
        except BaseException as error:
            self._close()
            if isinstance(error, RuntimeError):  # no thread can be had
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise

    def leave(self) -> None:
        """Nobody wants it any more."""
        with self._handing:
            self._left = True
        if self._process is not None:
            Child(self._process).release()

    def result(self) -> "subprocess.Popen[bytes]":
        """The process, once `done`."""
        if self._process is None:
            raise self._error or RuntimeError("it is still being started")
        return self._process

    def _own(self, stream: int | None) -> int | None:
        if stream is None or stream < 0:  # subprocess.DEVNULL
            return stream
        self._owned.append(os.dup(stream))
        return self._owned[-1]

    def _close(self) -> None:
        while self._owned:
            os.close(self._owned.pop())

    def _run(self) -> None:
        process: subprocess.Popen[bytes] | None = None
        try:
            if self._first is not None:
                self._first()
            process = None if self._left else self._spawn()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._error = error
        finally:
            self._close()
        with self._handing:
            if not self._left:
                self._process = process
                process = None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            reap(process)
        with suppress(RuntimeError):  # the loop is closed: it was left
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        stdin, stdout, stderr = self._streams
        process: subprocess.Popen[bytes] | None = None
        with spawning:
            starts[self] = moment()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._held)  # of this thread alone; a child inherits it
        try:
            process = subprocess.Popen(
                self._arguments,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                close_fds=True,  # neither our descriptors nor the pipes of another child that starts at this moment
                cwd="/",
                env=self._environ,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            with spawning:
                del starts[self]
                if process is not None:
                    known.add(process.pid)
        return process
