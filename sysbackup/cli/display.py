"""What a run looks like on a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from time import monotonic

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sysbackup import logs
from sysbackup.config.units import amount, elapsed
from sysbackup.formats.run_result import Summary
from sysbackup.model import shown
from sysbackup.service import messages, status_text


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `1,200 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def when(instant: datetime) -> str:
    """An instant in UTC, to the minute; a date that has no place in UTC as it is."""
    try:
        return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except OverflowError:
        return instant.isoformat(" ", "minutes")


def source(problem: Mapping[str, str]) -> str:
    """What could not be backed up: a path, or a program's name with what it is."""
    kind, path = problem.get("event", "").partition(".")[0], problem.get("path", "")
    return f"{kind} {path}" if kind in ("picker", "snapshotter") else path


def one_line(text: str) -> str:
    """What somebody else has said, as a terminal may show it."""
    return "; ".join(shown(line.encode()) for line in text.splitlines())


def doing(counts: messages.Progress, seconds: float) -> str:
    """How far a run of so many seconds is: `reading, 42 %, 1,200 files, 3.4 MiB read, 1.2 MiB stored, 8.4 s`."""
    parts = [
        status_text.stage(counts),
        count(counts.files, "file"),
        f"{amount(counts.bytes_read)} read",
        f"{amount(counts.bytes_stored)} stored",
        elapsed(max(seconds, 0)),
    ]
    if counts.percent is None and counts.files:
        parts.append(status_text.rate(counts, seconds))
    if counts.problems:
        parts.append(count(counts.problems, "problem"))
    return ", ".join(parts)


class _Above(StringIO):
    """A stream whose lines appear above a live display instead of tearing it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if line := text.rstrip("\n"):
            self._console.print(Text.from_ansi(line), soft_wrap=True)  # a path in it stays in one piece
        return len(text)


class ProgressDisplay:
    """A few lines at the bottom of the terminal that follow a run's counts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._look: Callable[[], messages.Progress] | None = None
        self._note = ""
        self._begun = monotonic()
        self._spinner = Spinner("line" if console.options.ascii_only else "dots")

    @contextmanager
    def live(self, log_level: str) -> Iterator[None]:
        """Show it for as long as the run goes on; what is logged meanwhile scrolls by above it."""
        logs.configure("warning" if log_level == "info" else log_level, _Above(self._console))
        try:
            with Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            ):
                yield
        finally:
            logs.configure(log_level)

    def watch(self, look: Callable[[], messages.Progress], seconds: float = 0.0, note: str = "") -> None:
        """Follow a run that has gone on for so long: `look` says how far it is, and `note` stands before that."""
        self._look = look
        self._note = note
        self._begun = monotonic() - seconds

    def rest(self, note: str) -> None:
        """Follow nothing for the time being; `note` says why."""
        self._look = None
        self._note = note

    def _render(self) -> RenderableType:
        if self._look is None:
            self._spinner.update(text=Text(f" {self._note}", "cyan"))
            return self._spinner if self._note else Text("")
        counts = self._look()
        passed = max(monotonic() - self._begun, 0.001)
        cells = [
            Text(count(counts.files, "file"), "bold"),
            Text(f"{amount(counts.bytes_read)} read"),
            Text(f"{amount(counts.bytes_stored)} stored"),
        ]
        if counts.files:
            cells.append(Text(status_text.rate(counts, passed)))
        cells.append(Text(elapsed(passed)))
        if counts.problems:
            cells.append(Text(count(counts.problems, "problem"), "yellow"))
        self._spinner.update(text=Text(f" {self._note}{status_text.stage(counts)}", "cyan"))
        current = Text(counts.current, "dim", no_wrap=True, overflow="ellipsis")
        return Group(self._spinner, *_filled(cells, self._console.width), current)


def _filled(cells: Sequence[Text], width: int) -> list[Text]:
    """Lines of them, none of which is broken as long as it is no wider than the terminal itself."""
    lines = [Text()]
    for cell in cells:
        if lines[-1].plain:
            if lines[-1].cell_len + cell.cell_len + 3 > width:
                lines.append(Text())
            else:
                lines[-1].append("   ")
        lines[-1].append_text(cell)
    return lines


