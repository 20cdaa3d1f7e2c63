"""What stands on a configuration: loaded from its directory, the bucket perhaps named by the caller."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from sysbackup.config.loading import load_config
from sysbackup.config.sections import Config
from sysbackup.errors import UsageError

DIRECTORY = Path("/etc/backup")


class Configured:
    """
    Has a configuration once `load_config` was called.

    `bucket`, where it is set before that, is used instead of the configuration's; then
    nobody asks CloudFormation for one either.
    """

    def __init__(self, bucket: str | None = None) -> None:
        self.bucket = bucket
        self._config: Config | None = None

    @classmethod
    def of(cls, config: Config) -> Self:
        """One that has a configuration already."""
        made = cls(config.s3.bucket)
        made._config = config
        return made

    def load_config(
        self, directory: str | os.PathLike[str] = DIRECTORY, environment: Mapping[str, str] | None = None
    ) -> None:
        """
        Read `conf` in a configuration directory, and what the environment says of places (default: the process's).

        `ConfigError` with all mistakes at once; the configuration that was loaded before stays then.
        """
        config = load_config(Path(directory).absolute(), os.environ if environment is None else environment)
        if self.bucket is not None:
            config = replace(config, s3=replace(config.s3, bucket=self.bucket))
        self._config = config

    @property
    def config(self) -> Config:
        """The configuration. `UsageError` where none was loaded."""
        if self._config is None:
            raise UsageError("no configuration was loaded yet: call load_config first")
        return self._config
