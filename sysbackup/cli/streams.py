"""
Standard output and standard error, so that what cannot be printed costs nothing else.

A disk that is full, a reader who has gone, a character that the locale does
not know: none of them changes what a backup is, nor what the exit status says
of it. Commands whose work is something else than printing say so (`done_anyway`).
"""

import codecs
import errno
import io
import select
import sys
from typing import TYPE_CHECKING, TextIO

from sysbackup.errors import SysbackupError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEGIBLE = "sysbackup-legible"
"""The name of the error handler (codecs) for characters that a stream's encoding does not have."""

_PLAIN = {"✔": "*", "✓": "*", "✘": "x", "…": "...", "–": "-", "—": "-", "→": "->", "·": "*", "×": "x"}  # noqa: RUF001

_BRAILLE = range(0x2800, 0x2900)  # a spinner's


class NobodyReads(Exception):
    """Whoever read standard output has gone: there is nothing more to do, and nobody to tell."""


class Unprinted(SysbackupError):
    """What a command was to print could not be written."""


def prepare() -> None:
    """Have standard output and standard error be as this module says, with the encodings that they have."""
    codecs.register_error(LEGIBLE, _legible)
    sys.stdout = _text(_Output(sys.stdout.fileno()), sys.stdout)
    sys.stderr = _text(_Errors(sys.stderr.fileno()), sys.stderr)


def done_anyway() -> None:
    """From now on nothing that is printed can end the command: its exit status tells of what it has done."""
    if (output := _output()) is not None:
        output.done_anyway = True


def unprinted() -> str | None:
    """Why a command that was `done_anyway` could not print all; None where it could, or where nobody cares."""
    output = _output()
    if output is None or not output.done_anyway or output.failure is None or output.failure.errno == errno.EPIPE:
        return None
    return _reason(output.failure)


class _Standard(io.FileIO):
    """Writes to a descriptor that is not ours to close; what fails is decided by `failed`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write some of it; what could not be written and may be forgotten counts as written."""
        try:
            while (written := super().write(data)) is None:  # somebody else has made it non-blocking (ssh, node)
                poll = select.poll()
                poll.register(self.fileno(), select.POLLOUT)
                poll.poll()
        except OSError as error:
            self.failed(error)
            return memoryview(data).nbytes
        return written

    def failed(self, error: OSError) -> None:
        """Raise what is to be raised."""
        raise NotImplementedError


class _Errors(_Standard):
    """Standard error: there is nowhere else to say that it cannot be written."""

    def failed(self, error: OSError) -> None:
        """Let it be: there may be room again for the next line."""


class _Output(_Standard):
    """Standard output. After its first failure nothing more is written: half of the rest would be misread."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.done_anyway = False
        self.failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """See `_Standard`."""
        return super().write(data) if self.failure is None else memoryview(data).nbytes

    def failed(self, error: OSError) -> None:
        """Remember it; where printing was the work, that ends."""
        self.failure = error
        if self.done_anyway:
            return
        if error.errno == errno.EPIPE:
            raise NobodyReads from None
        raise Unprinted(f"cannot write to standard output: {_reason(error)}") from error


def _output() -> _Output | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Output) else None


def _text(raw: _Standard, like: TextIO) -> io.TextIOWrapper:
    line_buffering = bool(like.line_buffering)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=like.encoding, errors=LEGIBLE, line_buffering=line_buffering
    )


def _legible(error: UnicodeError) -> tuple[str, int]:
    """A codecs' error handler: something near it where we know what was meant, else its number as Python writes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_near, error.object[error.start : error.end])), error.end


def _near(character: str) -> str:
    if ord(character) in _BRAILLE:
        return " "
    return _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
