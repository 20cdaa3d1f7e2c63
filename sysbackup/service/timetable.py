"""
When the daemon starts runs by itself.

A schedule is a cron expression in local time, which cronsim understands as
Debian's cron does (cron(8)). Where clocks are changed, here those of
Europe/Berlin, that means:

- In spring there is no 02:30. `30 2 * * *` runs once, at 03:00.
- In autumn 02:30 comes twice. `30 2 * * *` runs at the first one alone.
- Expressions whose minute or hour begins with a star follow real time.
  `0 * * * *` runs 23 and 25 times on those days, `0 */2 * * *` at both
  02:00 in autumn, and `*/30 2 * * *` never on that day in spring.
- `0 0-23 * * *` has no such star: it runs 24 times in autumn, not 25.
"""

import io
import os
import random
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog
from cronsim import CronSim

from sysbackup.config.sections import Daemon

log = structlog.get_logger()

CORRECTION = timedelta(hours=3)
"""A clock set back by this much was wrong before; less is thought to be wrong now. The border is cron(8)'s."""

REST = 60.0
"""Seconds after which the clock is looked at again in any case: somebody may have set it."""

COUNTED = 1000
"""Instants that `pass_over` counts at the most."""

NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""The next instant of a schedule that has none (for 50 years, as far as cronsim looks)."""

LOCALTIME = Path("/etc/localtime")


class Timetable:
    """
    The instants of a schedule, one after the other; it is told the time at each look, and keeps none itself.

    It is always about one instant, and by when that is due: `next`, in UTC, a
    random part of `random_delay` after it. Once it has been served, the instant
    that follows is the first one after that moment: what came in between
    (because the machine slept, the clock jumped, the delay is longer than the
    interval) is served by the same run.

    `last` is when a run was started last: instants since then, if any, were
    missed, and all together due `random_delay` at most after `now`. None: there
    has been no run, so none was missed. `settled` is until when instants have been
    served or left out; it is a fit `last` for a timetable that takes over.

    A clock that is set back by less than `CORRECTION` brings no instant again.
    If it is set back by more, it was wrong before, and what was settled then
    counts for nothing: `next` is found anew, as if the daemon began now.
    """

    def __init__(
        self,
        expression: str,
        zone: tzinfo,
        random_delay: float,
        last: datetime | None,
        now: datetime,
        chance: random.Random | None = None,
    ) -> None:
        self._expression = expression
        self._zone = zone
        self._delay = random_delay
        self._chance = chance or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.settled = now
        if last is not None and last - now < CORRECTION:
            self.settled = last
        elif last is not None:
            log.warning("schedule.last_ignored", last=last.isoformat(), reason="the last run lies in the future")
        self._latest = max(now, self.settled)
        self._plan(now)

    def look(self, now: datetime) -> bool:
        """Whether a run is due. Once it has been said for an instant, it is not said again."""
        self._notice(now)
        if now < self.next:
            return False
        self._settle(now)
        return True

    def rest(self, now: datetime) -> float:
        """For how many seconds there is no need to look."""
        return min(REST, max(0.0, (self.next - now).total_seconds()))

    def pass_over(self, now: datetime) -> int:
        """After a run: leave out what fell due while it lasted, and say how many instants that were."""
        self._notice(now)
        if now < self.next:
            return 0
        later = takewhile(lambda instant: instant <= now, self._instants(self._instant))
        left_out = 1 + sum(1 for _ in islice(later, COUNTED - 1))
        self._settle(now)
        return left_out

    def _notice(self, now: datetime) -> None:
        """See whether the clock was set back, from the latest time that it has ever shown."""
        if self._latest - now < CORRECTION:
            self._latest = max(self._latest, now)
            return
        log.warning("clock.corrected", before=self._latest.isoformat(), now=now.isoformat())
        self._latest = now
        self.settled = min(self.settled, now)
        self._plan(now)

    def _settle(self, now: datetime) -> None:
        self.settled = now
        self._plan(now)

    def _plan(self, now: datetime) -> None:
        """Find the first instant that is not settled; where it was missed, this is the instant."""
        self._instant = next(self._instants(self.settled), NEVER)
        if self._instant <= now:
            log.info("schedule.missed", since=self._instant.isoformat())
            self._instant = now
        self.next = self._instant + timedelta(seconds=self._chance.uniform(0, self._delay))

    def _instants(self, after: datetime) -> Iterator[datetime]:
        """
        What comes after that, in order, each once.

        cronsim reckons in local time, so where an hour is skipped it gives its end
        more than once, and in an hour that comes again it goes back to the first.
        """
        try:
            for local in CronSim(self._expression, after.astimezone(self._zone)):
                instant = local.astimezone(UTC)
                if instant > after:
                    yield instant
                    after = instant
        except OverflowError:  # the calendar ends with the year 9999
            return


def timetable(settings: Daemon, last: datetime | None, now: datetime) -> Timetable | None:
    """The timetable by these settings, see `Timetable`; None where the daemon only waits to be triggered."""
    if settings.schedule is None:
        return None
    zone = time_zone(settings.time_zone, os.environ)
    return Timetable(settings.schedule, zone, settings.random_delay, last, now)


def time_zone(name: str | None, environ: Mapping[str, str], localtime: Path = LOCALTIME) -> tzinfo:
    """
    The time zone of that name, else the system's: TZ's (tzset(3)), else localtime(5)'s, else UTC.

    One that cannot be read is UTC too, with a warning: better at the wrong hour than never.
    """
    try:
        if name is not None:
            return ZoneInfo(name)
        if "TZ" in environ:
            return _of_variable(environ["TZ"].removeprefix(":"))
        if os.path.lexists(localtime):
            return _of_file(localtime.read_bytes())
    except (AssertionError, EOFError, LookupError, OSError, ValueError, struct.error) as exc:
        wanted = name or environ.get("TZ") or str(localtime)
        log.warning("time_zone.unusable", time_zone=wanted, reason=repr(exc), instead="UTC")
    return UTC


def _of_variable(text: str) -> tzinfo:
    """A zone's name, its file, or its rule, such as `CET-1CEST,M3.5.0,M10.5.0/3`; nothing at all is UTC."""
    if not text:
        return UTC
    if text.startswith("/"):
        return _of_file(Path(text).read_bytes())
    try:
        return ZoneInfo(text)
    except (LookupError, OSError, ValueError):
        return _of_rule(text)


def _of_rule(rule: str) -> tzinfo:
    """By a file (RFC 8536) without any transitions, after which the rule holds that its last line has."""
    counts = struct.pack(">6L", 0, 0, 0, 0, 1, 1)  # one kind of local time, with a name of one byte
    block = b"TZif2" + bytes(15) + counts + struct.pack(">lBB", 0, 0, 0) + b"\0"
    return _of_file(block + block + b"\n" + rule.encode() + b"\n")


def _of_file(data: bytes) -> tzinfo:
    return ZoneInfo.from_file(_Bounded(data))


class _Bounded(io.BytesIO):
    """There is an end to it: at that of a torn file ZoneInfo would wait for the last line for ever."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            raise EOFError("the file ends too early")
        return data
