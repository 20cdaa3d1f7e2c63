"""A clock that a test turns."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 23, 4, 15, tzinfo=UTC)


class ManualClock:
    """Stands still until it is turned; sleeping turns it."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def turn(self, **by: float) -> None:
        """Let time pass: `turn(days=14)`."""
        self._now += timedelta(**by)

    async def sleep(self, seconds: float) -> None:
        self.turn(seconds=seconds)
