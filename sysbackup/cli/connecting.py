"""The bucket of a configuration, opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sysbackup.aws.bucket import find_bucket
from sysbackup.aws.sessions import s3_client
from sysbackup.config.sections import Config
from sysbackup.store.s3 import S3Store


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[S3Store]:
    """The store that `config` names; nothing is asked of it yet (`ObjectStore.check` does)."""
    bucket = await find_bucket(config)
    async with s3_client(config) as client:
        yield S3Store(client, bucket, config.s3, config.run.give_up_after)
