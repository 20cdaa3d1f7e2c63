"""What is known of the bucket, in the cache directory: opened for a run, set aside where it cannot be used."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from sysbackup.catalog.catalog_file import set_aside
from sysbackup.catalog.sqlite import SqliteCatalog
from sysbackup.concurrency.waits import outlast
from sysbackup.config.sections import Config
from sysbackup.contents.account import Account
from sysbackup.contents.cache_directory import bucket_identity, catalog_path
from sysbackup.contents.content_store import ContentStore
from sysbackup.contents.sealing import host_seal
from sysbackup.contents.terms import Terms
from sysbackup.disk.sorting import spooling
from sysbackup.model import Clock
from sysbackup.store.port import ObjectStore


@asynccontextmanager
async def content_store(
    config: Config, store: ObjectStore, terms: Terms, account: Account, clock: Clock
) -> AsyncIterator[ContentStore]:
    """
    The content store of a run that begins.

    Nothing is learnt yet (`ContentStore.learn`). `CatalogUnusable`, then or later: to be set aside, and the run
    to begin again.
    """
    identity = bucket_identity(config, store.bucket)
    with await _opened(config) as catalog:
        seal = await asyncio.to_thread(host_seal, config.state, terms.host, identity)
        with closing(ContentStore(config, store, catalog, identity, terms, account, clock, seal)) as contents:
            yield contents


async def _opened(config: Config) -> SqliteCatalog:
    """The catalog, opened in a thread: every page of it is looked over."""
    opening = asyncio.get_running_loop().run_in_executor(None, SqliteCatalog, catalog_path(config.cache))
    try:
        return await outlast(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda job: None if job.exception() else job.result().close())
        raise


def forget_all(config: Config, reason: str) -> None:
    """
    Set aside what is known: nothing is lost with it but time.

    What is stored is found again through the index, or by a conditional put.
    """
    with spooling(config.cache):
        set_aside(catalog_path(config.cache), reason)
