"""The log's three forms."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from sysbackup import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nobody_listens() -> None:
    """What the standard library logs goes to nobody until a test says so."""
    logging.getLogger().handlers = []


def test_a_pipe_gets_json_lines_with_the_time_in_utc() -> None:
    """One object a line, for machines."""
    stream = io.StringIO()
    logs.configure("info", stream)
    structlog.get_logger().info("file.skipped", path="/a b", reason="no permission")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "file.skipped", "level": "info", "path": "/a b", "reason": "no permission"}


def test_a_terminal_gets_a_readable_line_and_obeys_nothing_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's name may hold terminal commands."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logs.configure("info", stream)
    structlog.get_logger().warning("file.skipped", path="/\x1b[2Jevil\r")
    assert "file.skipped" in stream.getvalue()
    assert "path=/\\x1b[2Jevil\\r" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_journal_gets_a_priority_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<N>` as sd-daemon(3) has it; fields quoted where they need it, newlines escaped."""
    with (tmp_path / "journal").open("w+") as stream:
        stat = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        logs.configure("debug", stream)
        log = structlog.get_logger()
        log.debug("a.b")
        log.info("file.skipped", path="/a b", reason="it's\nodd", count=3, empty="")
        log.warning("a.b", path="/plain", odd="\x1b[2J")
        log.error("a.b")
        stream.seek(0)
        assert stream.read().splitlines() == [
            "<7>a.b",
            "<6>file.skipped path='/a b' reason=\"it's\\nodd\" count=3 empty=''",
            "<4>a.b path=/plain odd='\\x1b[2J'",
            "<3>a.b",
        ]


@pytest.mark.parametrize("kind", ["json", "terminal", "journal"])
def test_a_traceback_shows_no_local_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """They hold credentials; under the journal each of its lines has the event's priority."""
    with (tmp_path / "log").open("w+") as file:
        streams: dict[str, TextIO] = {"json": io.StringIO(), "terminal": Terminal(), "journal": file}
        stream = streams[kind]
        if kind == "journal":
            stat = os.fstat(file.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        logs.configure("info", stream)
        secret = "-".join(["hunter", "2"])
        try:
            raise LookupError(len(secret))
        except LookupError:
            structlog.get_logger().exception("run.failed")
        stream.seek(0)
        written = stream.read()
    assert "LookupError" in written
    assert "hunter-2" not in written
    if kind == "journal":
        assert len(written.splitlines()) > 2
        assert all(line.startswith("<3>") for line in written.splitlines())


def test_lesser_events_are_left_out() -> None:
    """The level is the least that is logged."""
    stream = io.StringIO()
    logs.configure("warning", stream)
    structlog.get_logger().info("a.b")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("place", ["/dev/full", "closed"])
def test_a_log_that_cannot_be_written_stops_nothing(place: str) -> None:
    """/dev/full takes nothing, a closed standard error neither: the backup goes on."""
    code = "import sys, structlog; from sysbackup import logs; logs.configure();"
    code += "sys.stderr.close() if sys.argv[1] == 'closed' else None;"
    code += "log = structlog.get_logger(); log.info('a.b'); log.error('a.b'); print('still here')"
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([sys.executable, "-c", code, place], stdout=subprocess.PIPE, stderr=full, check=True)
    assert ended.stdout == b"still here\n"


def test_what_libraries_log_becomes_events_but_never_their_debug_logs() -> None:
    """asyncio's complaints are seen; botocore's debug lines hold signatures."""
    stream = io.StringIO()
    logs.configure("debug", stream)
    logging.getLogger("botocore.auth").debug("Signature: secret")
    logging.getLogger("botocore.auth").info("secret")
    logging.getLogger("asyncio").error("Task exception was never %s", "retrieved")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"]) == ("library.said", "error")
    assert (event["library"], event["message"]) == ("asyncio", "Task exception was never retrieved")


def test_lines_about_a_run_name_it_wherever_they_come_from() -> None:
    """Threads and callbacks that were there before it do not see context variables; their lines name it too."""
    stream = io.StringIO()
    logs.configure("info", stream)
    log = structlog.get_logger()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(log.info, "before").result()
            earlier = asyncio.Event()
            told = loop.create_task(_after(earlier, log.info, "task"))
            await asyncio.sleep(0)
            with logs.about(run="a"):
                log.info("own")
                log.info("other", run="b")
                await loop.run_in_executor(pool, log.info, "thread")
                earlier.set()
                await told
            pool.submit(log.info, "after").result()

    asyncio.run(work())
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("run")) for line in said] == [
        ("before", None),
        ("own", "a"),
        ("other", "b"),
        ("thread", "a"),
        ("task", "a"),
        ("after", None),
    ]


def test_of_two_runs_at_once_each_names_itself() -> None:
    """In one process, as tests have them; the end of the first takes nothing from the second."""
    stream = io.StringIO()
    logs.configure("info", stream)
    log = structlog.get_logger()

    async def work() -> None:
        first_over, second_on = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            with logs.about(run="a"):
                await second_on.wait()
                log.info("first")
            first_over.set()

        async def second() -> None:
            with logs.about(run="b"):
                second_on.set()
                await first_over.wait()
                log.info("second")

        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            group.create_task(second())
        log.info("neither")

    asyncio.run(work())
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("run")) for line in said] == [("first", "a"), ("second", "b"), ("neither", None)]


async def _after(event: asyncio.Event, say: Callable[[str], None], what: str) -> None:
    await event.wait()
    say(what)
