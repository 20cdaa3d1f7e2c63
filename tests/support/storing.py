"""A content store without a run around it: a real catalog, the store in memory, and who keeps count."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sysbackup.contents.cache import content_store
from sysbackup.contents.content_store import ContentStore
from sysbackup.contents.terms import Terms, terms_of
from sysbackup.model import Clock, Problem, StoredObject
from sysbackup.store.port import ObjectStore
from tests.support import backups
from tests.support.clock import ManualClock


@dataclass(slots=True)
class Counted:
    """`contents.account.Account` that remembers what it was told."""

    sending: int = 0
    renewed: int = 0
    objects: list[StoredObject] = field(default_factory=list)
    contents: int = 0
    plain: int = 0
    problems: list[Problem] = field(default_factory=list)

    def stored(self, stored: StoredObject, contents: int = 1, *, plain: int) -> None:
        self.objects.append(stored)
        self.contents += contents
        self.plain += plain

    def problem(self, problem: Problem) -> None:
        self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Storing:
    """One run's content store, and what belongs to it."""

    contents: ContentStore
    account: Counted
    terms: Terms


@asynccontextmanager
async def storing(
    base: Path,
    store: ObjectStore,
    content: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Storing]:
    """A run begins, in a cache directory below `base`; nothing is learnt yet."""
    config = backups.configured(base, content, run)
    config.cache.mkdir(exist_ok=True)
    clock = clock or ManualClock()
    names, account = terms_of(config.content, clock.now()), Counted()
    async with content_store(config, store, names, account, clock) as contents:
        yield Storing(contents, account, names)
