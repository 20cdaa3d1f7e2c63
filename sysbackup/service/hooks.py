"""
Hooks: the administrator's programs in `hooks.d` that are told how runs go.

Each is called with the event as its one argument and a JSON object on standard
input, in the order of their names, one at a time. Whatever becomes of one of
them is a warning in the log and nothing more.
"""

import asyncio

import msgspec
import structlog

from sysbackup.config.sections import Config
from sysbackup.errors import ConfigError
from sysbackup.model import shown
from sysbackup.pipeline.tally import Ended
from sysbackup.programs.calling import call
from sysbackup.programs.discovery import find_programs
from sysbackup.service.messages import Began

log = structlog.get_logger()

STARTED = "started"

_EVENTS = {"complete": "succeeded", "incomplete": "incomplete"}


def event(ended: Ended) -> str:
    """What hooks are called with at a run's end: `succeeded`, `incomplete`, or `failed`, stopped or not."""
    return _EVENTS.get(ended.outcome, "failed")


def start_told(began: Began) -> bytes:
    """What hooks read when a run begins: the keys of `end_told`, as far as they are known, and the promise."""
    said = {
        "outcome": None,
        "exit_code": None,
        "host": began.host,
        "run": began.run,
        "started": began.started,
        "finished": None,
        "seconds": None,
        "reason": None,
        "promise": began.promise,
    }
    return msgspec.json.encode(said) + b"\n"


def end_told(ended: Ended) -> bytes:
    """
    What hooks read at a run's end.

    Always `outcome`, `exit_code`, `host`, `run`, `started`, `finished`,
    `seconds` and `reason`, null where there is none; and where there is a
    manifest all that `sysbackup run --json` prints.
    """
    said: dict[str, object] = {
        "outcome": ended.outcome,
        "exit_code": ended.exit_code,
        "host": ended.host,
        "run": ended.run,
        "started": ended.started,
        "finished": ended.finished,
        "seconds": round((ended.finished - ended.started).total_seconds(), 3),
        "reason": ended.reason,
    }
    if ended.summary is not None:
        said |= msgspec.structs.asdict(ended.summary)
    return msgspec.json.encode(said) + b"\n"


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
