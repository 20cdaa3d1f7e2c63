"""Large contents on their way into the store: chunks in stream packs, and when these are there, the lists."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from sysbackup.config.sections import Content
from sysbackup.contents import stream_packs
from sysbackup.contents.chunk_lists import ChunkLists, Places, Unlistable
from sysbackup.contents.chunking import Chunked, Chunker, Chunks, Read, packed
from sysbackup.contents.confirming import Confirming
from sysbackup.contents.shipping import Sender
from sysbackup.contents.stream_packs import Filling, StreamPacks
from sysbackup.contents.terms import Terms
from sysbackup.errors import CatalogUnusable
from sysbackup.formats import chunk_list, keys, pack
from sysbackup.model import Location, Lock, Member, StoredObject
from sysbackup.store.port import NO_METADATA

log = structlog.get_logger()

# Contents that wait for their lists, each with a file on disk: where there are more, the open pack is closed.
_WAITING_AT_MOST = 64


def drawn() -> bytes:
    """What a stream pack is named by."""
    return os.urandom(16)


class ChunkKeeper:
    """
    Takes large contents in for as long as its pool of uploaders stands, tasks of `group`.

    Files go to `directory`. `promised` tells where contents lie of which a manifest may tell.
    """

    def __init__(
        self,
        confirming: Confirming,
        sender: Sender,
        terms: Terms,
        settings: Content,
        directory: Path,
        group: asyncio.TaskGroup,
        promised: Places,
    ) -> None:
        self._confirming = confirming
        self._sender = sender
        self._lock = terms.contents
        self._settings = settings
        self._directory = directory
        self._waiting: deque[Chunked] = deque()
        self._own: set[bytes] = set()
        self._promised = promised
        self._lists = ChunkLists(sender, self._cut, directory, settings.chunk_from)
        self._packs = StreamPacks(group, self._send, settings.stream_pack_size)
        self._listing = asyncio.Lock()

    def chunker(self, average: int, pool: Executor | None = None) -> Chunker:
        """Takes a content in that is cut into chunks of `average` bytes; it is read by threads of `pool`."""
        return Chunker(self._directory, average, self._store, pool)

    async def keep(self, content: Chunked) -> None:
        """Have the list of a content written, under its hash, as soon as all of its chunks are stored."""
        if not content.size:
            content.rows.close()
            return
        self._waiting.append(content)
        if len(self._waiting) >= _WAITING_AT_MOST:
            await self._packs.flush()
        await self._list_stored()

    async def keep_under(self, content: Chunked, key: str, lock: Lock, metadata: Mapping[str, str]) -> StoredObject:
        """
        Store the list of what is no content, under a key of its own, when all has been seen to that the run relies on.

        `CatalogUnusable` where a chunk does not lie where it holds until the promise, `Unlistable` where no list
        can name them.
        """
        # anew: what the run relies on has been seen to already, and nothing more will be
        listed = await self._lists.store(content, key, lock, metadata, self._promised, once=False, anew=True)
        if listed is None:
            raise CatalogUnusable("it does not know the chunks of a snapshot any more")
        self._confirming.account.stored(listed.stored, contents=0, plain=0)
        return listed.stored

    async def finish(self) -> None:
        """Have all that came confirmed by the store, and all lists written."""
        await self._packs.flush()
        await self._list_stored(at_last=True)
        await self._packs.close()

    def close(self) -> None:
        """Let go of what waits."""
        while self._waiting:
            self._waiting.popleft().rows.close()

    async def _cut(self, read: Read, *, anew: bool) -> Chunked:
        """Cut what `read` gives, and have it stored; with `anew`, all of it."""
        store = self._store_anew if anew else self._store
        with Chunker(self._directory, self._settings.chunk_size, store) as chunker:
            while await chunker.feed(read):
                pass
            content = await chunker.end()
        await self._packs.flush()
        return content

    async def _store(self, chunks: Chunks) -> int:
        """Store the chunks that are stored nowhere: those of others too that are on their way, who may take long."""
        granted, under_way = await self._confirming.look_and_claim(list(dict.fromkeys(sha for sha, _ in chunks)))
        wanted = granted | (under_way - self._own)
        self._own |= wanted
        try:
            todo = {sha: chunk for sha, chunk in chunks if sha in wanted}
            await self._packs.add(await asyncio.to_thread(packed, [*todo.items()]))
        except BaseException:
            self._own -= wanted
            self._confirming.abandon(granted)
            raise
        return self._packs.latest

    async def _store_anew(self, chunks: Chunks) -> int:
        """Store chunks, whatever is stored already."""
        await self._packs.add(await asyncio.to_thread(packed, [*dict(chunks).items()]))
        return self._packs.latest

    async def _send(self, filling: Filling) -> None:
        """Store one pack while it fills."""
        account = self._confirming.account
        account.sending += 1
        stored = await self._sender.send(
            keys.stream_pack_key(drawn()), self._lock, filling, length=None, part=stream_packs.PART
        )
        await self._confirming.confirm(stored, pack.ENCODING.name, lambda: filling.contents)
        self._own.difference_update(member.sha for member in filling.contents)
        account.sending -= 1

    async def _list_stored(self, *, at_last: bool = False) -> None:
        """Write the lists of those contents whose chunks are stored, in the order in which they came."""
        async with self._listing:
            while self._waiting and (at_last or self._packs.stored(self._waiting[0].pack)):
                content = self._waiting[0]
                done = await self._list(content)
                self._waiting.popleft()
                if not done and self._own and not at_last:
                    # a chunk that somebody else has met first goes into the next pack
                    self._waiting.append(content._replace(pack=self._packs.latest + 1))
                    continue
                content.rows.close()
                if not done:
                    self._confirming.missed(again=True)

    @contextmanager
    def _staying(self) -> Iterator[Callable[[Iterable[bytes]], Mapping[bytes, Location]]]:
        """Where contents lie that are to stay there."""
        yield partial(self._confirming.known.locate, leaving=False)

    async def _list(self, content: Chunked) -> bool:
        """Whether the list is stored, or never will be; else a chunk is not."""
        if content.sha in await asyncio.to_thread(self._confirming.known.stored, [content.sha]):
            return True
        try:
            key = keys.content_key(content.sha)
            listed = await self._lists.store(content, key, self._lock, NO_METADATA, self._staying, once=True)
        except Unlistable as exc:
            log.error("content.unlistable", content=content.sha.hex(), reason=str(exc))
            self._confirming.missed(again=False)
            return True
        if listed is None:
            return False
        await self._confirming.confirm(
            listed.stored, chunk_list.NAME, lambda: [Member(content.sha, content.size)], listed.needs
        )
        return True
