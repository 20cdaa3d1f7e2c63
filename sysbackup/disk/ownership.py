"""Files that root makes in a directory of the service's user: they must be that user's, or the service cannot go on."""

import os
import stat
from contextlib import suppress


def leave_to_owner(fd: int, directory: str | os.PathLike[str]) -> None:
    """
    Where we are root and `directory` is another user's, the file behind `fd` becomes that user's.

    After `sysbackup run` by root the service, as its own user, must still be
    able to write its catalog. (SQLite does the same for the files beside it.)
    What has another name as well, or is no regular file, was put there by
    somebody, and is not given away: it could be anybody's.
    """
    if os.geteuid() == 0:
        with suppress(OSError):  # a file system without owners
            folder, file = os.stat(directory), os.fstat(fd)
            own = stat.S_ISREG(file.st_mode) and file.st_nlink == 1
            if own and folder.st_uid != file.st_uid:
                os.fchown(fd, folder.st_uid, folder.st_gid)
