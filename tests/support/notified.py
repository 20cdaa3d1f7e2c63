"""A service manager's ear: a datagram socket that takes down what a service says (sd_notify(3))."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SOON = 60.0
"""Seconds after which what was waited for will not come, on however slow a machine."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message: when it came (CLOCK_MONOTONIC, seconds), from which process, and what it assigns."""

    at: float
    pid: int
    fields: dict[str, str]


@dataclass(slots=True)
class Ear:
    """`address` belongs into NOTIFY_SOCKET; `heard` grows."""

    address: str
    heard: list[Said] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def until(self, met: Callable[[list[Said]], bool]) -> list[Said]:
        """Wait until what has been heard is so; all of it then."""
        with self.came:
            assert self.came.wait_for(lambda: met(self.heard), SOON), self.heard
            return list(self.heard)

    def hear(self, name: str, text: str = "", *, after: int = 0) -> Said:
        """Wait for a message that assigns `name` something with `text` in it, among those `after` so many others."""

        def found(heard: list[Said]) -> list[Said]:
            return [said for said in heard[after:] if text in said.fields.get(name, "\0")]

        return found(self.until(lambda heard: bool(found(heard))))[0]

    def states(self) -> list[str]:
        """What has been said but for STATUS, WATCHDOG and what only goes with something else, in its order."""
        dropped = {"STATUS", "WATCHDOG", "MONOTONIC_USEC"}
        with self.came:
            return [name for said in self.heard for name in said.fields if name not in dropped]

    def pings(self) -> list[float]:
        """When WATCHDOG=1 came."""
        with self.came:
            return [said.at for said in self.heard if said.fields.get("WATCHDOG") == "1"]


@contextmanager
def listening(address: Path | str) -> Iterator[Ear]:
    """Listen at a path, or at an abstract address, `@name`."""
    ear = Ear(str(address))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        own.bind("\0" + ear.address[1:] if ear.address.startswith("@") else ear.address)
        thread = threading.Thread(target=_listen, args=(own, ear), name="notified")
        thread.start()
        try:
            yield ear
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", own.getsockname())
            thread.join()


def _listen(own: socket.socket, ear: Ear) -> None:
    while True:
        data, ancillary, _, _ = own.recvmsg(65536, socket.CMSG_SPACE(struct.calcsize("3i")))
        if not data:
            return
        pid = next((struct.unpack("3i", value)[0] for _, kind, value in ancillary if kind == socket.SCM_CREDENTIALS), 0)
        fields = dict(line.split("=", 1) for line in data.decode().split("\n"))
        with ear.came:
            ear.heard.append(Said(time.monotonic(), pid, fields))
            ear.came.notify_all()
