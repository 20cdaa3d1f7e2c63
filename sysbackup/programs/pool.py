"""
Processes of our own, for Python work that threads would only pass the interpreter's lock to and fro for.

Restored with two threads, 47,000 small files took twice the processor time that they
took with one: seven system calls for each file, and as many changes of hands.

Messages go through a socket, which copies them twice: what is large belongs into `SharedSlots`.
"""

import queue
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from sysbackup.concurrency.flag import Flag
from sysbackup.errors import ProgramError
from sysbackup.programs.children import environment
from sysbackup.programs.own_python import own_python
from sysbackup.programs.pool_member import give, receive, send

_LEAVING = 10.0  # seconds that a process gets to leave after its last job


class ProcessPool:
    """
    A few processes that do one kind of work. A context manager; leaving it ends them.

    `kind` names a function, `module:function`, whose module each process imports at
    once. When they are told to `begin` each calls it with `order`, descriptors of its
    own for `descriptors`, and `stop`; it returns the `Work` that is done from then on.
    `OSError` where they cannot be started.
    """

    def __init__(self, number: int, kind: str, stop: Flag) -> None:
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: list[_Process] = []
        try:
            for _ in range(number):
                self._all.append(_Process(kind, stop))
        except BaseException:
            self._end()
            raise

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._all)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._end()

    def begin(self, order: bytes, descriptors: Sequence[int]) -> None:
        """Tell them, once, what their work is. `ProgramError` where one has not lived to hear it."""
        for process in self._all:
            process.begin(order, descriptors)
            self._idle.put(process)

    def work(self, job: bytes) -> bytes:
        """
        Once it was begun, have one job done by the next process that is free; blocks until it is.

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

    def __init__(self, kind: str, stop: Flag) -> None:
        self.channel, theirs = socket.socketpair()
        try:
            passed = (theirs.fileno(), stop.descriptor)
            self._popen = subprocess.Popen(
                own_python("sysbackup.programs.pool_member:serve", kind, *map(str, passed)),
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

    def begin(self, order: bytes, descriptors: Sequence[int]) -> None:
        try:
            give(self.channel, descriptors)
        except OSError as exc:
            raise self._lost() from exc
        self.send(order)

    def send(self, message: bytes) -> None:
        try:
            send(self.channel, message)
        except OSError as exc:
            raise self._lost() from exc

    def answer(self) -> bytes:
        try:
            found = receive(self.channel)
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
