"""Packing: small contents are collected into packs, which are shipped when they are full."""

import asyncio
from collections.abc import Sequence

from sysbackup.catalog.known import Catalog
from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.channel import Channel
from sysbackup.formats import keys
from sysbackup.formats.pack import CONTENTS_AT_MOST, PackWriter
from sysbackup.model import Lock, StoredObject
from sysbackup.pipeline.examining import Small
from sysbackup.pipeline.shipping import Freight, Shipment
from sysbackup.pipeline.tally import Tally


class Packer:
    """
    Fills packs up to `pack_size` bytes and sends them on.

    The bytes of the open pack stay in the budget, under the packer's own hold.
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
        self._lock = lock
        self._pack_size = pack_size
        self._tally = tally
        self._open = PackWriter()
        self._hold = Hold(budget, 0)

    async def add(self, contents: Sequence[Small], hold: Hold) -> None:
        """Take over contents, whose bytes are under `hold`; waits while full packs cannot be sent on."""
        self._hold.absorb(hold)
        for content in contents:
            self._open.add(content.sha, content.member, content.size)
            if len(self._open) >= self._pack_size or self._open.contents >= CONTENTS_AT_MOST:
                await self.flush()

    async def flush(self) -> None:
        """Send on what the open pack holds, however little."""
        if self._open.contents:
            pack, self._open = self._open, PackWriter()
            await self._send(pack)

    async def _send(self, full: PackWriter) -> None:
        hold = self._hold.split(len(full))
        pack = await asyncio.to_thread(full.finish)
        contents = pack.contents

        async def confirmed(stored: StoredObject) -> None:
            await asyncio.to_thread(self._catalog.confirm, stored, "gzip", contents)
            self._tally.sending -= 1
            self._tally.stored(stored, len(contents), plain=sum(content.size for content in contents))

        self._tally.sending += 1
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
