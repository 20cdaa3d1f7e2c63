"""Packing: small contents are collected into packs, which are shipped when they are full."""

import asyncio
from collections.abc import Sequence

from sysbackup.catalog.known import Catalog
from sysbackup.formats import keys
from sysbackup.formats.pack import PackWriter
from sysbackup.model import Lock, StoredObject
from sysbackup.pipeline.budget import Budget, Hold
from sysbackup.pipeline.channel import Channel
from sysbackup.pipeline.examining import Small
from sysbackup.pipeline.report import Tally
from sysbackup.pipeline.shipping import Freight, Shipment

# Contents in one pack, however small they are: bounds the memory that their list takes.
CONTENTS_AT_MOST = 20_000


class Packer:
    """
    Fills packs up to `pack_size` bytes and sends them on.

    The open pack is not in the budget: it waits for contents, and nobody may
    wait for it. A full one is paid for before it is sent on.
    """

    def __init__(
        self,
        freight: Channel[Freight],
        catalog: Catalog,
        budget: Budget,
        lock: Lock,
        pack_size: int,
        tally: Tally,
    ) -> None:
        self._freight = freight
        self._catalog = catalog
        self._budget = budget
        self._lock = lock
        self._pack_size = pack_size
        self._tally = tally
        self._open = PackWriter()

    async def add(self, contents: Sequence[Small], hold: Hold) -> None:
        """Take over contents, whose bytes are under `hold`; waits while full packs cannot be sent on."""
        full = []
        for content in contents:
            self._open.add(content.sha, content.member, content.size)
            if len(self._open) >= self._pack_size or self._open.contents >= CONTENTS_AT_MOST:
                full.append(self._open)
                self._open = PackWriter()
        hold.release()
        for pack in full:
            await self._send(pack)

    async def flush(self) -> None:
        """Send on what the open pack holds, however little."""
        if self._open.contents:
            pack, self._open = self._open, PackWriter()
            await self._send(pack)

    async def _send(self, full: PackWriter) -> None:
        hold = await self._budget.take(len(full))
        pack = await asyncio.to_thread(full.finish)
        contents = pack.contents

        async def confirmed(stored: StoredObject) -> None:
            await asyncio.to_thread(self._catalog.confirm, stored, "gzip", contents)
            self._tally.stored(stored, len(contents), plain=sum(content.size for content in contents))

        await self._freight.send(
            Shipment(
                keys.pack_key(pack.sha),
                pack.body,
                self._lock,
                hold,
                confirmed,
                metadata={keys.PACK_INDEX: str(pack.index)},
                sha256=pack.sha,
            )
        )
