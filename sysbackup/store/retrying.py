"""
Trying again while the trouble looks passing.

It is decided here alone: botocore's own loop would try five times below ours,
neither knowing of the other's waits, and `give_up_after` would hold for neither.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import structlog

from sysbackup.config.units import duration_text
from sysbackup.errors import StoreUnavailable
from sysbackup.store.addressing import Action, BucketAddress
from sysbackup.store.answers import NoAnswer
from sysbackup.store.error_translation import not_s3, unavailable
from sysbackup.store.limiting import held_back
from sysbackup.store.wire import Passing, Requester

log = structlog.get_logger()

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 20.0
_TELL_AFTER, _TELL_EVERY = 10.0, 60.0  # seconds of trouble until it is told of, and told again
NO_ANSWER_SECONDS = 25.0  # a proxy recovers within that; a wrong endpoint_url is told soon
_DAMAGES = 3  # a transfer damaged more often than this is no accident


class Retried:
    """`Requester` that lets another try again; what comes out of it is an answer, `Expected`, or an error of ours."""

    def __init__(
        self,
        requester: Requester,
        place: BucketAddress,
        give_up_after: float,
        no_answer_after: float = NO_ANSWER_SECONDS,
    ) -> None:
        self._requester = requester
        self._place = place
        self._give_up_after = give_up_after
        self._no_answer_after = min(give_up_after, no_answer_after)
        self._told_at = -_TELL_EVERY

    async def make(self, action: Action, send: Callable[[], Awaitable[T]], expected: Collection[str] = ()) -> T:
        """
        The answer to the request that `send` makes, tried again while the trouble looks passing.

        `StoreUnavailable` when trouble has lasted for `give_up_after`. What proves
        nothing is tried again for `no_answer_after` at most, and then a `StoreError`
        that names what to look at. For as long as the limit holds a body back, neither passes.
        """
        loop = asyncio.get_running_loop()
        began: float | None = None
        nonsense: float | None = None
        tries = damages = strange = 0
        with held_back() as held:
            while True:
                try:
                    return await self._requester.make(action, send, expected)
                except NoAnswer as exc:
                    strange += 1
                    now = loop.time() - held.seconds
                    nonsense = nonsense or now
                    left = nonsense + self._no_answer_after - now
                    if left <= 0:
                        raise not_s3(exc, action, self._place, strange) from exc
                except Passing as exc:
                    damages += exc.damage
                    if damages > _DAMAGES:
                        raise exc.otherwise from exc
                    now = loop.time() - held.seconds
                    began = began or now
                    left = began + self._give_up_after - now
                    if left <= 0:
                        if isinstance(exc.otherwise, StoreUnavailable):
                            raise exc.otherwise from exc.otherwise.__cause__
                        raise unavailable(exc.asked, exc.trouble, self._give_up_after) from exc
                    self._tell(exc, now - began, left)
                wait = min(_FIRST_WAIT * 2.0**tries, _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                await asyncio.sleep(min(wait, left))
                tries += 1

    def _tell(self, exc: Passing, tried: float, left: float) -> None:
        """Say now and then that we wait, once for all requests: a run of which nothing is heard looks as if it hung."""
        now = asyncio.get_running_loop().time()
        if tried >= _TELL_AFTER and now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            log.warning(
                "store.unreachable",
                store=exc.asked,
                reason=exc.trouble,
                tried_for=duration_text(round(tried)),
                gives_up_in=duration_text(round(left)),
            )
