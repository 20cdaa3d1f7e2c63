"""Placing in processes of our own: what they are told, and what they answer."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from sysbackup.errors import RestoreError
from sysbackup.recovery.placing import Placer
from sysbackup.recovery.planning import Fetch
from sysbackup.recovery.report import Outcome
from sysbackup.sources.crew import Crew, Flag, Work
from sysbackup.sources.owners import Owners


class Order(Struct, frozen=True):
    """How all is to be placed."""

    overwrite: bool
    numeric_owner: bool


class Placed(Struct, frozen=True):
    """
    What came of one job.

    `damaged` are contents that do not fit their digests, by their numbers in
    the fetch, and how: nothing was done about these. `fatal` says why no other
    job can go better.
    """

    outcome: Outcome
    damaged: dict[int, str] = {}
    fatal: str | None = None


_orders = msgspec.msgpack.Decoder(Order)
_fetches = msgspec.msgpack.Decoder(Fetch)
_answers = msgspec.msgpack.Decoder(Placed)
_encoder = msgspec.msgpack.Encoder()

Place = Callable[[Fetch, bytearray], Placed]
"""Takes apart what a read has brought and writes its files; blocks. `RestoreError` where no more can be written."""


def crew(number: int, order: Order, root: int, stop: Flag) -> Crew:
    """Processes that place beneath an open target."""
    return Crew(number, f"{__name__}:helper", _encoder.encode(order), root, stop)


def through(helpers: Crew) -> Place:
    """Placing by these processes."""

    def place(fetch: Fetch, data: bytearray) -> Placed:
        answer = _answers.decode(helpers.work(_encoder.encode(fetch), data))
        if answer.fatal is not None:
            raise RestoreError(answer.fatal)
        return answer

    return place


def placed(placer: Callable[[], Placer], fetch: Fetch, data: bytearray) -> Placed:
    """The same by the thread that calls."""
    with placer() as one:
        damaged = one.place_all(fetch, data)
        return Placed(one.outcome, damaged)


def helper(order: bytes, root: int, stop: Flag) -> Work:
    """What such a process does."""
    how = _orders.decode(order)
    owners = Owners(numeric=how.numeric_owner)

    def work(told: bytes, data: bytearray) -> bytes:
        with Placer(root, owners, stop, overwrite=how.overwrite) as placer:
            try:
                damaged = placer.place_all(_fetches.decode(told), data)
            except RestoreError as exc:
                return _encoder.encode(Placed(placer.outcome, fatal=str(exc)))
            return _encoder.encode(Placed(placer.outcome, damaged))

    return work
