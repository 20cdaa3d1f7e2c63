"""Making backups of this host."""

from collections.abc import Callable

import uvloop

from sysbackup.api.configured import Configured
from sysbackup.api.connecting import open_store
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.formats.run_result import Summary
from sysbackup.pipeline.backup import back_up
from sysbackup.pipeline.tally import Tally


class Saver(Configured):
    """
    Makes backups as a configuration directory says::

        saver = sysbackup.Saver()
        saver.load_config("/etc/backup")
        summary = saver.save_now()
        print(summary.run, summary.outcome, summary.stored)

    History, hooks and metrics hear nothing of it: these are told by `sysbackup run` and by the daemon.
    The commands also raise this process's limit of open files, and tune its memory, for
    trees of millions of files; a program that makes such backups does that itself.
    """

    async def save(self, *, rescan: bool = False, watch: Callable[[Tally], None] = lambda _: None) -> Summary:
        """
        Make one backup now; returns what it comes to once its manifest is stored.

        `rescan`: every file is read, also those that look unchanged. `watch` is given
        the counts, which grow while it goes on. What went wrong with single sources is
        in the summary (`problems`, `first_problems`), and in the manifest. Where there
        is no manifest, a `SysbackupError` says why: `BusyError` while another run holds the
        cache directory, `ConfigError`, `StoreError` and their kin. A cancellation
        leaves no manifest and no unfinished upload; one that comes when the manifest
        is stored changes nothing any more.
        """
        async with open_store(self.config) as store:
            return await back_up(self.config, store, SystemClock(), watch, rescan=rescan)

    def save_now(self, *, rescan: bool = False) -> Summary:
        """
        The same for scripts, to be called where no event loop runs, in any thread.

        Control-C in the main thread is a cancellation, and a `KeyboardInterrupt` when all is cleaned up.
        """
        return uvloop.run(self.save(rescan=rescan))
