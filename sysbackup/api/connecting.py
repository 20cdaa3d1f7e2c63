"""The bucket of a configuration, opened."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC

from sysbackup import logs
from sysbackup.aws.bucket import find_bucket
from sysbackup.aws.sessions import s3_client
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.service.timetable import time_zone
from sysbackup.store.port import ObjectStore
from sysbackup.store.stack import s3_store


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[ObjectStore]:
    """The store that `config` names; nothing is asked of it yet (`ObjectStore.check` does)."""
    logs.configure_unless_done()
    bucket = await find_bucket(config)
    zone = time_zone(config.daemon.time_zone, os.environ) if config.run.bandwidth else UTC
    async with s3_client(config) as client:
        yield s3_store(client, bucket, config, SystemClock(), zone)
