"""`python -m sysbackup`, and what the command `sysbackup` runs: signals are held before anything else is loaded."""

import signal
import sys
from typing import NoReturn

if "daemon" in sys.argv[1:]:
    # They arrive when the daemon is ready: see sysbackup.service.signals. Until then SIGUSR1 would kill it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP))


def main() -> NoReturn:
    """The program."""
    from sysbackup.cli.main import main as run  # noqa: PLC0415  # see above

    run()


if __name__ == "__main__":
    main()