def show_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """
    Labels and what belongs to them; nothing is ever cut, for keys and paths are to be copied.

    A terminal that is too narrow folds words beneath each other. A word too long
    for that goes on at the terminal's edge: copied, it is in one piece. A log's or
    a mail's lines are as long as they are.
    """
    label = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        if console.is_terminal and all(cell_len(word) <= console.width - label - 2 for word in value.split()):
            grid = Table.grid(padding=(0, 2))
            grid.add_column(justify="right", style="dim", width=label)
            grid.add_column(overflow="fold")
            grid.add_row(name, Text(value))
            console.print(grid)
        else:
            line = Text.assemble((f"{name:>{label}}", "dim"), "  ", value)
            console.print(line, soft_wrap=True)


_NOTES_AT_MOST = 5


def show_summary(console: Console, summary: Summary) -> None:
    """How the run went, for people."""
    good = summary.problems == 0
    mark, colour = ("✔", "green") if good else ("!", "yellow")
    console.print(
        f"[{colour}]{mark} Backup {escape(summary.run)} of {escape(summary.host)} is "
        f"{'complete' if good else 'stored, with problems'}[/] in {elapsed(summary.seconds)}.",
        soft_wrap=True,
    )
    show_rows(console, list(_rows(summary).items()))
    _show_problems(console, summary)
    _show_notes(console, summary)


def _rows(summary: Summary) -> Mapping[str, str]:
    entries = ", ".join(count(summary.entries[k], *word) for k, word in _KINDS.items() if summary.entries.get(k))
    requests = ", ".join(f"{n:,} {kind}" for kind, n in summary.requests.items())
    rows = {
        "holds": f"{count(summary.files, 'file')}, {amount(summary.bytes)}" + (f"; {entries}" if entries else ""),
        "read": amount(summary.read) + (f"; {count(summary.unchanged, 'file')} unchanged" if summary.unchanged else ""),
        "stored": f"{amount(summary.stored)} in {count(summary.objects, 'object')} "
        f"({count(summary.contents, 'new content')})"
        + (f"; {amount(summary.reused)} were stored already" if summary.reused else ""),
        "requests": f"{sum(summary.requests.values()):,} for ${summary.price:.4f}: {requests}",
        "promised": f"until {when(summary.promise)}" if summary.promise else "nothing: lock_mode = none",
        "manifest": f"s3://{summary.bucket}/{summary.manifest}",
    }
    if summary.renewed:
        rows["renewed"] = f"the locks of {count(summary.renewed, 'object')}"
    if summary.warnings:
        rows["warnings"] = f"{count(summary.warnings, 'file')} kept although locked or changing, see the log"
    if summary.unseen:
        rows["not seen"] = summary.unseen
    if summary.sockets_skipped:
        rows["skipped"] = count(summary.sockets_skipped, "socket")
    return rows


_KINDS = {
    "d": ("directory", "directories"),
    "l": ("link",),
    "p": ("FIFO",),
    "c": ("character device",),
    "b": ("block device",),
    "s": ("snapshot",),
}


def _show_problems(console: Console, summary: Summary) -> None:
    if not summary.problems:
        return
    console.print(f"[yellow]{count(summary.problems, 'source')} could not be backed up as asked:[/]")
    for problem in summary.first_problems:
        text = f"  {source(problem)}: {problem['reason']}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if summary.problems > len(summary.first_problems):
        more = summary.problems - len(summary.first_problems)
        console.print(f"  … and {more:,} more: all of them are in the manifest")


def _show_notes(console: Console, summary: Summary) -> None:
    """A misspelt line of a picker's is among them: so there are names, if not many."""
    if not summary.notes:
        return
    what = f"{count(summary.notes, 'picked path')} not there to be read (gone meanwhile, or misspelt):"
    console.print(Text(what, "dim"), soft_wrap=True)
    shown_here = summary.first_notes[:_NOTES_AT_MOST]
    for note in shown_here:
        console.print(Text(f"  {note['path']}", "dim"), highlight=False, soft_wrap=True)
    if summary.notes > len(shown_here):
        more = summary.notes - len(shown_here)
        console.print(f"[dim]  and {more:,} more: all of them are in the manifest[/]", highlight=False)
