"""
Keeping: contents on their way into the store, each once.

What a run stores goes through one pool of uploaders: small contents by way of
packs, larger ones as objects of their own, the largest in parts as they are read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from sysbackup.catalog.interface import Contents
from sysbackup.concurrency.budget import Budget, Hold
from sysbackup.concurrency.waits import outlast
from sysbackup.contents.account import Account
from sysbackup.contents.packing import Packer, Small
from sysbackup.contents.shipping import Refused, Sender, Shipment, Source
from sysbackup.contents.terms import Terms
from sysbackup.formats import keys
from sysbackup.formats.encodings import Encoding
from sysbackup.model import Member, StoredObject
from sysbackup.store.port import NO_METADATA


@dataclass(frozen=True, slots=True)
class Alone:
    """A content to be stored as an object of its own: `body` is its bytes in that encoding."""

    sha: bytes
    body: bytes | bytearray
    encoding: Encoding
    size: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """Contents of one batch that are stored nowhere yet, claimed and encoded: for a `Keeper`."""

    small: Sequence[Small]
    alone: Sequence[Alone]

    @property
    def held(self) -> int:
        """Bytes of all of them."""
        return sum(len(s.encoded) for s in self.small) + sum(len(a.body) for a in self.alone)


Streaming = Callable[[], Awaitable[tuple[Encoding, Source]]]
"""Begins the reading of a large content that is to be stored, and tells how it will come."""


class Keeper:
    """Takes contents in for as long as its pool of uploaders stands (`ContentStore.keeping`)."""

    def __init__(
        self, known: Contents, sender: Sender, account: Account, terms: Terms, budget: Budget, pack_size: int
    ) -> None:
        self._known = known
        self._sender = sender
        self._account = account
        self._lock = terms.contents
        self._packer = Packer(sender.freight, known, account, terms.contents, budget, pack_size)
        self._streams: dict[bytes, asyncio.Event] = {}

    @property
    def sender(self) -> Sender:
        """The way to the store for what is no content: manifests, indexes, snapshots."""
        return self._sender

    async def keep(self, chosen: Chosen, hold: Hold) -> None:
        """Send contents on; waits while nothing moves. `hold`, which has their bytes, is given back as they arrive."""
        for alone in chosen.alone:
            self._account.sending += 1
            await self._sender.freight.send(self._shipment(alone, hold.split(len(alone.body))))
        if chosen.small:
            await self._packer.add(chosen.small, hold)
        hold.release()

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
        """Whether it is ours to store; whoever is cancelled meanwhile has no claim."""
        claim = asyncio.create_task(asyncio.to_thread(self._known.claim, [sha]))
        try:
            return bool(await outlast(claim))
        except asyncio.CancelledError:
            if claim.done() and not claim.cancelled() and claim.exception() is None and claim.result():
                self._known.release(sha)
            raise

    async def _stream(self, sha: bytes, size: int, begin: Streaming) -> bool:
        try:
            encoding, source = await begin()
            stored = await self._sender.send(
                keys.content_key(sha), self._lock, source, length=size, metadata=_metadata(encoding), once=True
            )
        except BaseException as error:
            self._known.release(sha)
            if isinstance(error, Refused):
                return False
            raise
        await asyncio.to_thread(self._known.confirm, stored, encoding.name, [Member(sha, size)])
        self._account.stored(stored, plain=size)
        return True

    async def flush(self) -> None:
        """No more small contents will come: send on those that wait for a full pack."""
        await self._packer.flush()

    def _shipment(self, alone: Alone, hold: Hold) -> Shipment:
        # the body must be free once it is sent: the closure keeps all but that
        member, name = Member(alone.sha, alone.size), alone.encoding.name

        async def confirmed(stored: StoredObject) -> None:
            await asyncio.to_thread(self._known.confirm, stored, name, [member])
            self._account.sending -= 1
            self._account.stored(stored, plain=member.size)

        return Shipment(
            keys.content_key(alone.sha),
            alone.body,
            self._lock,
            hold,
            confirmed,
            metadata=_metadata(alone.encoding),
            sha256=None if name else alone.sha,
        )


def _metadata(encoding: Encoding) -> Mapping[str, str]:
    """What an object of its own says of its bytes."""
    return {keys.ENCODING: encoding.name} if encoding.name else NO_METADATA
