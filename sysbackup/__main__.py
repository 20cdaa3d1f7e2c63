"""`python -m sysbackup`, and what the command `sysbackup` runs: signals are held before anything else is loaded."""

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

if "daemon" in sys.argv[1:]:
    # They arrive when the daemon is ready: see sysbackup.service.signals. Until then SIGUSR1 would kill it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP))


STOPPING = (signal.SIGINT, signal.SIGTERM)


def main() -> NoReturn:
    """The program."""
    for number in STOPPING:
        # A shell's background job has SIGINT ignored, and is to have it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    _occupy_standard_streams()
    # Modules are thousands of objects and no garbage: to look for some takes a tenth of the time that loading takes.
    gc.set_threshold(20_000, 20, 20)
    from sysbackup.cli.main import main as run  # noqa: PLC0415  # see above

    try:
        status = run()
    finally:
        # How it ended is decided.
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    # Everything is closed, and has been waited for. To take all modules apart takes as long as ten thousand files.
    os._exit(status)


def _leave(number: int, _: object) -> NoReturn:
    """A stop before there is anything to clean up: who has that replaces this handler (`concurrency.event_loop`)."""
    with suppress(OSError):
        os.write(2, f"sysbackup: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _occupy_standard_streams() -> None:
    """Open /dev/null where 0, 1 or 2 is closed: else a file opened later gets that number, and what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Python has None for a stream that was closed when it started.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
