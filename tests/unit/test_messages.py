"""What the daemon and the process of a run say to each other."""

import select
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import S3, Aws, Config, Content, Daemon, Metrics, Run
from sysbackup.disk.sorting import Sorter
from sysbackup.formats.run_result import Counts, RunResult
from sysbackup.model import LockMode, RunIdentity
from sysbackup.pipeline.tally import Tally
from sysbackup.service import messages
from sysbackup.service.forecast import Outlook, Yardstick
from sysbackup.service.messages import Began, Message, Over, Progress

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_configuration_arrives_as_it_was() -> None:
    """All of it, whatever kind a setting is of; paths need not be text."""
    odd = Path("/etc/caf\udce9/☃")
    config = Config(
        directory=odd,
        cache=odd / "cache",
        state=Path("/state"),
        runtime=Path("/run/sysbackup"),
        aws=Aws(profile="p", credentials_file=odd / "credentials", role_arn="arn:aws:iam::1:role/r"),
        s3=S3(bucket="b", endpoint_url="http://[::1]:9000", sse="aws:kms"),
        content=Content(lock_timeout=0.25, lock_mode=LockMode.COMPLIANCE, host="alpha", share=("web-*", "db?")),
        run=Run(workers=3, memory=1 << 40),
        daemon=Daemon(schedule="15 2 * * *", time_zone="Europe/Berlin", random_delay=90.5),
        metrics=Metrics(listen=("127.0.0.1", 9797), textfile=odd / "x.prom"),
    )
    line = messages.write_config(config)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    back = messages.read_config(line)
    assert back == config
    assert isinstance(back.content.lock_mode, LockMode)
    assert back.metrics.listen == ("127.0.0.1", 9797)


ENDED = RunResult(
    outcome="failed",
    exit_code=77,
    host="alpha",
    run="20261123T120000Z-0000",
    started=NOON,
    finished=NOON,
    reason="S3 denies access:\nto ☃",
)


@pytest.mark.parametrize(
    "message",
    [
        Began("alpha", "20261123T120000Z-0000", NOON, NOON),
        Progress("backing up", "/a\n☃", 1, 2, 3, 4, 5),
        Progress("backing up", "/a", 1, 2, 3, 4, 5, 99, 86.5, beyond=True, sending=6),
        Over(ENDED),
    ],
)
def test_a_message_is_one_line_and_arrives_as_it_was(message: Message) -> None:
    """Newlines in it are none of the line's."""
    line = messages.write(message)
    assert line.count(b"\n") == 1
    assert messages.read(line) == message


@pytest.mark.parametrize("line", [b"", b"hello", b"{}", b'{"type":"over"}', b'{"type":"none"}', b"\xff"])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    """A stray line is no crash."""
    with pytest.raises(msgspec.DecodeError):
        messages.read(line)


@pytest.mark.parametrize("path", ["/" + "a" * 4000, "/" + "☃" * 4000, "/" + "\U0001f9ca" * 4000, "/" + '"\\' * 2000])
def test_progress_fits_into_a_pipe_at_once(tmp_path: Path, path: str) -> None:
    """However long a path is, and whatever it is made of: what is written whole is read whole (pipe(7), PIPE_BUF)."""
    with Sorter(tmp_path) as spool:
        tally = Tally(SystemClock(), spool, RunIdentity("alpha", "20261123T120000Z-0000", NOON, NOON))
        tally.files = tally.bytes_read = tally.bytes_stored = tally.renewed = tally.problems = 2**63
        tally.reading(path.encode())
        tally.gathered, tally.sending = tally.counts(), 2**63
        line = messages.write(messages.progress(tally, Outlook(99, 8_640_000.123, beyond=True)))
    assert len(line) <= select.PIPE_BUF


def test_a_run_that_begins_again_is_followed_from_its_beginning(tmp_path: Path) -> None:
    """What was done before counts for nothing any more: the percentage, which never falls else, is nought again."""
    identity = RunIdentity("alpha", "20261123T120000Z-0000", NOON, None)
    last = Yardstick(Counts(100, 1000, 1000), 10.0)
    with Sorter(tmp_path) as problems, Sorter(tmp_path) as fresh:
        tally = Tally(SystemClock(), problems, identity)
        follow = messages.following(tally, last)
        tally.files, tally.bytes_read = 90, 900
        assert (follow().percent or 0) > 50
        tally.begin_again(RunIdentity("alpha", "20261123T120100Z-0001", NOON, None), fresh)
        assert follow().percent == 0
        tally.files, tally.bytes_read = 90, 900
        assert (follow().percent or 0) > 50
