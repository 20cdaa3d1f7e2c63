"""What a run looks like on a terminal: whatever its width, what one must copy is there in one piece."""

import io
import re

import pytest
import structlog
from rich.console import Console

from sysbackup.cli.display import ProgressDisplay, show_rows, show_summary
from sysbackup.service import messages
from tests.unit.test_hooks import summary

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
KEY = "manifests/" + "a-host-with-a-long-name." * 6 + "/20261123T041500Z-3fa9-0123456789abcdef.jsonl.gz"
REQUESTS = {"PutObject": 2, "ListObjectsV2": 1, "GetObjectRetention": 3, "UploadPart": 4, "CompleteMultipartUpload": 1}


def printed(width: int, *, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=terminal, color_system=None), out


@pytest.mark.parametrize("width", [20, 60, 80, 120])
@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_of_a_summary_is_cut(width: int, *, terminal: bool) -> None:
    """Neither the manifest's key nor a path that could not be backed up, be it longer than the screen is wide."""
    path = "/srv/" + "x" * 200
    problem = {"event": "file.denied", "path": path, "reason": "no permission"}
    said = summary("incomplete", manifest=KEY, requests=REQUESTS, first_problems=[problem], notes=1)
    console, out = printed(width, terminal=terminal)
    show_summary(console, said)
    lines = [ESCAPE.sub("", line) for line in out.getvalue().splitlines()]
    assert any(line.strip().endswith(f"s3://bucket/{KEY}") for line in lines)
    assert any(path in line for line in lines)
    assert "…" not in out.getvalue().replace("… and", "")
    for kind in REQUESTS:
        assert any(kind in line for line in lines), kind


def test_words_fold_beneath_each_other_on_a_terminal() -> None:
    """What need not be in one piece stays in its column."""
    console, out = printed(30, terminal=True)
    show_rows(console, [("holds", "one two three four five six seven"), ("x", "y")])
    lines = [ESCAPE.sub("", line).rstrip() for line in out.getvalue().splitlines()]
    assert lines == ["holds  one two three four five", "       six seven", "    x  y"]


def test_markup_in_a_value_is_text() -> None:
    """A host may be called what it likes."""
    console, out = printed(80, terminal=False)
    show_rows(console, [("from", "[bold]x[/] [red]")])
    assert out.getvalue() == "from  [bold]x[/] [red]\n"


@pytest.mark.parametrize("width", [20, 44, 80, 120])
def test_no_count_is_broken_on_a_narrow_terminal(width: int) -> None:
    """How far a run is, its counts and its rate stand beneath each other where they do not fit beside each other."""
    console, out = printed(width, terminal=True)
    progress = ProgressDisplay(console)
    now = messages.Progress("backing up", "/srv/a", 12_345_678, 123 << 30, 12 << 30, 0, 1234, 42, 140.0)
    with progress.live("info"):
        progress.watch(lambda: now, 3723.0)
    lines = [ESCAPE.sub("", line) for line in out.getvalue().splitlines()]
    for cell in ("12,345,678 files", "123.0 GiB read", "12.0 GiB stored", "/s", "1 h 2 min", "1,234 problems"):
        assert any(cell in line for line in lines), cell
    assert "backing up, 42 %, about 3 min left" in " ".join(" ".join(lines).split())


def test_a_logged_path_above_the_progress_is_in_one_piece() -> None:
    """The terminal wraps it, no line end is put into it."""
    console, out = printed(40, terminal=True)
    path = "/srv/" + "y" * 100
    with ProgressDisplay(console).live("info"):
        structlog.get_logger().warning("file.denied", path=path)
    assert path in ESCAPE.sub("", out.getvalue())
