"""Packing: small contents are collected into packs, which are shipped when they are full."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sysbackup.catalog.interface import Contents
from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.channel import Channel
from sysbackup.contents.account import Account
from sysbackup.contents.shipping import Freight, Shipment
from sysbackup.formats import keys, pack
from sysbackup.formats.pack import PackWriter
from sysbackup.model import Lock, StoredObject


@dataclass(frozen=True, slots=True)
class Small:
    """A content for a pack: its digest, its bytes in the pack's encoding, its own size."""

    sha: bytes
    encoded: bytes
    size: int


class Packer:
    """
    Fills packs up to `pack_size` bytes and sends them on.

    The bytes of the open pack stay in the budget, under the packer's own hold.
    """

    def __init__(
        self,
        freight: Channel[Freight],
        known: Contents,
        account: Account,
        lock: Lock,
        budget: Budget,
        pack_size: int,
    ) -> None:
        self._freight = freight
        self._known = known
        self._account = account
        self._lock = lock
        self._pack_size = pack_size
        self._open = PackWriter()
        self._hold = Hold(budget, 0)

    async def add(self, contents: Sequence[Small], hold: Hold) -> None:
        """Take over contents, whose bytes are under `hold`; waits while full packs cannot be sent on."""
        self._hold.absorb(hold)
        for content in contents:
            self._open.add(content.sha, content.encoded, content.size)
            if len(self._open) >= self._pack_size or self._open.contents >= pack.CONTENTS_AT_MOST:
                await self.flush()

    async def flush(self) -> None:
        """Send on what the open pack holds, however little."""
        if self._open.contents:
            full, self._open = self._open, PackWriter()
            await self._send(full)

    async def _send(self, full: PackWriter) -> None:
        hold = self._hold.split(len(full))
        made = await asyncio.to_thread(full.finish)
        contents = made.contents

        async def confirmed(stored: StoredObject) -> None:
            await asyncio.to_thread(self._known.confirm, stored, pack.ENCODING.name, contents)
            self._account.sending -= 1
            self._account.stored(stored, len(contents), plain=sum(content.size for content in contents))

        self._account.sending += 1
        await self._freight.send(
            Shipment(
                keys.pack_key(made.sha),
                made.body,
                self._lock,
                hold,
                confirmed,
                metadata={keys.PACK_INDEX: str(made.index)},
                sha256=made.sha,
            )
        )
