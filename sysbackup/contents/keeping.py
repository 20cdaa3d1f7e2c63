"""
Keeping: contents on their way into the store, each once.

What a run stores goes through one pool of uploaders: small contents by way of
packs, larger ones as objects of their own, the largest in parts as they are read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from sysbackup.catalog.interface import Contents
from sysbackup.contents.account import Account
from sysbackup.contents.berths import Berth
from sysbackup.contents.claims import Claims
from sysbackup.contents.crossing import members_from
from sysbackup.contents.shipping import Refused, Sender, Shipment, Source
from sysbackup.contents.stowing import Full, Single
from sysbackup.contents.terms import Terms
from sysbackup.formats import encodings, keys, pack
from sysbackup.formats.encodings import Encoding
from sysbackup.model import Member, StoredObject
from sysbackup.store.port import NO_METADATA

Streaming = Callable[[], Awaitable[tuple[Encoding, Source]]]
"""Begins the reading of a large content that is to be stored, and tells how it will come."""


class Keeper:
    """Takes contents in for as long as its pool of uploaders stands (`ContentStore.keeping`)."""

    def __init__(self, known: Contents, claims: Claims, sender: Sender, account: Account, terms: Terms) -> None:
        self._known = known
        self._claims = claims
        self._sender = sender
        self._account = account
        self._lock = terms.contents
        self._streams: dict[bytes, asyncio.Event] = {}

    @property
    def sender(self) -> Sender:
        """The way to the store for what is no content: manifests, indexes, snapshots."""
        return self._sender

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
        async def confirmed(stored: StoredObject) -> None:
            await self._confirm(stored, encoding, members)
            self._account.sending -= 1

        self._account.sending += 1
        await self._sender.freight.send(
            Shipment(key, body, self._lock, berth, confirmed, metadata=metadata, sha256=sha256)
        )

    async def _confirm(
        self, stored: StoredObject, encoding: str | None, members: Callable[[], Sequence[Member]]
    ) -> None:
        def confirm() -> tuple[frozenset[bytes], int]:
            held = members()
            self._known.confirm(stored, encoding, held)
            return frozenset(member.sha for member in held), sum(member.size for member in held)

        shas, plain = await asyncio.to_thread(confirm)
        self._claims.stored(shas)
        self._account.stored(stored, len(shas), plain=plain)

    async def claim(self, shas: Sequence[bytes], begun: int, *, looked: bool = True) -> set[bytes]:
        """
        Those of the contents that the caller is to store: they are stored nowhere, and nobody else stores them.

        `begun`, from `Claims.looking`, is when the caller began to look them up; it `looked`, and found none of them.
        """
        if looked and self._claims.certain(begun):
            granted = self._claims.claim(shas, begun)
            self._known.absent(granted)
            return granted
        while True:
            begun = self._claims.now  # the caller's own look, which goes on, keeps what comes from now on
            stored = await asyncio.to_thread(self._known.stored, shas)
            shas = [sha for sha in shas if sha not in stored]
            if self._claims.certain(begun):
                # none of them is absent for that: what is to be stored anew lies in an object that is left
                return self._claims.claim(shas, begun)

    def abandon(self, shas: Collection[bytes]) -> None:
        """Give claims back that examiners may have counted on: their files are looked at again before the manifest."""
        self._claims.release(shas)
        self._claims.abandoned |= bool(shas)

    async def keep_stream(self, sha: bytes, size: int, begin: Streaming) -> bool:
        """
        Store a large content under its hash unless it is there; False where it was not what it should be (`Refused`).

        Equal contents that meet in one run are stored once: the second waits for the first.
        """
        while (other := self._streams.get(sha)) is not None:
            await other.wait()
        done = self._streams[sha] = asyncio.Event()
        try:
            return not await self._claimed(sha) or await self._stream(sha, size, begin)
        finally:
            del self._streams[sha]
            done.set()

    async def _claimed(self, sha: bytes) -> bool:
        """Whether it is ours to store."""
        with self._claims.looking() as begun:
            return bool(await self.claim([sha], begun, looked=False))

    async def _stream(self, sha: bytes, size: int, begin: Streaming) -> bool:
        try:
            encoding, source = await begin()
            stored = await self._sender.send(
                keys.content_key(sha), self._lock, source, length=size, metadata=_metadata(encoding), once=True
            )
        except BaseException as error:
            self._claims.release([sha])
            if isinstance(error, Refused):
                return False
            raise
        await self._confirm(stored, encoding.name, lambda: [Member(sha, size)])
        return True


def _metadata(encoding: Encoding) -> Mapping[str, str]:
    """What an object of its own says of its bytes."""
    return {keys.ENCODING: encoding.name} if encoding.name else NO_METADATA
