"""
The control socket: whoever wants to hear how a run goes and ends asks for it here; the client's end is `asking`.

A signal has no answer, and a hundred of them are one. The socket speaks lines
of JSON: `Request` from the client, nothing else; then to it `Accepted`, about
each second `Going`, and `Over`; or `Refused`. All that a client can do wrong
(say nothing, say too much, read nothing, go away) ends its connection alone:
the run that it asked for is made.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from sysbackup.errors import SpoolError
from sysbackup.formats.lines import UNREADABLE
from sysbackup.service.messages import Over
from sysbackup.service.scheduler import Scheduler
from sysbackup.service.status_file import Current, Status

log = structlog.get_logger()

CLIENTS_AT_MOST = 32
REQUEST_AT_MOST = 4096
REQUEST_WITHIN = 10.0
"""Seconds that a client gets to say what it wants."""

TAKEN_WITHIN = 10.0
"""Seconds that a client gets to read an answer, where the socket's buffer is full."""

TOLD_EVERY = 1.0

LAST_WORDS = 0.5
"""Seconds for what is still to be said when the daemon ends: it has 10 in all, see `signals.LEAVE_WITHIN`."""

REFUSALS_EVERY = 60.0
"""Seconds between two lines of the log about users who may not ask: they must not be able to fill it."""

# unix(7): sun_path has 108 bytes, and the kernel wants the last for a zero.
_ADDRESS_AT_MOST = 107


class Request(msgspec.Struct, frozen=True, tag="run"):
    """Make a run that begins from now on, and tell how it goes."""


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """It will be made; `later`: after the one that goes on."""

    later: bool


class Going(msgspec.Struct, frozen=True, tag="going"):
    """What the daemon does now; `ours`: it is, or will next be, the run that was asked for."""

    ours: bool
    current: Current | None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It will not be made; `reason` is for people."""

    reason: str


Answer = Accepted | Going | Over | Refused

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


@asynccontextmanager
async def listening(path: Path, daemon: Scheduler) -> AsyncIterator[None]:
    """
    Answer at `path` for as long as the context lasts; what is known by then is told before it ends.

    The caller holds the runtime directory: whatever lies at `path` was left
    behind. `SpoolError` where no socket can be made there.
    """
    with _bound(path) as own:
        reception = _Reception(own, daemon)
        try:
            yield
        finally:
            await reception.close()


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            path.unlink(missing_ok=True)
            with address(path) as name:
                own.bind(name)
            path.chmod(0o600)  # before `listen`: until then nobody can connect
            own.listen(2 * CLIENTS_AT_MOST)
        except OSError as exc:
            raise SpoolError(
                f"cannot make the control socket {path}: {exc.strerror or exc}. Name another runtime directory with"
                " SYSBACKUP_RUNTIME_DIR"
            ) from exc
        yield own
    finally:
        own.close()
        with suppress(OSError):
            path.unlink()


@contextmanager
def address(path: Path) -> Iterator[str]:
    """The path for bind(2) and connect(2); a long one through its directory's descriptor."""
    if len(os.fsencode(path)) <= _ADDRESS_AT_MOST:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _Reception:
    """Lets clients in, each with a task of its own."""

    def __init__(self, own: socket.socket, daemon: Scheduler) -> None:
        self._own = own
        self._daemon = daemon
        self._loop = asyncio.get_running_loop()
        self._clients: set[asyncio.Task[None]] = set()
        self._refusals = 0
        self._refusals_told: float | None = None
        self._accepting = self._loop.create_task(self._accept())

    async def close(self) -> None:
        """Let in no more, and let those inside have their last words."""
        self._accepting.cancel()
        tasks = {self._accepting, *self._clients}
        await asyncio.wait(tasks, timeout=LAST_WORDS)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _accept(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._own)
            except OSError as exc:  # no descriptor left, or no memory
                log.warning("control.deaf", reason=exc.strerror)
                await asyncio.sleep(TOLD_EVERY)
                continue
            if len(self._clients) < CLIENTS_AT_MOST:
                task = self._loop.create_task(self._attend(connection))
                self._clients.add(task)
                task.add_done_callback(self._clients.discard)
            else:
                with connection, suppress(OSError):  # it fits into the buffer of a new connection
                    connection.send(written(Refused(f"{CLIENTS_AT_MOST} others are waiting here already")))

    async def _attend(self, connection: socket.socket) -> None:
        with connection:
            try:
                await self._answer(connection)
            except OSError:  # `TimeoutError` is one: it has gone, or does not listen
                return
            except Exception:
                # Whatever it is, it concerns one client, and must not end a run.
                log.exception("control.failed")

    async def _answer(self, connection: socket.socket) -> None:
        pid, uid = _peer(connection)
        if uid not in {0, os.geteuid()}:
            self._tell_of_refusal(pid, uid)
            await self._say(connection, Refused("only root, and the user that the daemon runs as, may have runs made"))
            return
        if refused := await self._refuse(connection):
            await self._say(connection, refused)
            return
        before = self._daemon.status()
        future = self._daemon.trigger(f"process {pid} of user {uid}")
        try:
            await self._say(connection, Accepted(later=before.current is not None))
            while not future.done():
                await self._say(connection, self._going(before))
                await asyncio.wait((future,), timeout=TOLD_EVERY)
            await self._say(connection, Over(future.result()))
        finally:
            future.cancel()  # nobody waits for it any more; the run is made all the same

    def _tell_of_refusal(self, pid: int, uid: int) -> None:
        """Log it now and then, with their number: `times` since the last such line, this one included."""
        self._refusals += 1
        now = self._loop.time()
        if self._refusals_told is None or now - self._refusals_told >= REFUSALS_EVERY:
            reason = "neither root nor the daemon's own user"
            log.warning("control.refused", uid=uid, pid=pid, times=self._refusals, reason=reason)
            self._refusals, self._refusals_told = 0, now

    async def _refuse(self, connection: socket.socket) -> Refused | None:
        """What keeps us from doing what the client says."""
        line = b""
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                while not line.endswith(b"\n"):
                    chunk = await self._loop.sock_recv(connection, REQUEST_AT_MOST)
                    line += chunk
                    if not chunk or len(line) > REQUEST_AT_MOST:
                        return Refused("that is not one line with a request")
            _requests.decode(line)
        except TimeoutError:
            return Refused(f"nothing was asked within {REQUEST_WITHIN:.0f} s")
        except UNREADABLE as exc:
            return Refused(f"the daemon does not understand the request: {exc}")
        return None

    def _going(self, before: Status) -> Going:
        status = self._daemon.status()
        # The earlier run's end is a new `last`; there is none where nothing went on.
        earlier = before.current is not None and status.last is before.last
        return Going(ours=not earlier, current=status.current)

    async def _say(self, connection: socket.socket, answer: Answer) -> None:
        async with asyncio.timeout(TAKEN_WITHIN):
            await self._loop.sock_sendall(connection, written(answer))


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end when it connected (SO_PEERCRED, unix(7))."""
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid), int(uid)


def written(message: Request | Answer) -> bytes:
    """A message as a line."""
    return msgspec.json.encode(message) + b"\n"
