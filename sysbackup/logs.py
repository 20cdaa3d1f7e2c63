"""
Logging, configured here and nowhere else.

To standard error always: on a terminal coloured lines, under systemd one line
with the journal's `<N>` priority prefix (sd-daemon(3)), elsewhere JSON lines.
Exceptions are rendered without local variables: those hold credentials. A log
that cannot be written (a full disk, a closed pipe) never stops a backup.

What a run logs names the run (`about`), from whichever thread it comes.
"""

import logging
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any, TextIO

import structlog

from sysbackup.model import printable, shown

# sd-daemon(3): SD_CRIT, SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def configure_unless_done() -> None:
    """Send warnings to standard error in a program that has not said where log lines go: its output is its own."""
    if not structlog.is_configured():
        configure("warning")


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send events of at least `level` to `stream` (standard error) in the form that suits what reads it."""
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _merge_subjects,
        structlog.processors.add_log_level,
    ]
    if stream.isatty():
        form: list[structlog.typing.Processor] = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _escape,
            structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ, exception_formatter=_plain_traceback),
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
        logger_factory=structlog.WriteLoggerFactory(file=_LossyStream(stream)),  # type: ignore[arg-type] # all it uses
        cache_logger_on_first_use=False,
    )
    # What asyncio and the AWS libraries have to say. Their debug logs hold signatures: never, at no level of ours.
    logging.basicConfig(handlers=[_Forward(logging.WARNING)], level=logging.WARNING, force=True)


_subjects: tuple[dict[str, object], ...] = ()


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """
    While it lasts, every line of this process has these fields too, unless it says otherwise itself.

    Context variables alone would not do: threads of an executor, and callbacks
    that the loop was given earlier (signal handlers), do not see ours. Where
    several last at once, each task has its own, and everything else the latest.
    """
    global _subjects  # noqa: PLW0603  # a process has one log
    subject = dict(fields)
    _subjects = (*_subjects, subject)
    try:
        with structlog.contextvars.bound_contextvars(**fields):
            yield
    finally:
        _subjects = tuple(other for other in _subjects if other is not subject)


def _merge_subjects(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for subject in _subjects[-1:]:
        for name, value in subject.items():
            event.setdefault(name, value)
    return event


class _LossyStream:
    """A stream that drops what it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class _Forward(logging.Handler):
    """
    Turns records of the standard library's logging into events of ours.

    What a library only warns of it has dealt with, or raises as well: the reason will do, without a traceback.
    """

    def emit(self, record: logging.LogRecord) -> None:
        more: dict[str, Any] = {"exc_info": record.exc_info}
        if record.levelno < logging.ERROR and record.exc_info and record.exc_info[1] is not None:
            more = {"reason": str(record.exc_info[1]) or type(record.exc_info[1]).__name__}
        structlog.get_logger().log(
            record.levelno, "library.said", library=record.name, message=record.getMessage(), **more
        )


def _journal_reads(stream: TextIO) -> bool:
    """Whether `stream` is the journal's socket: JOURNAL_STREAM holds its device and inode (systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{stat.st_dev}:{stat.st_ino}"


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Terminal commands in a value (a file's name, a server's answer) are shown, not obeyed."""
    for key, value in event.items():
        if key in ("exc_info", "exception", "stack"):
            continue  # `_plain_traceback` sees to it
        text = value if isinstance(value, str) else str(value)
        if not text.isprintable():
            event[key] = shown(text.encode("utf-8", "backslashreplace"))
    return event


def _plain_traceback(stream: TextIO, exc_info: Any) -> None:
    """structlog's, of which an exception's message may hold terminal commands, too."""
    told = StringIO()
    structlog.dev.plain_traceback(told, exc_info)
    stream.write(printable(told.getvalue()))


def _journal_line(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """`<6>file.skipped path=/a reason='no permission'`, newlines escaped: the journal's unit is the line."""
    priority = _PRIORITIES.get(str(event.pop("level", "info")), 6)
    name = event.pop("event", "")
    trace = event.pop("exception", None) or ""
    fields = " ".join(f"{key}={_value(value)}" for key, value in event.items())
    line = f"{name} {fields}".rstrip().replace("\n", "\\n")
    traced = "".join(f"\n<{priority}>{row}" for row in printable(str(trace)).splitlines())
    return f"<{priority}>{line}{traced}"


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or not text.isprintable() or any(c in text for c in " ='\"") else text
