"""
The ends of pipes that we hold: reading what a program writes, writing what it reads.

Real pipes, not the socket pairs that uvloop makes of `PIPE`: a script that
opens /dev/stdout or /dev/fd/3 fails on a socket. The loop watches our end; a
read is a plain `os.read` of bytes that are there already, so no thread waits.
"""

import asyncio
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from contextlib import suppress

# pipe(7): what an unprivileged process may ask for without further rights.
_PIPE_BYTES = 1 << 20


def open_pipe(*, large: bool = False) -> tuple[int, int]:
    """A pipe's reading and writing end, neither inherited by any program; `large` holds 1 MiB, not 64 KiB."""
    reading, writing = os.pipe()
    if large:
        # Where this user's pipes hold as much as they may (pipe-user-pages-soft): slower, no less right.
        with suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


class Inlet:
    """
    The reading end of a pipe, to which a program and all that it starts may write.

    Owns the descriptor. `heard` is called whenever something came. What nobody
    reads stays in the pipe, and the program waits: that is the back-pressure.
    """

    def __init__(self, descriptor: int, heard: Callable[[], None]) -> None:
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._heard = heard
        self._waiting: asyncio.Future[None] | None = None
        self._draining = False
        self._rest: int | None = None
        self.pipe = os.fstat(descriptor).st_ino
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def read(self, at_most: int) -> bytes:
        """What is there, waited for where nothing is; nothing once all writers have closed, or we have."""
        await asyncio.sleep(0)  # a pipe that is never empty must not keep the loop to itself
        while not self.ended.done():
            try:
                chunk = self._read(at_most)
            except BlockingIOError:
                await self._readable()
                continue
            self._heard()
            if chunk:
                return chunk
            self.close()
        return b""

    def drain(self, sink: Callable[[bytes], None]) -> None:
        """Hand all that comes to `sink` from now on, unless somebody reads or another sink takes it already."""
        if not self.ended.done() and self._waiting is None and not self._draining:
            self._draining = True
            self._loop.add_reader(self._descriptor, self._take, sink)

    def unread(self) -> bool:
        """Whether bytes lie in the pipe that nobody has taken yet."""
        if self.ended.done():
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def held(self) -> bool:
        """Whether anybody can still write to it (poll(2): the end of a pipe that nobody holds hangs up)."""
        if self.ended.done():
            return False
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))

    def cut(self) -> None:
        """Take what is in the pipe at this moment, and then hear nobody any more, whoever still writes."""
        if self.ended.done() or self._rest is not None:
            return
        there = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(struct.calcsize("i")))
        (self._rest,) = struct.unpack("i", there)
        if not self._rest:
            self.close()

    def close(self) -> None:
        """Stop listening: whoever reads sees the end."""
        if self.ended.done():
            return
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.ended.set_result(None)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _read(self, at_most: int) -> bytes:
        """What is there, or the end: of the pipe, or of what it held when it was `cut`."""
        if self._rest is None:
            return os.read(self._descriptor, at_most)
        chunk = os.read(self._descriptor, min(at_most, self._rest))
        self._rest -= len(chunk)
        return chunk

    async def _readable(self) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_reader(self._descriptor, _wake, self._waiting)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if not self.ended.done():
                self._loop.remove_reader(self._descriptor)

    def _take(self, sink: Callable[[bytes], None]) -> None:
        try:
            chunk = self._read(1 << 16)
        except BlockingIOError:
            return
        self._heard()
        if chunk:
            sink(chunk)
        else:
            self.close()


class Outlet:
    """The writing end of a pipe from which a program reads. Owns the descriptor."""

    def __init__(self, descriptor: int, stopped: "asyncio.Future[None]") -> None:
        """`stopped` is done once the program is gone: nobody reads then, whoever still holds the pipe."""
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = descriptor
        self._stopped = stopped

    async def write(self, chunk: bytes) -> bool:
        """Write all of it; False where nobody reads any more."""
        await asyncio.sleep(0)
        rest = memoryview(chunk)
        while rest and self._descriptor is not None and not self._stopped.done():
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                await self._writable(self._descriptor)
            except BrokenPipeError:
                return False
        return not rest

    def close(self) -> None:
        """Say that no more comes: the program reads the end of its input."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def _writable(self, descriptor: int) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(descriptor, _wake, ready)
        try:
            await asyncio.wait((ready, self._stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_writer(descriptor)


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
