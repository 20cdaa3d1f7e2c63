"""Who places what was read: processes of our own where there is much of it, else the thread that asks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

from sysbackup.concurrency.flag import Flag
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.errors import RestoreError
from sysbackup.programs.pool import ProcessPool
from sysbackup.recovery.fetches import Fetch
from sysbackup.recovery.landing import Room, SharedRooms, private_room
from sysbackup.recovery.placing import Placer
from sysbackup.recovery.placing_helper import Job, Order, Placed, Setting
from sysbackup.recovery.restore_report import Outcome

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


def placing_pool(number: int, stop: Flag) -> ProcessPool:
    """Processes that will place, when they know where."""
    return ProcessPool(number, "sysbackup.recovery.placing_helper:helper", stop)


def by_processes(pool: ProcessPool, order: Order, root: int, slots: SharedSlots, memory: int) -> TargetWork:
    """
    Looking and placing beneath an open target by the processes of a `placing_pool`.

    They find in `slots` what was read; of what is not in use there no more than `memory` is kept.
    """
    pool.begin(_encoder.encode(Setting(order, slots.number, slots.size)), (root, slots.descriptor))
    rooms = SharedRooms(slots, memory)

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
