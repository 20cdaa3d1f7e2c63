"""Asking the daemon for a run: by a signal, or at its control socket by whoever wants to hear how it ends."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec

from sysbackup.errors import DaemonUnreachable
from sysbackup.formats.lines import UNREADABLE, LaterFormat
from sysbackup.service.control import Accepted, Answer, Going, Refused, Request, address, written
from sysbackup.service.messages import Over
from sysbackup.service.status_file import Status, lives, read

SILENT_AT_MOST = 120.0
"""Seconds after which a daemon that says nothing hangs: it speaks once a second."""

_CONNECTED_WITHIN = 10.0
_ANSWER_AT_MOST = 16 << 20

_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def look(path: Path) -> Status | None:
    """
    The status at `path`, if there is one.

    `DaemonUnreachable` where this user may not read it, `LaterFormat` where a later version has written it.
    """
    try:
        return read(path)
    except OSError as exc:
        raise DaemonUnreachable(
            f"{path} cannot be read: {exc.strerror}. It is for root, and for the user and the group that the daemon"
            " runs as"
        ) from exc


def rouse(path: Path) -> Status:
    """
    Have the daemon whose status is at `path` make a run, by SIGUSR1; the status as it was then.

    The signal reaches that very process, and no other that has got its number.
    `DaemonUnreachable` where there is none, or it is not ours to signal.
    """
    try:
        status = look(path)
    except LaterFormat as exc:
        raise DaemonUnreachable(str(exc)) from exc
    if status is None:
        raise DaemonUnreachable(no_daemon(path.parent, f"{path} does not exist, or is damaged"))
    if status.state == "stopping" and lives(status):
        raise DaemonUnreachable(f"the daemon (process {status.pid}) is being stopped: it makes no more runs")
    try:
        _signal(path, status)
    except ProcessLookupError:
        left = f"{path} was left behind by process {status.pid}, which is gone"
        raise DaemonUnreachable(no_daemon(path.parent, left)) from None
    except PermissionError:
        raise DaemonUnreachable(
            f"this user may not signal the daemon (process {status.pid}): only root, and the user that it runs as, may"
        ) from None
    except OSError as exc:
        raise DaemonUnreachable(f"the daemon (process {status.pid}) cannot be signalled: {exc.strerror}") from exc
    return status


def _signal(path: Path, status: Status) -> None:
    try:
        handle = os.pidfd_open(status.pid)
    except OSError as exc:
        if exc.errno != errno.ENOSYS:  # Linux before 5.3
            raise
        handle = None
    try:
        # Looked at now that the handle holds on to it: what is sent reaches what was looked at, or nobody.
        if not lives(status):
            os.kill(status.pid, 0)  # is it hidden from us (hidepid, proc(5))? Then this raises PermissionError
            raise ProcessLookupError
        if not _may_speak_for(path, status.pid):
            raise ProcessLookupError
        if handle is None:
            os.kill(status.pid, signal.SIGUSR1)
        else:
            signal.pidfd_send_signal(handle, signal.SIGUSR1)
    finally:
        if handle is not None:
            os.close(handle)


def _may_speak_for(path: Path, pid: int) -> bool:
    """Whether that status was written by root or that process's user: others could have us signal whom they like."""
    writer = path.lstat().st_uid
    with open(f"/proc/{pid}/status", "rb") as file:
        users = next(line.split()[1:] for line in file if line.startswith(b"Uid:"))
    return writer == 0 or str(writer).encode() in users


async def ask(path: Path) -> AsyncGenerator[Accepted | Going | Over, None]:
    """
    Have the daemon that listens at `path` make a run, and hear how it goes; the last answer is its `Over`.

    To be closed (`contextlib.aclosing`) by whoever does not hear it out.
    `DaemonUnreachable` where no daemon answers, does not let us, or goes away.
    """
    loop = asyncio.get_running_loop()
    with await _connected(path) as connection:
        with suppress(ConnectionError):  # refused unheard: the answer is there already
            await loop.sock_sendall(connection, written(Request()))
        async for line in _lines(connection):
            try:
                answer = _answers.decode(line)
            except UNREADABLE as exc:
                raise DaemonUnreachable(
                    f"the daemon's answer cannot be understood ({exc}): is it of another version, and to be restarted?"
                ) from None
            if isinstance(answer, Refused):
                raise DaemonUnreachable(f"the daemon refuses: {answer.reason}")
            yield answer
            if isinstance(answer, Over):
                return
    raise DaemonUnreachable(
        "the daemon went away before the run had ended: killed, or crashed, see its log (journalctl -u sysbackup)."
        " The run ends with it, most likely without a manifest: see sysbackup status when it is back"
    )


async def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        async with asyncio.timeout(_CONNECTED_WITHIN):
            while True:
                try:
                    with address(path) as name:
                        connection.connect(name)
                    return connection
                except BlockingIOError:  # unix(7): as many wait as may
                    await asyncio.sleep(0.1)
    except TimeoutError:
        reason = f"the daemon does not answer at {path}: it hangs, or is swamped"
    except PermissionError:
        reason = f"this user may not connect to {path}: only root, and the user that the daemon runs as, may"
    except OSError as exc:
        reason = no_daemon(path.parent, f"{path}: {exc.strerror or exc}")
    except BaseException:
        connection.close()
        raise
    connection.close()
    raise DaemonUnreachable(reason)


async def _lines(connection: socket.socket) -> AsyncIterator[bytes]:
    """What the daemon says, until it ends."""
    loop = asyncio.get_running_loop()
    rest = b""
    while len(rest) <= _ANSWER_AT_MOST:
        try:
            async with asyncio.timeout(SILENT_AT_MOST):
                chunk = await loop.sock_recv(connection, 1 << 16)
        except TimeoutError:
            raise DaemonUnreachable(
                f"the daemon has said nothing for {SILENT_AT_MOST:.0f} s: it hangs, or is stopped"
            ) from None
        except ConnectionError:
            return
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


def no_daemon(runtime: Path, found: str) -> str:
    """For people: no daemon is in that runtime directory, what there is instead, and what to do."""
    return (
        f"no daemon runs here ({found}). Start it: systemctl start sysbackup, or elsewhere sysbackup daemon. If its"
        f" runtime directory is not {runtime}, name that with SYSBACKUP_RUNTIME_DIR"
    )
