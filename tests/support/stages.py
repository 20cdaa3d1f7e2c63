"""The stages of a run one at a time: all that they share, without the run around them."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sysbackup.contents.cache import content_store
from sysbackup.contents.terms import terms_of
from sysbackup.disk.sorting import Sorter
from sysbackup.files.owners import Owners
from sysbackup.model import Clock
from sysbackup.pipeline.entry_spool import EntrySpool
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from sysbackup.programs.discovery import Program, find_programs
from sysbackup.store.port import ObjectStore
from tests.support import backups
from tests.support.clock import ManualClock


@asynccontextmanager
async def staged(
    base: Path,
    store: ObjectStore,
    content: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[RunContext]:
    """A run that has begun and done nothing yet, its cache below `base`."""
    config = backups.configured(base, content, run)
    config.cache.mkdir(exist_ok=True)
    clock = clock or ManualClock()
    terms = terms_of(config.content, clock.now())
    with Sorter(config.cache) as problems, closing(EntrySpool(config.cache, config.run.workers)) as spool:
        tally = Tally(clock, problems, terms.identity)
        async with content_store(config, store, terms, tally, clock) as contents:
            yield RunContext(config, clock, terms, tally, contents, spool, Owners())


def programmed(directory: Path, script: str, name: str = "program") -> Program:
    """A program of the administrator's."""
    backups.program(directory, name, script)
    ((found,), _) = find_programs(directory)
    assert found.name == os.fsencode(name)
    return found
