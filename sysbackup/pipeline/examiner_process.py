"""An examiner's side of its channel: it does jobs until nobody sends any more."""

import gc
import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress

from sysbackup.concurrency import pointer
from sysbackup.concurrency.pointer import Pointer
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.contents.crossing import digests_to_bytes
from sysbackup.contents.stowing import Full, Single
from sysbackup.errors import CatalogUnusable, SpoolError
from sysbackup.pipeline import examiner_messages as messages
from sysbackup.pipeline.examiner import Examiner
from sysbackup.pipeline.examiner_messages import (
    Alone,
    Ask,
    Back,
    Examine,
    Failed,
    FromExaminer,
    Given,
    Granted,
    Merge,
    PackFull,
    Ready,
    Room,
    SetDown,
    Sit,
    ToExaminer,
)
from sysbackup.programs.titles import set_title

# Descriptors that come with `Sit`: berths, entries, pointers, and a file for each seat.
_DESCRIPTORS_AT_MOST = 250

# Of two processes the kernel had better kill this one (proc(5), oom_score_adj): nothing is lost with it.
_SOONER = b"300"


class _Gone(Exception):
    """The run's own process has closed the channel."""


class Desk:
    """The run's own process, through the channel; see `stowing.Office`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def send(self, message: FromExaminer) -> None:
        """Tell it something."""
        try:
            self._channel.sendall(messages.encoded(message))
        except OSError as exc:
            raise _Gone from exc

    def receive(self) -> ToExaminer:
        """What it says next."""
        try:
            message = messages.receive(self._channel)
        except OSError as exc:
            raise _Gone from exc
        if message is None:
            raise _Gone
        return message

    def claim(self, shas: Sequence[bytes], used: Sequence[bytes]) -> set[bytes]:
        """See `Office`."""
        self.send(Ask(digests_to_bytes(shas), digests_to_bytes(used)))
        answer = self.receive()
        assert isinstance(answer, Granted)
        return {sha for sha, granted in zip(shas, answer.mask, strict=True) if granted}

    def room(self, size: int) -> int:
        """See `Office`."""
        self.send(Room(size))
        answer = self.receive()
        assert isinstance(answer, Given)
        return answer.slot

    def give_back(self, slot: int) -> None:
        """See `Office`."""
        self.send(Back(slot))

    def full(self, full: Full, added: bytes) -> None:
        """See `Office`."""
        self.send(PackFull(full, added))

    def single(self, single: Single) -> None:
        """See `Office`."""
        self.send(Alone(single))


def main(number: str) -> None:
    """The life of such a process: its channel is standard input."""
    set_title(f"sysbackup: examiner {number}", f"sb-examiner-{number}")
    # What ends a run is told to the run's own process, and that closes the channel.
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(_SOONER)
    # Next to nothing here makes circles: they are looked for less often among thousands of records.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    serve(socket.socket(fileno=0), threading.Event(), alone=True)
    os._exit(0)  # nothing here is to be tidied up, which takes as long as some hundred files


def serve(channel: socket.socket, stop: threading.Event, *, alone: bool = False) -> None:
    """
    Do what comes through the channel; returns when it is closed, or nobody could go on. `stop` hurries it.

    `alone`: the process has nothing else to do.
    """
    desk = Desk(channel)
    with suppress(_Gone), ExitStack() as stack:
        try:
            examiner = stack.enter_context(closing(_seated(channel, desk, stop, stack, alone=alone)))
            desk.send(Ready())
            while True:
                _work(examiner, desk)
        except (CatalogUnusable, SpoolError) as exc:
            desk.send(Failed(isinstance(exc, CatalogUnusable), str(exc)))


def _seated(channel: socket.socket, desk: Desk, stop: threading.Event, stack: ExitStack, *, alone: bool) -> Examiner:
    try:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, _DESCRIPTORS_AT_MOST)
    except OSError as exc:
        raise _Gone from exc
    for descriptor in descriptors[3:]:
        stack.callback(os.close, descriptor)
    if not descriptors:
        raise _Gone
    sit = desk.receive()
    assert isinstance(sit, Sit)
    berths = stack.enter_context(SharedSlots(*sit.berths, descriptors[0]))
    entries = stack.enter_context(SharedSlots(*sit.entries, descriptors[1]))
    cells = stack.enter_context(SharedSlots(entries.number, pointer.SIZE, descriptors[2]))
    return Examiner(sit, desk, berths, entries, Pointer(cells, sit.seat), descriptors[3:], stop, alone=alone)


def _work(examiner: Examiner, desk: Desk) -> None:
    match desk.receive():
        case Examine() as job:
            desk.send(examiner.examine(job))
        case SetDown():
            desk.send(examiner.set_down())
        case Merge() as job:
            desk.send(examiner.merge(job))
        case unexpected:
            raise AssertionError(unexpected)
