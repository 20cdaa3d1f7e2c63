"""
sysbackup: backs Linux servers up to S3 under Object Lock.

The tree is the architecture; a folder imports only from folders below it::

    cli  demo                                  commands, and the only place that joins concrete parts
    service                                    the daemon
    pipeline  recovery                         one backup; back again
    programs  files  store  catalog  aws       subprocesses; the file system; the bucket; what is known; credentials
    disk                                       what is set down locally
    formats                                    keys, manifest, pack: pure, bytes in and out
    concurrency                                channels, budgets, threads, waits
    config  logs  model  errors                the ground
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sysbackup")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
