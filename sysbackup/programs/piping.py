"""Piping into a shell command: how a snapshot is restored."""

import asyncio
import os
from collections.abc import AsyncIterator

from sysbackup.errors import ProgramError
from sysbackup.programs.pipes import Outlet, open_pipe
from sysbackup.programs.running import LEAVING_GRACE
from sysbackup.programs.starting import start


async def pipe_into(command: str, chunks: AsyncIterator[bytes]) -> int:
    """
    Run `/bin/sh -c command` with `chunks` on its standard input, and return its exit status.

    Its output is ours. A command that stops reading early is no error: its
    status tells. Killed by a signal it has the status a shell would give it
    (128 and the signal's number). Where `chunks` fails the command is killed
    before it could take the broken stream's end for the end of the data.
    """
    reading, writing = open_pipe(large=True)
    try:
        child = await start([b"/bin/sh", b"-c", os.fsencode(command)], (reading, None, None))
    except OSError as error:
        os.close(writing)
        raise ProgramError(f"/bin/sh could not be started: {error.strerror}") from error
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    outlet = Outlet(writing, child.gone)
    try:
        async for chunk in chunks:
            if not await outlet.write(chunk):
                break
        outlet.close()
        await asyncio.shield(child.gone)
    except BaseException:
        await child.end(LEAVING_GRACE)
        raise
    finally:
        child.release()
        outlet.close()
    status = child.status or 0
    return status if status >= 0 else 128 - status
