"""What a daemon sets down, and a state directory that does not answer."""

import fcntl
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sysbackup.config.sections import Config
from sysbackup.formats.run_result import RunResult
from sysbackup.service import history, ledger
from sysbackup.service.ledger import Ledger
from sysbackup.service.status_file import Current
from tests.support import backups
from tests.support.clock import START

ENDED = RunResult(outcome="failed", exit_code=1, host="alpha", run="r", started=START, finished=START, reason="a test")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return backups.configured(tmp_path)


def test_a_run_is_marked_as_long_as_it_goes_on(config: Config) -> None:
    """Whoever finds the mark later knows that its daemon has died."""

    async def work() -> None:
        book = Ledger(config)
        assert await book.dead() is None
        await book.begun(Current(started=START, run="r"))
        assert await Ledger(config).dead() == Current(started=START, run="r")
        await book.ended(ENDED)
        assert await book.dead() is None

    backups.run(work())
    assert history.recall(config) == [ENDED]


def test_a_state_directory_that_hangs_holds_nobody_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error in the log; when it answers again, what comes then is set down, and nothing in wrong order."""
    monkeypatch.setattr(ledger, "WITHIN", 0.05)
    config.state.mkdir()
    lock = os.open(config.state / "history.jsonl.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)

    async def work() -> None:
        book = Ledger(config)
        await book.ended(ENDED)
        await book.ended(ENDED)
        assert history.recall(config) == []
        fcntl.flock(lock, fcntl.LOCK_UN)
        monkeypatch.setattr(ledger, "WITHIN", 30.0)
        await book.ended(ENDED)

    try:
        with capture_logs() as log:
            backups.run(work())
    finally:
        os.close(lock)
    assert [line["event"] for line in log] == ["history.unwritable"] * 2
    assert history.recall(config) == [ENDED, ENDED]


def test_a_state_directory_that_cannot_be_written_is_an_error_in_the_log(config: Config) -> None:
    """The run itself is not affected."""
    config.state.write_text("no directory")

    async def work() -> None:
        await Ledger(config).begun(Current(started=START))
        await Ledger(config).ended(ENDED)

    with capture_logs() as log:
        backups.run(work())
    assert {line["event"] for line in log} == {"history.unwritable"}


def test_a_damaged_mark_is_none(config: Config) -> None:
    """A disk that was full, or the power gone in the wrong moment."""
    config.state.mkdir()
    (config.state / "running.json").write_bytes(b"{")
    assert ledger.left(config) is None
