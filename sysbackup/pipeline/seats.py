"""
Seats: what an examiner has of a run, and the conversation with whoever sits there.

All that an examiner has acknowledged is in memory and files of the run's own: one
that is killed loses the job it was at, no more, and another sits down in its place.
"""

import asyncio
import os
import signal
import socket
import threading
from contextlib import suppress

import structlog

from sysbackup.concurrency.pointer import Pointer
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.contents.berths import Berth
from sysbackup.contents.crossing import digests_from, members_digests
from sysbackup.contents.keeping import Keeper
from sysbackup.contents.stowing import OpenPack
from sysbackup.errors import CatalogUnusable, ProgramError, SpoolError
from sysbackup.pipeline import examiner_messages as messages
from sysbackup.pipeline import examiner_process
from sysbackup.pipeline.examiner_messages import (
    Alone,
    Ask,
    Back,
    Done,
    Examine,
    Failed,
    FromExaminer,
    Given,
    Granted,
    Merge,
    Merged,
    PackFull,
    Ready,
    Room,
    SetDown,
    Sit,
)
from sysbackup.pipeline.run_context import RunContext
from sysbackup.programs.children import Child
from sysbackup.programs.own_python import own_python
from sysbackup.programs.starting import DISCARDED, start

log = structlog.get_logger()

# Processes in a row that end before they have begun: more would not help.
_BEGINNINGS = 3
# Seconds that an examiner gets to leave when nobody wants anything of it any more.
_LEAVING = 1.0


class Lost(Exception):
    """The examiner has ended in the middle of a job; the message says how."""


class _OpenBerth:
    """The berth of a pack that is being filled, and what was acknowledged to be in it."""

    def __init__(self, berth: Berth) -> None:
        self.berth = berth
        self.members: list[bytes] = []


