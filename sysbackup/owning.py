"""Files that root makes in a directory of the service's user: they must be that user's, or the service cannot go on."""

import os
from contextlib import suppress


def leave_to_owner(fd: int, directory: str | os.PathLike[str]) -> None:
    """
    Where we are root and `directory` is another user's, the file behind `fd` becomes that user's.

    After `sysbackup run` by root the service, as its own user, must still be
    able to write its catalog. (SQLite does the same for the files beside it.)
    """
    if os.geteuid() == 0:
        with suppress(OSError):  # a file system without owners
            status = os.stat(directory)
            if status.st_uid != os.fstat(fd).st_uid:
                os.fchown(fd, status.st_uid, status.st_gid)
