"""What every command is given: where the configuration is."""

import os
from dataclasses import dataclass
from pathlib import Path

import click

from sysbackup.config.directories import cache_directory, runtime_directory, state_directory
from sysbackup.config.loading import load_config
from sysbackup.config.sections import Config


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options that stand before a command's name."""

    directory: Path
    """The configuration directory, absolute; it may not exist."""
    log_level: str = "info"
    """The least of what is logged."""

    def config(self) -> Config:
        """The configuration. `ConfigError` with all its mistakes."""
        return load_config(self.directory, os.environ)

    def places(self) -> Config:
        """The directories alone, with all else as by default: for what must work whatever is in the file."""
        return Config(
            directory=self.directory,
            cache=cache_directory(os.environ),
            state=state_directory(os.environ),
            runtime=runtime_directory(os.environ),
        )


pass_invocation = click.make_pass_decorator(Invocation)
"""Gives a command the `Invocation` as its first argument."""
