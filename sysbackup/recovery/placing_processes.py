"""Placing in processes of our own: what they are told, and what they answer."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from sysbackup.concurrency.flag import Flag
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.errors import RestoreError
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import Walker
from sysbackup.programs.pool import ProcessPool, Work
from sysbackup.recovery.fetches import Fetch
from sysbackup.recovery.landing import Room, SharedRooms, private_room
from sysbackup.recovery.placing import Placer
from sysbackup.recovery.restore_report import Outcome
from sysbackup.recovery.streamed import place_large


class Order(Struct, frozen=True):
    """How all is to be placed."""

    overwrite: bool
    numeric_owner: bool


class _Setting(Struct, frozen=True):
    """What a helper is told in the beginning: its order, and the slots that bytes come in."""

    order: Order
    slots: int
    slot_size: int


class Placed(Struct, frozen=True):
    """
    What came of one job.

    `damaged` are contents that do not fit their digests, by their numbers in
    the fetch, and how: nothing was done about these. `left` is what a look
    found to be still missing. `fatal` says why no other
    job can go better.
    """

    outcome: Outcome
    damaged: dict[int, str] = {}
    left: Fetch | None = None
    fatal: str | None = None


class Job(Struct, frozen=True):
    """One read's worth: to be looked for in the target, or to be placed from the first `length` bytes of `slot`."""

    fetch: Fetch
    slot: int | None = None
    length: int = 0


_settings = msgspec.msgpack.Decoder(_Setting)
_jobs = msgspec.msgpack.Decoder(Job)
_answers = msgspec.msgpack.Decoder(Placed)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class TargetWork:
    """
    What is done in the target; both block, and raise `RestoreError` where no more can be written.

    `look` finds what is there already, and returns what is still to be fetched.
    `place` takes apart what a read has brought into a `room`, and writes its files; those of a
    large content only with `takes_large`.
    """

    room: Callable[[int], AbstractContextManager[Room]]
    look: Callable[[Fetch], tuple[Outcome, Fetch]]
    place: Callable[[Fetch, Room], Placed]
    takes_large: bool


def placing_pool(number: int, order: Order, root: int, slots: SharedSlots, stop: Flag) -> ProcessPool:
    """Processes that place beneath an open target what they find in `slots`."""
    setting = _encoder.encode(_Setting(order, slots.number, slots.size))
    return ProcessPool(number, f"{__name__}:helper", setting, (root, slots.descriptor), stop)


def by_processes(pool: ProcessPool, rooms: SharedRooms) -> TargetWork:
    """Looking and placing by the processes of a `placing_pool`, whose slots the rooms are in."""

    def work(job: Job) -> Placed:
        answer = _answers.decode(pool.work(_encoder.encode(job)))
        if answer.fatal is not None:
            raise RestoreError(answer.fatal)
        return answer

    def look(fetch: Fetch) -> tuple[Outcome, Fetch]:
        answer = work(Job(fetch))
        return answer.outcome, answer.left or fetch.part([])

    def place(fetch: Fetch, room: Room) -> Placed:
        return work(Job(fetch, room.slot, room.length))

    return TargetWork(rooms.room, look, place, takes_large=True)


def by_caller(placer: Callable[[], AbstractContextManager[Placer]]) -> TargetWork:
    """Looking and placing by the thread that calls, each time with a placer of its own."""

    def look(fetch: Fetch) -> tuple[Outcome, Fetch]:
        with placer() as one:
            left = one.look(fetch)
            return one.outcome, left

    def place(fetch: Fetch, room: Room) -> Placed:
        with placer() as one:
            damaged = one.place_all(fetch, room.view[: room.length])
            return Placed(one.outcome, damaged)

    return TargetWork(private_room, look, place, takes_large=False)


def helper(setting: bytes, descriptors: Sequence[int], stop: Flag) -> Work:
    """What such a process does."""
    told = _settings.decode(setting)
    how = told.order
    root, shared = descriptors
    slots = SharedSlots(told.slots, told.slot_size, shared)
    owners = Owners(numeric=how.numeric_owner)
    walker = Walker(root)  # neighbours in one object are in the same directories as those in the next
    os.umask(umask := os.umask(0o077))

    def work(encoded: bytes) -> bytes:
        placer = Placer(walker, owners, stop, overwrite=how.overwrite, umask=umask)
        try:
            job = _jobs.decode(encoded)
            if job.slot is None:
                left = placer.look(job.fetch)
                return _encoder.encode(Placed(placer.outcome, left=left))
            view = slots.view(job.slot, job.length)
            if job.fetch.large:
                damage = place_large(placer, job.fetch, view)
                # of what is damaged nothing was placed: it is tried again, or failed, as a whole
                placed = Placed(placer.outcome) if damage is None else Placed(Outcome(), {0: damage})
                return _encoder.encode(placed)
            damaged = placer.place_all(job.fetch, view)
        except RestoreError as exc:
            return _encoder.encode(Placed(placer.outcome, fatal=str(exc)))
        return _encoder.encode(Placed(placer.outcome, damaged))

    return work