class Seat:
    """One of a run's seats. `end` it, whatever happens."""

    def __init__(self, number: int, run: RunContext, cells: SharedSlots) -> None:
        self.number = number
        self._run = run
        self._cells = cells
        self._pointer = Pointer(cells, number)
        self._open: _OpenBerth | None = None
        self._given: dict[int, Berth] = {}
        self._granted: set[bytes] = set()
        self._child: Child | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def taken(self) -> bool:
        """Whether an examiner sits here."""
        return self._writer is not None

    @property
    def in_thread(self) -> bool:
        """Whether that is one of our own threads."""
        return self._thread is not None

    @property
    def looked_at(self) -> bytes:
        """The path that is looked at, or was last; none between two jobs."""
        return self._pointer.read()

    async def take(self, *, process: bool) -> None:
        """Have an examiner sit here, in a process or in a thread. `ProgramError` where none can be had."""
        for attempt in range(1, _BEGINNINGS + 1):
            try:
                await self._begin(process=process)
                return
            except (Lost, OSError) as exc:
                await self.leave()
                if attempt == _BEGINNINGS:
                    raise ProgramError(
                        f"a process that examines files could not be started: {exc}. What was stored is safe;"
                        " is there memory left, and may sysbackup start processes?"
                    ) from exc

    async def _begin(self, *, process: bool) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                if process:
                    command = own_python(f"{examiner_process.__name__}:main", str(self.number + 1))
                    self._child = await start(command, (theirs.fileno(), DISCARDED, None))
                else:
                    channel = socket.socket(fileno=os.dup(theirs.fileno()))
                    self._thread = threading.Thread(
                        target=_serve, args=(channel, self._stop), name="examiner", daemon=True
                    )
                    self._thread.start()
            contents, spool = self._run.contents, self._run.spool
            shared = (contents.berths.slots, spool.slots, self._cells)
            socket.send_fds(ours, [b"F"], [*(each.descriptor for each in shared), *spool.files])
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        await self._send(
            Sit(
                self.number,
                os.fsencode(spool.directory),
                (shared[0].number, shared[0].size),
                (shared[1].number, shared[1].size),
                contents.lookup_order,
                contents.bounds.sizes,
                contents.bounds.allowance,
                self._run.config.content.lock_timeout,
                spool.states[self.number],
                None if self._open is None else OpenPack(self._open.berth.slot, b"".join(self._open.members)),
            )
        )
        ready = await self._receive()
        if not isinstance(ready, Ready):
            raise Lost("it did not begin")

    async def leave(self) -> None:
        """Whoever sits here goes, at once; what was acknowledged stays, what was not is taken back."""
        writer, child, thread = self._writer, self._child, self._thread
        self._reader = self._writer = self._child = self._thread = None
        if writer is not None:
            writer.close()
        for berth in self._given.values():
            berth.release()
        self._given.clear()
        try:
            if child is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LEAVING):
                        await asyncio.shield(child.gone)
            if thread is not None:
                await asyncio.to_thread(thread.join, _LEAVING)
        finally:
            if child is not None:
                child.release()

    def kill(self) -> None:
        """Do not wait for it to end by itself."""
        self._stop.set()
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def job(self, job: Examine | SetDown | Merge, keeper: Keeper | None, begun: int) -> Done | Merged:
        """
        Have one job done, answering what is asked meanwhile. `begun` is when its looking up begins (`Claims`).

        `Lost` where the examiner ends; what it was granted is given back then.
        """
        try:
            await self._send(job)
            while True:
                answer = await self._receive()
                if isinstance(answer, Done | Merged):
                    break
                if isinstance(answer, Failed):
                    raise CatalogUnusable(answer.reason) if answer.unusable else SpoolError(answer.reason)
                assert keeper is not None
                await self._answer(answer, keeper, begun, anew=isinstance(job, Examine) and job.anew)
        except Lost:
            if keeper is not None:
                keeper.abandon(self._granted)
            self._granted.clear()
            raise
        self._run.spool.changed(self.number, answer.change)
        if isinstance(answer, Done):
            self._acknowledge(answer)
        return answer

    def _acknowledge(self, done: Done) -> None:
        if done.pack is not None:
            if self._open is None or self._open.berth.slot != done.pack:
                self._open = _OpenBerth(self._given.pop(done.pack))
            self._open.members.append(done.added)
        self._granted.clear()

    async def _answer(self, message: FromExaminer, keeper: Keeper, begun: int, *, anew: bool) -> None:
        match message:
            case Ask(rows, used):
                if used:
                    await asyncio.to_thread(self._run.contents.use, digests_from(used))
                shas = digests_from(rows)
                granted = await keeper.claim(shas, begun, looked=not anew)
                self._granted |= granted
                await self._send(Granted(bytes(sha in granted for sha in shas)))
            case Room(size):
                berth = await self._run.contents.berths.give(size)
                self._given[berth.slot] = berth
                await self._send(Given(berth.slot))
            case Back(slot):
                self._given.pop(slot).release()
            case PackFull(full, added):
                known: list[bytes] = []
                if self._open is not None and self._open.berth.slot == full.slot:
                    berth, known, self._open = self._open.berth, self._open.members, None
                else:
                    berth = self._given.pop(full.slot)
                self._granted.difference_update(members_digests(added))
                await keeper.ship_pack(full, berth, b"".join([*known, added]))
            case Alone(single):
                self._granted.discard(single.sha)
                await keeper.ship_single(single, self._given.pop(single.slot))
            case unexpected:
                raise AssertionError(unexpected)

    async def _send(self, message: messages.ToExaminer) -> None:
        assert self._writer is not None
        try:
            self._writer.write(messages.encoded(message))
            await self._writer.drain()
        except OSError as exc:
            raise Lost(await self._how()) from exc

    async def _receive(self) -> FromExaminer:
        assert self._reader is not None
        try:
            (length,) = messages.LENGTH.unpack(await self._reader.readexactly(messages.LENGTH.size))
            return messages.from_examiner.decode(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as exc:
            raise Lost(await self._how()) from exc

    async def _how(self) -> str:
        """How it ended."""
        if self._child is None:
            return "an error in a thread of its own, see the log"
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING):
                await asyncio.shield(self._child.gone)
        status = self._child.status
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"status {status}"


def _serve(channel: socket.socket, stop: threading.Event) -> None:
    """An examiner's life in a thread."""
    with channel:
        try:
            examiner_process.serve(channel, stop)
        except Exception:  # as a process would end: another one takes its seat, and its job
            log.exception("examiner.failed")
