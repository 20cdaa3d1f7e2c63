"""What the daemon and the process that does one run say to each other: lines of JSON."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from sysbackup.config.sections import Config
from sysbackup.formats.run_result import RunResult
from sysbackup.model import RunIdentity
from sysbackup.pipeline.tally import Stage, Tally
from sysbackup.service.forecast import Forecast, Outlook, Yardstick

CURRENT_AT_MOST = 300
"""Characters of a path in `Progress`: a message must fit into PIPE_BUF (pipe(7)), so that it is written whole."""


class Began(RunIdentity, frozen=True, tag="began"):
    """The run has a working name, and says until when it will promise."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """
    What a run has done so far; sizes in bytes. `percent`, `seconds_left` and `beyond`: its `Outlook`.

    `stage` is a `Stage`, or of another version. `sending`: all is examined, and so
    many objects have yet to be stored.
    """

    stage: str = Stage.STARTING
    current: str = ""
    files: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    renewed: int = 0
    problems: int = 0
    percent: int | None = None
    seconds_left: float | None = None
    beyond: bool = False
    sending: int = 0


class Over(msgspec.Struct, frozen=True, tag="over"):
    """The last word."""

    ended: RunResult


Message = Began | Progress | Over
"""What a run says."""

_messages: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def read(line: bytes) -> Message:
    """A line as a message. One of `UNREADABLE` where it is none."""
    return _messages.decode(line)


def write(message: Message) -> bytes:
    """A message as a line."""
    return msgspec.json.encode(message) + b"\n"


def began(tally: Tally) -> Began:
    """What a run says when its counts begin."""
    return Began(*msgspec.structs.astuple(tally.identity))


def progress(tally: Tally, outlook: Outlook) -> Progress:
    """How far a run is."""
    return Progress(
        tally.stage,
        tally.current[:CURRENT_AT_MOST],
        tally.files,
        tally.bytes_read,
        tally.bytes_stored,
        tally.renewed,
        tally.problems,
        outlook.percent,
        None if outlook.seconds_left is None else round(outlook.seconds_left, 1),
        outlook.beyond,
        tally.sending if tally.gathered else 0,
    )


def following(tally: Tally, last: Yardstick | None) -> Callable[[], Progress]:
    """What says, at any time, how far the run is whose counts these are, judged by what the last one held."""
    forecast, beginnings = Forecast(last, rescan=tally.rescan), tally.beginnings

    def follow() -> Progress:
        nonlocal forecast, beginnings
        if beginnings != tally.beginnings:
            # it counts from the beginning, and what is left is all of it
            forecast, beginnings = Forecast(last, rescan=tally.rescan), tally.beginnings
        return progress(tally, forecast.look(tally.counts(), monotonic(), gathered=tally.gathered is not None))

    return follow


def write_config(config: Config) -> bytes:
    """A configuration as a line: a run works by what the daemon has accepted, not by what is in the file now."""
    return msgspec.json.encode(config, enc_hook=_bytes_of) + b"\n"


def read_config(line: bytes) -> Config:
    """The same, read."""
    return msgspec.json.decode(line, type=Config, dec_hook=_path_of)


def _bytes_of(value: Any) -> Any:
    if isinstance(value, Path):
        return os.fsencode(value)  # base64 in JSON: a path need not be text
    raise NotImplementedError(type(value))


def _path_of(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return Path(os.fsdecode(base64.b64decode(value)))
    raise NotImplementedError(kind)
