"""Telling systemd how the service is: sd_notify(3), sd_watchdog_enabled(3)."""

import os
import socket
from collections.abc import Mapping
from time import clock_gettime_ns

# time.CLOCK_MONOTONIC: what systemd compares a reload's MONOTONIC_USEC with
from time import CLOCK_MONOTONIC  # isort: skip


PATIENCE = 1.0
"""Seconds that a change of state waits for a watcher whose queue is full; other messages do not wait."""


class Notify:
    """
    Messages to whoever watches this service; where nobody does, they go nowhere.

    `watchdog` is in how many seconds a message must come at the latest, or None.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract socket's name begins with a zero byte, written as @.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._said = ""
        self.watchdog = _watchdog(environ)

    def ready(self) -> None:
        """The service has started, or has read its configuration again."""
        self._send("READY=1", patience=PATIENCE)

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        now = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", patience=PATIENCE)

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1", patience=PATIENCE)

    def status(self, text: str) -> None:
        """What `systemctl status` shows, one line."""
        if text != self._said and self._send("STATUS=" + " ".join(text.split())):
            self._said = text

    def alive(self) -> None:
        """The event loop turns."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Nothing more will be said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str, patience: float = 0.0) -> bool:
        """Whether it has arrived."""
        if self._socket is None:
            return False
        try:
            self._socket.settimeout(patience)
            self._socket.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
        except OSError:
            return False  # nobody listens (any more): that must not keep a backup from being made
        return True


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """`WATCHDOG_USEC` in seconds, where it is meant for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isascii() and usec.isdigit() and int(usec) else None
