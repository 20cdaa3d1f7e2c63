"""
sysbackup: backs Linux servers up to S3 under Object Lock.

From Python, as the commands do it: `Saver` makes backups of this host, `Restorer`
lists and restores what the bucket holds of any::

    import sysbackup

    saver = sysbackup.Saver()
    saver.load_config("/etc/backup")
    summary = saver.save_now()           # or: await saver.save()

    restorer = sysbackup.Restorer()
    restorer.load_config("/etc/backup")
    restorer.restore_now("latest", "/mnt/restored", ["/etc"])

What ends either early is a `SysbackupError`, whose text is for people. All else in
this package may change with any version.

The tree is the architecture; a folder imports only from folders below it::

    cli  demo                                  commands; the demonstration
    api                                        the way in from Python, which joins all that is below
    service                                    the daemon
    pipeline  recovery                         one backup; back again
    contents                                   a content stored once, found, read back checked
    programs  files  store  catalog  aws       subprocesses; the file system; the bucket; what is known; credentials
    disk                                       what is set down locally
    formats                                    keys, manifest, pack: pure, bytes in and out
    concurrency                                channels, budgets, waits
    config  logs  model  errors                the ground
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sysbackup.api.restorer import Backups, Restorer
    from sysbackup.api.saver import Saver
    from sysbackup.errors import SysbackupError

    __version__: str

__all__ = ["Backups", "Restorer", "Saver", "SysbackupError", "__version__"]

# Loaded when they are asked for: `sysbackup --help` must not load S3, nor an examiner what tells the version.
_WHERE = {
    "Backups": ("sysbackup.api.restorer", "Backups"),
    "Restorer": ("sysbackup.api.restorer", "Restorer"),
    "Saver": ("sysbackup.api.saver", "Saver"),
    "SysbackupError": ("sysbackup.errors", "SysbackupError"),
    "__version__": ("sysbackup.version", "VERSION"),
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'sysbackup' has no attribute {name!r}")
    module, word = _WHERE[name]
    return getattr(import_module(module), word)
