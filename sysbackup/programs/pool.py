"""
Processes of our own, for Python work that threads would only pass the interpreter's lock to and fro for.

Restored with two threads, 47,000 small files took twice the processor time that they
took with one: seven system calls for each file, and as many changes of hands.

Messages go through a socket, which copies them twice: what is large belongs into `SharedSlots`.
"""

import importlib
import queue
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from sysbackup.concurrency.flag import Flag
from sysbackup.errors import ProgramError
from sysbackup.programs.children import environment
from sysbackup.programs.own_python import own_python

_LENGTH = struct.Struct(">Q")
_LEAVING = 10.0  # seconds that a process gets to leave after its last job

Work = Callable[[bytes], bytes]
"""Does one job, from what it is told; returns the answer."""


class ProcessPool:
    """
    A few processes that do one kind of work. A context manager; leaving it ends them.

    `kind` names a function, `module:function`, that each process calls once
    with `order`, descriptors of its own for `descriptors`, and `stop`; it
    returns the `Work` that is done from then on. `OSError` where they cannot be started.
    """

    def __init__(self, number: int, kind: str, order: bytes, descriptors: Sequence[int], stop: Flag) -> None:
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: list[_Process] = []
        try:
            for _ in range(number):
                process = _Process(kind, descriptors, stop)
                self._all.append(process)
                process.send(order)
                self._idle.put(process)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._end()

    def work(self, job: bytes) -> bytes:
        """
        Have one job done by the next process that is free; blocks until it is.

        To be called by no more threads than there are processes. `ProgramError`
        where the process did not live to answer.
        """
        process = self._idle.get()
        try:
            process.send(job)
            return process.answer()
        finally:
            self._idle.put(process)

    def _end(self) -> None:
        for process in self._all:
            process.channel.close()
        for process in self._all:
            process.leave()


class _Process:
    """One process, seen from here."""

    def __init__(self, kind: str, descriptors: Sequence[int], stop: Flag) -> None:
        self.channel, theirs = socket.socketpair()
        try:
            passed = (theirs.fileno(), stop.descriptor, *descriptors)
            self._popen = subprocess.Popen(
                own_python(f"{__name__}:serve", kind, ",".join(map(str, passed))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for the process that knows what to do about it
            )
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()

    def send(self, message: bytes) -> None:
        try:
            _send(self.channel, message)
        except OSError as exc:
            raise self._lost() from exc

    def answer(self) -> bytes:
        try:
            found = _receive(self.channel)
        except OSError as exc:
            raise self._lost() from exc
        if found is None:
            raise self._lost()
        return found

    def leave(self) -> None:
        """Wait until the process, whose channel is closed, has left."""
        try:
            self._popen.wait(_LEAVING)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _lost(self) -> ProgramError:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(1.0)
        status = self._popen.returncode
        return ProgramError(
            f"a helper process of sysbackup ended unexpectedly (status {status}; was it killed for want of memory?)"
        )


def serve(kind: str, numbers: str) -> None:
    """The life of one process: jobs until nobody sends any more."""
    channel_number, flag, *descriptors = map(int, numbers.split(","))
    module, _, function = kind.partition(":")
    with socket.socket(fileno=channel_number) as channel, Flag(flag) as stop:
        order = _receive(channel)
        if order is None:
            return
        work: Work = getattr(importlib.import_module(module), function)(order, descriptors, stop)
        while (job := _receive(channel)) is not None:
            try:
                _send(channel, work(job))
            except BrokenPipeError:  # whoever asked has gone
                return


def _send(channel: socket.socket, message: bytes) -> None:
    channel.sendall(_LENGTH.pack(len(message)) + message)


def _receive(channel: socket.socket) -> bytes | None:
    """The next message; None where the other side has closed."""
    length = _exactly(channel, _LENGTH.size)
    return None if length is None else _exactly(channel, *_LENGTH.unpack(length))


def _exactly(channel: socket.socket, length: int) -> bytes | None:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        got = channel.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return bytes(data)
