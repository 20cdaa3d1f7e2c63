"""The directories of configuration, cache, state and runtime files: as systemd, the user or convention name them."""

import os
from collections.abc import Mapping
from pathlib import Path

DEFAULT_DIRECTORY = Path("/etc/backup")


def config_directory(given: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration directory: `--config-dir`, else `SYSBACKUP_CONFIG_DIR`, else `/etc/backup`."""
    return Path(os.path.abspath(given or environ.get("SYSBACKUP_CONFIG_DIR") or DEFAULT_DIRECTORY))


def cache_directory(environ: Mapping[str, str]) -> Path:
    """
    Where the catalog and the spool are.

    `CACHE_DIRECTORY`, which systemd sets (the first of several), else
    `SYSBACKUP_CACHE_DIR`, else /var/cache/sysbackup for root, else the XDG place.
    """
    return _place(environ, "CACHE", "/var/cache") or _home(environ, "XDG_CACHE_HOME", "~/.cache")


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where the history of runs is: likewise `STATE_DIRECTORY`, `SYSBACKUP_STATE_DIR`, /var/lib/sysbackup, XDG."""
    return _place(environ, "STATE", "/var/lib") or _home(environ, "XDG_STATE_HOME", "~/.local/state")


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """
    Where the daemon says that it runs and how: `RUNTIME_DIRECTORY`, `SYSBACKUP_RUNTIME_DIR`, /run/sysbackup, XDG.

    Where a user has no XDG_RUNTIME_DIR it is a folder of the state directory.
    """
    if found := _place(environ, "RUNTIME", "/run"):
        return found
    if environ.get("XDG_RUNTIME_DIR"):
        return _home(environ, "XDG_RUNTIME_DIR", "")
    return state_directory(environ) / "run"


def _place(environ: Mapping[str, str], kind: str, root: str) -> Path | None:
    """What systemd (the first of several) or the user names, or root's own place; None for anybody else."""
    named = environ.get(f"{kind}_DIRECTORY", "").partition(":")[0] or environ.get(f"SYSBACKUP_{kind}_DIR")
    if named:
        return Path(os.path.abspath(named))
    return Path(root) / "sysbackup" if os.geteuid() == 0 else None


def _home(environ: Mapping[str, str], variable: str, otherwise: str) -> Path:
    """The XDG base directory specification's places of a user."""
    return Path(os.path.abspath(environ.get(variable) or os.path.expanduser(otherwise))) / "sysbackup"
