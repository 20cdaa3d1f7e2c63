"""
sysbackup: backs Linux servers up to S3 under Object Lock.

The tree is the architecture; a folder imports only from folders below it::

    cli                                   commands, and the only place that joins concrete parts
    pipeline   recovery                   one backup; back again
    sources    store    catalog    aws    the machine; the bucket; what is known; credentials
    formats                               keys, manifest, pack: pure, bytes in and out
    config     logs     model      errors the ground
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sysbackup")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
