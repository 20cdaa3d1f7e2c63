"""What every stage of one run needs to know."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from sysbackup.config.sections import Config
from sysbackup.contents.content_store import ContentStore
from sysbackup.contents.terms import Terms
from sysbackup.files.owners import Owners
from sysbackup.model import Clock
from sysbackup.pipeline.entry_spool import EntrySpool
from sysbackup.pipeline.tally import Tally


@dataclass(frozen=True, slots=True)
class RunContext:
    """
    One run: its settings, its terms, where its contents and its entries go, and what is counted.

    `spool` takes the entries of the manifest; `looks` numbers the looks they come from:
    of two at one path the later one counts. `stop`, once set, ends what work in threads
    waits for.
    """

    config: Config
    clock: Clock
    terms: Terms
    tally: Tally
    contents: ContentStore
    spool: EntrySpool
    owners: Owners
    stop: threading.Event = field(default_factory=threading.Event)
    looks: Iterator[int] = field(default_factory=lambda: count(1))
