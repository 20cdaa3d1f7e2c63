"""
Logging, configured here and nowhere else.

To standard error always: on a terminal coloured lines, under systemd one line
with the journal's `<N>` priority prefix (sd-daemon(3)), elsewhere JSON lines.
Exceptions are rendered without local variables: those hold credentials.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

# sd-daemon(3): SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send events of at least `level` to `stream` (standard error) in the form that suits what reads it."""
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if stream.isatty():
        form: list[structlog.typing.Processor] = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    elif _journal_reads(stream):
        form = [structlog.processors.format_exc_info, _journal_line]
    else:
        form = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=False, default=str),
        ]
    structlog.configure(
        processors=[*shared, *form],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )


def _journal_reads(stream: TextIO) -> bool:
    """Whether `stream` is the journal's socket: JOURNAL_STREAM holds its device and inode (systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{stat.st_dev}:{stat.st_ino}"


def _journal_line(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """`<6>file.skipped path=/a reason='no permission'`, newlines escaped: the journal's unit is the line."""
    priority = _PRIORITIES.get(str(event.pop("level", "info")), 6)
    name = event.pop("event", "")
    trace = event.pop("exception", "")
    fields = " ".join(f"{key}={_value(value)}" for key, value in event.items())
    line = f"{name} {fields}".rstrip().replace("\n", "\\n")
    traced = "".join(f"\n<{priority}>{row}" for row in str(trace).splitlines())
    return f"<{priority}>{line}{traced}"


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c in text for c in " ='\"\n") else text
