"""
One process of a pool, seen from inside, and how the two sides speak.

It imports no more than it must, for each of these processes does so anew: nothing here needs asyncio.
"""

import importlib
import socket
import struct
from collections.abc import Callable, Sequence

from sysbackup.concurrency.flag import Flag

_LENGTH = struct.Struct(">Q")
_DESCRIPTORS = 16  # that can be given at a time

Work = Callable[[bytes], bytes]
"""Does one job, from what it is told; returns the answer."""


def serve(kind: str, channel_number: str, flag: str) -> None:
    """The life of one process: jobs until nobody sends any more."""
    name, _, function = kind.partition(":")
    module = importlib.import_module(name)
    with socket.socket(fileno=int(channel_number)) as channel, Flag(int(flag)) as stop:
        descriptors = _taken(channel)
        order = receive(channel)
        if order is None:
            return
        work: Work = getattr(module, function)(order, descriptors, stop)
        while (job := receive(channel)) is not None:
            try:
                send(channel, work(job))
            except BrokenPipeError:  # whoever asked has gone
                return


def give(channel: socket.socket, descriptors: Sequence[int]) -> None:
    """Hand over descriptors (unix(7), SCM_RIGHTS); they stay ours as well."""
    socket.send_fds(channel, [b"\0"], descriptors)


def _taken(channel: socket.socket) -> list[int]:
    return socket.recv_fds(channel, 1, _DESCRIPTORS)[1]


def send(channel: socket.socket, message: bytes) -> None:
    """Say something; blocks until all of it is on its way."""
    channel.sendall(_LENGTH.pack(len(message)) + message)


def receive(channel: socket.socket) -> bytes | None:
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
