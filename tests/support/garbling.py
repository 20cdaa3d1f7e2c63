"""A store whose answers are damaged on their way, so many times for each object."""

from collections import Counter
from collections.abc import AsyncGenerator

from sysbackup.store.delegating import Delegating
from tests.support.memory_store import MemoryBucket, MemoryStore


class GarblingStore(Delegating):
    """
    Flips a bit in the first `times` reads of each version whose key begins with `prefix` (None: in all reads).

    The bit is of the byte in the middle, or `at` so many bytes from the beginning.
    """

    def __init__(self, bucket: MemoryBucket, prefix: str = "", times: int | None = 1, at: int | None = None) -> None:
        super().__init__(MemoryStore(bucket))
        self._prefix = prefix
        self._times = times
        self._at = at
        self.reads: Counter[tuple[str, str | None]] = Counter()

    async def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.reads[key, version] += 1
        body = b"".join([chunk async for chunk in super().read(key, version, start, length)])
        if key.startswith(self._prefix) and (self._times is None or self.reads[key, version] <= self._times):
            at = len(body) // 2 if self._at is None else min(self._at, len(body) - 1)
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        for begin in range(0, len(body), 100_000):
            yield body[begin : begin + 100_000]
