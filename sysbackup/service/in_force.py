"""The configuration that a daemon works by, and the timetable that follows from it."""

from collections.abc import Callable
from datetime import datetime

import structlog

from sysbackup.config.sections import Config
from sysbackup.errors import ConfigError
from sysbackup.model import plain
from sysbackup.service import status_file
from sysbackup.service.timetable import timetable

log = structlog.get_logger()


class InForce:
    """
    `load` reads the configuration (`ConfigError`), `conf` is the `status_file.fingerprint` of its file as it was read.

    `refused` says what was wrong with one that was not taken. `last` is when the last run ended.
    """

    def __init__(
        self, config: Config, load: Callable[[], Config], conf: str | None, last: datetime | None, now: datetime
    ) -> None:
        self.config = config
        self.conf = conf
        self.refused: list[str] = []
        # What fell into the last run was not missed.
        self.timetable = timetable(config.daemon, last, now)
        self._load = load

    def read_again(self, now: datetime) -> bool:
        """Take what the file says now; with a mistake in it the old one stays, and this is False."""
        # Before: a change that comes in between is taken for one that was not read, never the other way round.
        conf = status_file.fingerprint(self.config.directory)
        try:
            config = self._load()
            if (config.runtime, config.state) != (self.config.runtime, self.config.state):
                raise ConfigError("the runtime and state directories cannot change while the daemon runs: restart it")
        except ConfigError as exc:
            self.refused = [plain(mistake) for mistake in exc.mistakes]
            for mistake in self.refused:
                log.error("config.refused", mistake=mistake, kept="the configuration from before stays in force")
            return False
        self._reschedule(config, now)
        self.refused, self.conf, self.config = [], conf, config
        log.info("config.read", directory=str(config.directory))
        return True

    def _reschedule(self, config: Config, now: datetime) -> None:
        """Take a new schedule, where there is one. A run that was put off is not forgotten for any other setting."""
        before, after = self.config.daemon, config.daemon
        if (after.schedule, after.time_zone) != (before.schedule, before.time_zone):
            # What the new schedule would have started before now was not missed.
            self.timetable = timetable(after, now, now)
        elif after.random_delay != before.random_delay and self.timetable is not None:
            self.timetable = timetable(after, self.timetable.settled, now)
