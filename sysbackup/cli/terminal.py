"""
The way to a terminal: what came from outside arrives there as text, never as a command.

Names in the bucket, answers of the store and files of the catalog may hold
escape sequences, which a terminal would obey (and some take for typing). So
people's output goes through here whoever put it together; what programs read
(`--json`, a snapshot's data) does not lose a byte on its way.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

import click
import msgspec
from msgspec import Struct
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sysbackup.model import printable

_Said = TypeVar("_Said", bound=Struct)


class Terminal(Console):
    """
    rich's console, which styles what we say: nothing else on its way to the terminal is a control character.

    No `:name:` in what it prints becomes a picture: it may be a file's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it; everything that is printed comes through here."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def say(*sentences: str) -> None:
    """A note or an error on standard error. Lines after a sentence's first are set in: none passes for one of ours."""
    for sentence in sentences:
        click.echo("sysbackup: " + printable(sentence).replace("\n", "\n  "), err=True)


def put(text: str) -> None:
    """Lines for people on standard output."""
    click.echo(printable(text))


def put_json(data: bytes) -> None:
    r"""
    JSON on standard output, the same to whoever reads it, and none of it a command to a terminal.

    JSON itself escapes what is below a space; what else is no text (the C1
    controls) can only stand in its strings, where `\u009b` means it, too.
    """
    text = data.decode()
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
    click.echo(text)


def legible(said: _Said) -> _Said:
    """The same with every text in it as a terminal may show it: for output that is styled in the same breath."""
    return msgspec.convert(_legible(msgspec.to_builtins(said, builtin_types=(datetime,))), type(said))


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _legible(inner) for key, inner in value.items()}
    return [_legible(inner) for inner in value] if isinstance(value, list | tuple) else value


def _escaped(character: str) -> str:
    """RFC 8259, section 7: in UTF-16, as a pair where it is beyond the Basic Multilingual Plane."""
    pair = character.encode("utf-16-be")
    return "".join(f"\\u{pair[at : at + 2].hex()}" for at in range(0, len(pair), 2))
