"""`sysbackup daemon`: the service."""

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import click
import structlog
import uvloop

from sysbackup.cli.invocation import Invocation, pass_invocation
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.disk.locked_file import held
from sysbackup.errors import SpoolError
from sysbackup.programs import adopting
from sysbackup.service import history, signals
from sysbackup.service.attempts import Processes
from sysbackup.service.control import listening
from sysbackup.service.history import Past
from sysbackup.service.notify import Notify
from sysbackup.service.observers import Telling
from sysbackup.service.scheduler import Scheduler
from sysbackup.service.signals import Deadline
from sysbackup.service.status_file import fingerprint, socket_path, status_path

log = structlog.get_logger()

# Named, not imported: what it imports is of no use to a daemon that waits.
_WORK = "sysbackup.cli.run_worker:main"


@click.command("daemon")
@pass_invocation
def command(invocation: Invocation) -> int:
    """
    Wait, and make backups when asked or scheduled.

    For systemd, or any other supervisor: stays in the foreground and logs to
    standard error. SIGUSR1 starts a run (during a run: one more after it),
    SIGHUP reads the configuration again, SIGUSR2 logs what goes on, SIGTERM and
    SIGINT stop within 10 s; a second one stops at once. Runs that fail leave
    it alive: see `sysbackup status`.
    """
    os.environ["SYSBACKUP_LOG_LEVEL"] = invocation.log_level  # for the processes that do the runs
    conf = fingerprint(invocation.directory)
    config = invocation.config()
    with Deadline() as deadline:
        uvloop.run(_live(invocation, config, conf, deadline))
    return 0


async def _live(invocation: Invocation, config: Config, conf: str | None, deadline: Deadline) -> None:
    threads = ThreadPoolExecutor(thread_name_prefix="daemon")
    asyncio.get_running_loop().set_default_executor(threads)
    with _alone(config):
        _adopt()
        await _serve(invocation, config, conf, deadline)
    await signals.wait_for_threads(threads)


async def _serve(invocation: Invocation, config: Config, conf: str | None, deadline: Deadline) -> None:
    clock = SystemClock()
    notify = Notify(os.environ)
    daemon = Scheduler(
        config,
        invocation.config,
        Processes(_WORK, clock),
        Telling(),
        clock,
        notify,
        _past(config),
        conf,
    )
    log.info("daemon.started", pid=os.getpid(), directory=str(config.directory), host=config.content.host)
    try:
        async with listening(socket_path(config), daemon):
            with signals.obeyed(daemon, deadline):
                await daemon.serve()
    finally:
        notify.close()
        log.info("daemon.ended")
        with suppress(OSError):
            os.unlink(status_path(config))


def _past(config: Config) -> Past:
    # Not in a thread: no thread may begin before signals are obeyed, for what it starts holds those that it holds.
    try:
        return history.recall_past(config)[0]
    except SpoolError as exc:
        log.error("history.unreadable", reason=str(exc))
        return Past()


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """Hold the runtime directory, made if it is missing. `BusyError` where another daemon holds it."""
    path = config.runtime / "daemon.lock"
    with ExitStack() as stack:
        try:
            config.runtime.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(
                held(
                    path,
                    busy=f"another daemon is running: it holds {path}. See: sysbackup status",
                    elsewhere="The runtime directory must be on a file system with locks; name another with"
                    " SYSBACKUP_RUNTIME_DIR",
                )
            )
        except OSError as exc:
            raise SpoolError(
                f"cannot write to the runtime directory {config.runtime}: {exc.strerror}. Name another with"
                " SYSBACKUP_RUNTIME_DIR"
            ) from exc
        yield


def _adopt() -> None:
    try:
        adopting.adopt()
    except OSError as exc:  # a sandbox: what a killed run leaves behind is left to the control group then
        log.warning("programs.unadopted", reason=exc.strerror)
