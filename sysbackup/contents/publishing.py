"""
Publishing: what a run stored or renewed goes into an index, for other machines and for a lost catalog.

Last but for the manifest, and every few minutes while a long run goes on: a first
backup of days that is interrupted is not lost to the others.
"""

import asyncio
from collections.abc import Iterator

import structlog

from sysbackup.catalog.interface import Indexes
from sysbackup.contents.account import Account
from sysbackup.contents.shipping import Pieces, Sender
from sysbackup.contents.terms import Terms
from sysbackup.formats import gzipping, index, keys
from sysbackup.model import LockMode

log = structlog.get_logger()


def _news(indexes: Indexes, terms: Terms, seal: index.Seal | None) -> Iterator[bytes]:
    """The index, compressed."""
    gzip = gzipping.compressor()
    yield gzip.compress(index.header(terms.host, terms.run))
    for found in indexes.news():
        line = index.line(found.stored, found.encoding, found.contents, found.teller, seal, found.needs)
        if len(line) <= index.LINE_LIMIT:  # but for a list that needs very many objects with very long versions
            yield gzip.compress(line)
    yield gzip.flush()


async def publish(
    sender: Sender,
    indexes: Indexes,
    terms: Terms,
    account: Account,
    seal: index.Seal | None,
    number: int | None = None,
) -> None:
    """Publish what is in no index yet, if anything; `number` counts what one run publishes before its end."""
    if not await asyncio.to_thread(indexes.begin_publishing):
        return
    key = keys.index_key(terms.host, terms.run, number)
    stored = await sender.send(key, terms.contents, Pieces(_news(indexes, terms, seal)), length=None)
    # Of what is not locked nobody can say that it must still be there.
    until = None if stored.lock.mode is LockMode.NONE else stored.lock.until
    await asyncio.to_thread(indexes.published, key, until)
    account.stored(stored, contents=0, plain=0)
    log.info("index.published", key=key, bytes=stored.size)
