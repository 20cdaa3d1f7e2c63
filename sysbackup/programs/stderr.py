"""What a program says on standard error, on its way to the log."""

from collections import deque

import structlog

from sysbackup.model import shown

_log = structlog.get_logger("sysbackup.sources")

LINES = 500
"""How many lines of one program reach the log as they come."""

TAIL = 20
"""Of those beyond, how many of the last are logged when it has ended."""

LINE_BYTES = 1000
"""Where a line is cut off."""

LAST_CHARACTERS = 200
"""Where the last line is cut off that becomes part of a problem's reason."""


class StandardError:
    """
    Splits standard error into lines and logs each as `program.said`.

    Bounded in memory and in what it logs, whatever a program says: the first
    `LINES` lines, then, at its end, how many were left out and the last `TAIL`.
    """

    def __init__(self, program: bytes) -> None:
        self._program = shown(program)
        self._line = b""
        self._count = 0
        self._tail: deque[str] = deque(maxlen=TAIL)
        self.last = ""
        """The last line that was not blank, for the sentence that says how the program ended."""

    def feed(self, chunk: bytes) -> None:
        """Take what came."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = self._line + lines[0]
            self._line = b""
        if self._count > LINES and (skipped := len(lines) - TAIL) > 0:
            del lines[:skipped]
            self._count += skipped
        for line in lines:
            self._say(line)
        self._line += rest[: LINE_BYTES + 1 - len(self._line)]

    def finish(self) -> None:
        """Take the end: a last line without a newline, and what was held back."""
        self._say(self._line)
        self._line = b""
        if left_out := max(self._count - LINES - len(self._tail), 0):
            _log.warning("program.muted", program=self._program, lines_left_out=left_out)
        for line in self._tail:
            _log.info("program.said", program=self._program, line=line)
        self._tail.clear()
        self._count = min(self._count, LINES)

    def _say(self, line: bytes) -> None:
        # What a progress bar last drew over itself is what a person would have seen.
        seen = line.rstrip().rpartition(b"\r")[2]
        text = shown(seen[:LINE_BYTES]).strip() + ("…" if len(seen) > LINE_BYTES else "")
        if not text:
            return
        self._count += 1
        self.last = text if len(text) <= LAST_CHARACTERS else text[:LAST_CHARACTERS] + "…"
        if self._count > LINES:
            self._tail.append(text)
        else:
            _log.info("program.said", program=self._program, line=text)
