"""
Running the administrator's pickers and snapshotters.

What goes wrong with one program is a sentence in `Running.result`, not an
exception: it must not stop a run.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from sysbackup.config.units import duration_text
from sysbackup.model import shown
from sysbackup.programs.children import Child, moment
from sysbackup.programs.discovery import Program
from sysbackup.programs.endings import UnfitError, check_fit, ended_badly, unstarted, with_last_words
from sysbackup.programs.leftovers import end_left
from sysbackup.programs.pipes import Inlet, open_pipe
from sysbackup.programs.starting import start
from sysbackup.programs.stderr import StandardError

log = structlog.get_logger()

GRACE = 10.0
"""Seconds between TERM and KILL for a program that was silent too long."""

LEAVING_GRACE = 2.0
"""The same where we leave before the program has ended, and for what outlives it."""

LINGER = 5.0
"""Seconds that what a program left behind may keep its output open until that is worth a word."""

_OUTPUT_CHUNK = 1 << 16
_DATA_CHUNK = 1 << 20


class Running:
    """A program at work. Made by `running`, and valid inside it."""

    def __init__(self, idle_limit: float) -> None:
        self._idle_limit = idle_limit
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._since = moment()
        self._name = ""
        self._child: Child | None = None
        self._output: Inlet | None = None
        self._data: Inlet | None = None
        self._errors: Inlet | None = None
        self._inlets: list[Inlet] = []
        self._stderr: StandardError | None = None
        self._ending: asyncio.Task[str | None] | None = None
        self._failure: str | None = None

    def output(self) -> AsyncIterator[bytes]:
        """Standard output as it comes, in chunks of up to 64 KiB."""
        return self._chunks(self._output, _OUTPUT_CHUNK)

    def data(self) -> AsyncIterator[bytes]:
        """What is written to the descriptor that was the program's argument, in chunks of up to 1 MiB."""
        return self._chunks(self._data, _DATA_CHUNK)

    async def result(self) -> str | None:
        """
        Wait for the end; None where the program ended well, else why it did not.

        To be called after `output` and `data` have ended; what has not been
        read by then is thrown away.
        """
        if self._ending is None:
            return self._failure
        for inlet in self._inlets:
            inlet.drain(_ignore)
        return await asyncio.shield(self._ending)

    async def start(self, program: Program, *, with_data: bool) -> None:
        """Start it; a program that cannot be started is one whose `result` says so."""
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for large in (False, False, True)[: 3 if with_data else 2]:
                reading, writing = open_pipe(large=large)
                ours.append(reading)
                theirs.append(writing)
            streams = (subprocess.DEVNULL, theirs[0], theirs[1])
            data = theirs[2] if with_data else None
            self._child = await start([program.path], streams, data=data, first=partial(check_fit, program.path))
            self._heard_at = self._loop.time()
            self._inlets = [Inlet(ours.pop(0), self._heard) for _ in theirs]
            self._output, self._errors, *rest = self._inlets
            self._data = rest[0] if rest else None
        except (OSError, UnfitError) as error:
            self._failure = unstarted(error)
            return
        finally:
            for descriptor in (*ours, *theirs):
                os.close(descriptor)
        self._name = shown(program.name)
        self._stderr = StandardError(program.name)
        self._errors.drain(self._stderr.feed)
        self._ending = self._loop.create_task(self._end(self._child), name=f"end {shown(program.name)}")

    async def leave(self) -> None:
        """End what has not ended, and give everything back. Nothing of the program is left afterwards."""
        try:
            if self._ending is not None and self._child is not None and not self._ending.done():
                self._ending.cancel()
                await self._stop(self._child, LEAVING_GRACE)
                await asyncio.wait((self._ending,))
        finally:
            # Whatever comes in between above, a second cancellation even, no process and no descriptor stays.
            if self._child is not None and (
                self._ending is None or not self._ending.done() or self._ending.cancelled()
            ):
                self._child.signal(signal.SIGKILL)
            for inlet in self._inlets:
                inlet.close()
            if self._child is not None:
                self._child.release()
            if self._stderr is not None:
                self._stderr.finish()

    async def _end(self, child: Child) -> str | None:
        """See the program to its end, or end it where nothing comes from it for too long."""
        silent = not await self._until((child.gone,), self._idle_limit)
        if silent:
            await self._stop(child, GRACE)
        left = await self._leave_nothing(child, 0 if silent else self._idle_limit) if child.gone.done() else None
        # Output and data that reached their end are whole, whoever held standard error.
        cut_off = left is not None and left.output
        for inlet in self._inlets:
            # What was written before is kept, and read at the reader's own pace.
            inlet.cut() if child.gone.done() else inlet.close()
        if self._errors is not None:
            await asyncio.wait((self._errors.ended,), timeout=LEAVING_GRACE)
            self._errors.close()
        if self._stderr is not None:
            self._stderr.finish()
        return self._verdict(child, silent=silent, cut_off=cut_off, left=left)

    async def _leave_nothing(self, child: Child, limit: float) -> "_Left | None":
        """Wait for what the program, which has ended, has left behind, for so long in all; then end it."""
        waiting = [inlet.ended for inlet in self._inlets]
        early = min(LINGER, limit)
        _, pending = await asyncio.wait(waiting, timeout=early)
        if pending and self._held() and limit > early:
            log.info(
                "program.awaited",
                program=self._name,
                reason=f"it has ended; what it had started holds its pipes, and has {duration_text(limit)} in all",
            )
            await asyncio.wait(waiting, timeout=limit - early)
        if not (held := self._held()):
            return None
        output = any(inlet is not self._errors for inlet in held)
        gone = await end_left(child, held, self._since, LEAVING_GRACE)
        how = f"held its pipes {duration_text(limit)} after its end" if limit else "held its pipes"
        log.warning(
            "program.left_behind",
            program=self._name,
            reason=f"what it had started {how}, and {'was ended' if gone else 'could not be ended'}",
        )
        return _Left(output, gone)

    def _held(self) -> list[Inlet]:
        return [inlet for inlet in self._inlets if inlet.held()]

    async def _stop(self, child: Child, grace: float) -> None:
        for inlet in self._inlets:
            inlet.drain(_ignore)  # what writes to a full pipe cannot end
        await child.end(grace, [inlet.ended for inlet in self._inlets])

    def _verdict(self, child: Child, *, silent: bool, cut_off: bool, left: "_Left | None") -> str | None:
        status = child.status
        if silent:
            why = f"wrote nothing for {duration_text(self._idle_limit)} and was stopped"
            if status is None:
                why += ", but cannot be killed: does a file system not answer it?"
            elif left is not None and not left.gone:
                why += "; something that it had started could not be ended"
        elif status:
            why = ended_badly(status)
        elif cut_off:
            ending = "was ended" if left is not None and left.gone else "could not be ended"
            why = (
                "ended, but something that it had started kept its output open for "
                f"{duration_text(self._idle_limit)} more and {ending}: what came may be incomplete"
            )
        else:
            return None
        return with_last_words(why, self._stderr)

    async def _until(self, awaited: "Sequence[asyncio.Future[None]]", limit: float) -> bool:
        """Wait for `awaited`; False where before that nothing has come on any pipe for `limit` seconds."""
        while True:
            rest = self._heard_at + limit - self._loop.time()
            _, pending = await asyncio.wait(awaited, timeout=max(rest, 0))
            if not pending:
                return True
            if any(inlet.unread() for inlet in self._inlets):
                self._heard()  # it has written, and waits for us: that is our silence, not its own
            elif self._loop.time() - self._heard_at >= limit:
                return False

    def _heard(self) -> None:
        self._heard_at = self._loop.time()

    @staticmethod
    async def _chunks(inlet: Inlet | None, at_most: int) -> AsyncIterator[bytes]:
        while inlet is not None and (chunk := await inlet.read(at_most)):
            yield chunk


@asynccontextmanager
async def running(program: Program, *, idle_limit: float, with_data: bool = False) -> AsyncIterator[Running]:
    """
    Run a picker, or `with_data` a snapshotter: its one argument is the number of a descriptor to write to.

    It has a session of its own, the working directory `/`, nothing on standard
    input, and our environment but for what `children` withholds. Its standard
    error goes to the log. Silent on all its pipes for `idle_limit` seconds, it
    is ended, with all that it started. Leaving the context early does that too.
    """
    this = Running(idle_limit)
    try:
        await this.start(program, with_data=with_data)
        yield this
    finally:
        await this.leave()


@dataclass(frozen=True, slots=True)
class _Left:
    """What a program left behind: whether it held `output` or data, and whether it is `gone` now."""

    output: bool
    gone: bool


def _ignore(_: bytes) -> None:
    """A sink for what nobody wants any more."""
