"""What `sysbackup check-config` has found, and how it is printed: for people, or as lines fit to stand in `conf`."""

import os
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sysbackup.cli.terminal import put
from sysbackup.config.settings import SECTIONS, SETTINGS

_ALL_DEFAULTS = "no setting differs from its default"
_VALUE_WIDTH = 26
_NARROWEST = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One setting as it holds."""

    section: str
    name: str
    value: str | None
    default: bool
    """Whether it does not stand in the file."""
    changed: bool
    """Whether it is another value than the default."""
    meaning: str
    allowed: str
    unset: str
    """What holds where there is no value."""


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """One file of a programs directory: run, or not and why."""

    name: str
    run: bool
    reason: str | None = None
    expected: bool = True


@dataclass(frozen=True, slots=True)
class Findings:
    """All that check-config says."""

    conf: str
    cache: str
    mistakes: list[str]
    warnings: list[str]
    settings: list[Line]
    programs: dict[str, list[ProgramFile]]


def print_plainly(findings: Findings) -> None:
    """Plain lines, for files and pipes; those of the settings could stand in `conf`."""
    width = _width()
    for section, lines in _sections(findings):
        put(f"[{section}]")
        for line in lines:
            default = f"; default: {line.unset}" if line.value is None else ""
            comment = f"{line.meaning}{default}; allowed: {line.allowed}"
            put("\n".join(_folded(comment, width)))
            put(f"{'# ' if line.default else ''}{line.name} = {line.value or ''}".rstrip())
        put("")
    if not findings.settings and not findings.mistakes:
        put(f"# {_ALL_DEFAULTS}\n")
    for called, files in findings.programs.items():
        for file in files:
            put(f"# {called}: {file.name}" + ("" if file.reason is None else f": {_fate(file)}"))
    for warning in findings.warnings:
        put(f"# warning: {warning}")


def _sections(findings: Findings) -> Iterator[tuple[str, list[Line]]]:
    for section in SECTIONS:
        if lines := [line for line in findings.settings if line.section == section]:
            yield section, lines


def _folded(comment: str, width: int) -> list[str]:
    """Lines of a comment, those after the first indented: else one of them might look like a setting."""
    return textwrap.wrap(
        comment,
        width,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width() -> int:
    """How wide comments may be: as the terminal that a pager, or an editor, will show them on, if there is one."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    for descriptor in (2, 0):
        if columns <= 0:
            with suppress(OSError):
                columns = os.get_terminal_size(descriptor).columns
    return max(_NARROWEST, columns or 80)


def _fate(file: ProgramFile) -> str:
    return f"{'will fail' if file.run else 'not run'}: {file.reason}"


def show(console: Console, findings: Findings) -> None:
    """For a person at a terminal. Texts are `Text`: brackets in them are no markup."""
    for section, lines in _sections(findings):
        console.print(Text(f"[{section}]", "bold cyan"))
        for line in lines:
            _show_line(console, line)
    if not findings.settings and not findings.mistakes:
        console.print(Text(_ALL_DEFAULTS, "dim"))
    for called, files in findings.programs.items():
        console.print(Text(called, "bold cyan"))
        for file in files:
            console.print(_outlook(file), soft_wrap=True)
        if not files:
            console.print(Text("none", "dim"))
    console.print()
    console.print(Text.assemble(("cache and spool: ", "dim"), findings.cache), soft_wrap=True)
    for warning in findings.warnings:
        console.print(Text(f"! {warning}", "yellow"), soft_wrap=True)
    if not findings.mistakes:
        console.print(Text(f"✔ {findings.conf} can be used.", "green"), soft_wrap=True)


def _show_line(console: Console, line: Line) -> None:
    """Name, value and meaning beside each other; a value too long for its column has a line, and stays in one piece."""
    name_width = max(len(setting.name) for setting in SETTINGS)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(width=name_width, no_wrap=True)
    table.add_column(width=_VALUE_WIDTH)
    table.add_column(style="dim", ratio=1)
    if line.value is None:
        table.add_row(line.name, Text(line.unset, "dim italic"), line.meaning)
    else:
        value = Text(line.value, "" if line.default else "bold green")
        if long := any(cell_len(word) > _VALUE_WIDTH for word in line.value.split()):
            console.print(Text.assemble(f"{line.name:<{name_width}}  ", value), soft_wrap=True)
        table.add_row(*(("", "") if long else (line.name, value)), line.meaning)
    console.print(table)


def _outlook(file: ProgramFile) -> Text:
    if not file.expected:
        return Text(f"! {file.name}: {_fate(file)}", "yellow")
    return Text(f"✔ {file.name}", "green") if file.run else Text(f"- {file.name}: {_fate(file)}", "dim")
