"""
Keeping: contents on their way into the store, each once.

What a run stores goes through one pool of uploaders: small contents by way of
packs, larger ones as objects of their own, the chunks of the largest in stream packs.
"""

from collections.abc import Callable, Mapping, Sequence

from sysbackup.contents.berths import Berth
from sysbackup.contents.chunk_keeping import ChunkKeeper
from sysbackup.contents.confirming import Confirming
from sysbackup.contents.crossing import members_from
from sysbackup.contents.shipping import Sender, Shipment
from sysbackup.contents.stowing import Full, Single
from sysbackup.contents.terms import Terms
from sysbackup.formats import encodings, keys, pack
from sysbackup.formats.encodings import Encoding
from sysbackup.model import Member, StoredObject
from sysbackup.store.port import NO_METADATA


class Keeper:
    """Takes contents in for as long as its pool of uploaders stands (`ContentStore.keeping`)."""

    def __init__(self, confirming: Confirming, sender: Sender, terms: Terms, chunks: ChunkKeeper) -> None:
        self._confirming = confirming
        self._lock = terms.contents
        self.claim = confirming.claim
        self.abandon = confirming.abandon
        self.sender = sender
        """The way to the store for what is no content: manifests, indexes, short snapshots."""
        self.chunks = chunks
        """Where large contents go."""

    async def ship_pack(self, full: Full, berth: Berth, members: bytes) -> None:
        """
        Send a pack with these members (`crossing`) on, from the berth it was made in.

        The berth is given back when the pack has arrived.
        """
        await self._ship(
            keys.pack_key(full.sha),
            berth.body(full.length),
            berth,
            full.sha,
            {keys.PACK_INDEX: str(full.list_at)},
            pack.ENCODING.name,
            lambda: members_from(members),
        )

    async def ship_single(self, single: Single, berth: Berth) -> None:
        """The same with a content of its own."""
        await self._ship(
            keys.content_key(single.sha),
            berth.body(single.length),
            berth,
            single.body_sha,
            _metadata(encodings.named(single.encoding)),
            single.encoding,
            lambda: [Member(single.sha, single.size)],
        )

    async def _ship(
        self,
        key: str,
        body: memoryview,
        berth: Berth,
        sha256: bytes,
        metadata: Mapping[str, str],
        encoding: str | None,
        members: Callable[[], Sequence[Member]],
    ) -> None:
        account = self._confirming.account

        async def confirmed(stored: StoredObject) -> None:
            await self._confirming.confirm(stored, encoding, members)
            account.sending -= 1

        account.sending += 1
        await self.sender.freight.send(
            Shipment(key, body, self._lock, berth, confirmed, metadata=metadata, sha256=sha256)
        )


def _metadata(encoding: Encoding) -> Mapping[str, str]:
    """What an object of its own says of its bytes."""
    return {keys.ENCODING: encoding.name} if encoding.name else NO_METADATA
