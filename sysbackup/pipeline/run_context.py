"""What every stage of one run needs to know."""

import threading
from dataclasses import dataclass, field

from sysbackup.config.sections import Config
from sysbackup.contents.content_store import ContentStore
from sysbackup.contents.terms import Terms
from sysbackup.disk.sorting import Sorter
from sysbackup.files.owners import Owners
from sysbackup.model import Clock
from sysbackup.pipeline.tally import Tally


@dataclass(frozen=True, slots=True)
class RunContext:
    """
    One run: its settings, its terms, where its contents and its entries go, and what is counted.

    `spool` takes the entries of the manifest. `stop`, once set, ends what work in
    threads waits for.
    """

    config: Config
    clock: Clock
    terms: Terms
    tally: Tally
    contents: ContentStore
    spool: Sorter
    owners: Owners
    stop: threading.Event = field(default_factory=threading.Event)
