"""Why a program did not start, or not end well: sentences for the report."""

import errno
import signal

from sysbackup.programs.discovery import unsafe, unstartable
from sysbackup.programs.stderr import StandardError


class UnfitError(Exception):
    """A program that must not be started, or cannot; says why."""


def check_fit(path: bytes) -> None:
    if reason := unsafe(path) or unstartable(path):
        raise UnfitError(reason)


def unstarted(error: OSError | UnfitError) -> str:
    if isinstance(error, UnfitError):
        return f"could not be started: {error}"
    hint = ": is it on a file system mounted noexec?" if error.errno == errno.EACCES else ""
    return f"could not be started: {error.strerror}{hint}"


def ended_badly(status: int) -> str:
    """How a program ended that did not end well, from its exit status or its signal's negative number."""
    return f"ended with exit status {status}" if status > 0 else f"was killed by {signal_name(-status)}"


def with_last_words(why: str, stderr: StandardError | None) -> str:
    return f"{why}; its last words: {stderr.last}" if stderr is not None and stderr.last else why


def signal_name(number: int) -> str:
    """The name of a signal that has killed something, with what it may mean."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (for want of memory? see the kernel's log)" if number == signal.SIGKILL else name
