"""
What a daemon sets down in the state directory: the history, and a mark for as long as a run goes on.

Who finds the mark when nothing runs knows of a run that died with its daemon:
killed, or without power. Nobody else would ever hear of that one.
"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from sysbackup.config.sections import Config
from sysbackup.disk.ownership import leave_to_owner
from sysbackup.disk.replacing import replacing
from sysbackup.errors import SpoolError
from sysbackup.formats.lines import UNREADABLE
from sysbackup.formats.run_result import RunResult
from sysbackup.model import plain
from sysbackup.service import history
from sysbackup.service.status_file import Current

log = structlog.get_logger()

WITHIN = 10.0
"""Seconds that writing may take before it is left alone: a file system may hang, and backups must go on."""

_NAME = "running.json"


class Ledger:
    """Writes in a thread, in order, and never raises: what cannot be set down is an error in the log."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._writing: asyncio.Future[None] | None = None

    async def begun(self, current: Current) -> None:
        """A run goes on."""
        await self._write(lambda: mark(self._config, current))

    async def ended(self, ended: RunResult) -> None:
        """It has ended."""
        await self._write(lambda: history.remember(self._config, ended), lambda: unmark(self._config))

    async def dead(self) -> Current | None:
        """The run that died together with an earlier daemon, if any."""
        return await asyncio.to_thread(left, self._config)

    async def _write(self, *steps: Callable[[], None]) -> None:
        # One that hangs is left alone, and no other is started beside it.
        if self._writing is None or await self._finished(self._writing):
            self._writing = asyncio.get_running_loop().run_in_executor(None, _do, steps)
            if await self._finished(self._writing):
                return
        reason = f"not done after {WITHIN:.0f} s: does its file system not answer?"
        log.error("history.unwritable", path=str(history.history_path(self._config)), reason=reason)

    @staticmethod
    async def _finished(writing: "asyncio.Future[None]") -> bool:
        done, _ = await asyncio.wait((writing,), timeout=WITHIN)
        return bool(done)


def _do(steps: tuple[Callable[[], None], ...]) -> None:
    for step in steps:
        try:
            step()
        except SpoolError as exc:
            log.error("history.unwritable", reason=plain(str(exc)))


def mark(config: Config, current: Current) -> None:
    """Set the mark, or say more of the run. `SpoolError` where the state directory cannot take it."""
    path = config.state / _NAME
    try:
        config.state.mkdir(mode=0o750, parents=True, exist_ok=True)
        with replacing(path, 0o640, durable=True) as file:
            leave_to_owner(file.fileno(), config.state)
            file.write(msgspec.json.encode(current) + b"\n")
    except OSError as exc:
        raise SpoolError(f"cannot write {path}: {exc.strerror}. The backup itself is not affected") from exc


def unmark(config: Config) -> None:
    """The run has ended, and is remembered. `SpoolError` where the mark cannot be taken away."""
    path = config.state / _NAME
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise SpoolError(f"cannot delete {path}: {exc.strerror}. The backup itself is not affected") from exc


def left(config: Config) -> Current | None:
    """The run whose mark was left; None where there is none, or it cannot be read."""
    try:
        return msgspec.json.decode((config.state / _NAME).read_bytes(), type=Current)
    except (OSError, *UNREADABLE):
        return None
