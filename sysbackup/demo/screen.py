"""How the demo looks: numbered steps, marks, files in a frame. Plain lines where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from sysbackup.model import shown

_WIDEST = 100


class Screen:
    """Where the demo tells its story. Everything is shown as it is: no markup, no control characters."""

    def __init__(self, console: Console) -> None:
        self.console = console
        console.width = min(console.width, _WIDEST)
        self._step = 0

    def title(self, text: str, *lines: str) -> None:
        """What this is."""
        self.console.print(Text(text, "bold"))
        for line in lines:
            self.console.print(Text(line))

    def step(self, text: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._heading(f"{self._step}. {text}")

    def end(self, text: str) -> None:
        """Begin what comes after the steps."""
        self._heading(text)

    def _heading(self, text: str) -> None:
        self.console.print()
        if self.console.is_terminal:
            self.console.print(Rule(Text(text, "bold cyan"), align="left", style="cyan dim"))
        else:
            self.console.print(Text(text))

    def say(self, text: str) -> None:
        """A sentence."""
        self._marked(" ", "", text)

    def good(self, text: str, detail: str = "") -> None:
        """Something went as promised; `detail` is what somebody else said."""
        self._marked("✔", "bold green", text)
        if detail:
            self._marked(" ", "", detail, "red")

    def note(self, text: str) -> None:
        """Something to know that is no failure."""
        self._marked("!", "bold yellow", text)

    def bad(self, text: str) -> None:
        """Something did not go as promised."""
        self._marked("✘", "bold red", text, "red")

    def _marked(self, mark: str, style: str, text: str, text_style: str = "") -> None:
        head = Text(f"{mark} ", style)
        # continuation lines stand below the text, not below the mark
        lines = Text(shown(text.encode()), text_style).wrap(self.console, max(20, self.console.width - 2))
        for number, line in enumerate(lines):
            line.rstrip()
            self.console.print(Text.assemble(head if number == 0 else "  ", line), soft_wrap=True)

    def file(self, name: str, text: bytes, language: str) -> None:
        """A file's text."""
        self.console.print(Text.assemble("  ", (name, "bold")))
        code = "\n".join(shown(line) for line in text.rstrip(b"\n").split(b"\n"))
        # the terminal's own colours: readable on light and dark
        for line in Syntax("", language, theme="ansi_dark", background_color="default").highlight(code).split():
            self.console.print(Text.assemble(("  │ ", "dim"), line), soft_wrap=True)

    def commands(self, *lines: str) -> None:
        """Something to type or to write into a file."""
        for line in lines:
            self.console.print(Text.assemble("    ", (line, "bold")), soft_wrap=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """A sign of life while something goes on, on terminals."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(Text(text, "cyan"), spinner="dots"):
            yield
