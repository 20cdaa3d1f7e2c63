"""The machine's own clock. Not in `model`, which examiners load: asyncio would cost each of them 30 ms."""

import asyncio
from datetime import UTC, datetime


class SystemClock:
    """The machine's own clock: see `model.Clock`."""

    def now(self) -> datetime:
        """See `model.Clock`."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """See `model.Clock`."""
        await asyncio.sleep(seconds)
