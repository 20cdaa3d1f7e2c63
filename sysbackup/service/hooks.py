"""
Hooks: the administrator's programs in `hooks.d` that are told how runs go.

Each is called with the event as its one argument and a JSON object on standard
input, in the order of their names, one at a time. Whatever becomes of one of
them is a warning in the log and nothing more.
"""

import asyncio

import structlog

from sysbackup.config.sections import Config
from sysbackup.errors import ConfigError
from sysbackup.formats.run_result import Outcome, RunResult
from sysbackup.model import shown
from sysbackup.programs.calling import call
from sysbackup.programs.discovery import find_programs

log = structlog.get_logger()

STARTED = "started"

_EVENTS: dict[str, str] = {Outcome.COMPLETE: "succeeded", Outcome.INCOMPLETE: "incomplete"}


def event(ended: RunResult) -> str:
    """What hooks are called with at a run's end: `succeeded`, `incomplete`, or `failed`, stopped or not."""
    return _EVENTS.get(ended.outcome, "failed")


async def call_all(config: Config, what: str, told: bytes) -> None:
    """Call every hook with this event. Cancelled, it kills the one that runs and calls no other."""
    try:
        programs, passed_over = await asyncio.to_thread(find_programs, config.hooks)
    except ConfigError as exc:
        log.warning("hooks.unreadable", reason=str(exc), hook_event=what)
        return
    for file in passed_over:
        if not file.expected:
            log.warning("hook.refused", program=shown(file.name), reason=file.reason)
    for program in programs:
        failure = await call(program, what.encode(), told, config.daemon.hook_limit)
        if failure is None:
            log.debug("hook.ended", program=shown(program.name), hook_event=what)
        else:
            log.warning("hook.failed", program=shown(program.name), hook_event=what, reason=failure)
