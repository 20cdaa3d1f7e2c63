"""One process of those that place what was read: what it is told, what it does, and what it answers."""

import gc
import os
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from sysbackup.concurrency.flag import Flag
from sysbackup.concurrency.shared_slots import SharedSlots
from sysbackup.errors import RestoreError
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import Walker
from sysbackup.programs.pool_member import Work
from sysbackup.recovery.fetches import Fetch
from sysbackup.recovery.placing import Placer
from sysbackup.recovery.restore_report import Outcome
from sysbackup.recovery.streamed import place_large


class Order(Struct, frozen=True):
    """How all is to be placed."""

    overwrite: bool
    numeric_owner: bool


class Setting(Struct, frozen=True):
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


_settings = msgspec.msgpack.Decoder(Setting)
_jobs = msgspec.msgpack.Decoder(Job)
_encoder = msgspec.msgpack.Encoder()


def helper(setting: bytes, descriptors: Sequence[int], stop: Flag) -> Work:
    """What such a process does."""
    # Jobs are of many small things and make next to no circles: they are looked for less often.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
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
