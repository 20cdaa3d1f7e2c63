"""How far a run is, in words: in `systemctl status`, on the terminal and in `sysbackup status` alike."""

import pytest

from sysbackup.cli.display import doing
from sysbackup.service import status_text
from sysbackup.service.messages import Progress


def progress(**fields: object) -> Progress:
    return Progress(**({"stage": "backing up", "files": 1200, "bytes_read": 3 << 20, "bytes_stored": 1 << 20} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (progress(), "backing up"),
        (progress(percent=0), "backing up, 0 %"),
        (progress(percent=42, seconds_left=1.3), "backing up, 42 %, about 5 s left"),
        (progress(percent=42, seconds_left=31), "backing up, 42 %, about 40 s left"),
        (progress(percent=42, seconds_left=140.2), "backing up, 42 %, about 3 min left"),
        (progress(percent=42, seconds_left=3540.1), "backing up, 42 %, about 1 h left"),
        (progress(percent=42, seconds_left=7801), "backing up, 42 %, about 2 h 20 min left"),
        (progress(percent=42, seconds_left=200_000), "backing up, 42 %, about 2 d 8 h left"),
        (progress(percent=99, beyond=True), "backing up, 99 %, more than the last run held"),
        (progress(stage="finishing", percent=99, sending=1), "finishing, 99 %, 1 object still to be stored"),
        (progress(stage="finishing", sending=1200), "finishing, 1,200 objects still to be stored"),
        (progress(stage="writing the manifest", percent=99), "writing the manifest, 99 %"),
    ],
)
def test_how_far_a_run_is(said: Progress, text: str) -> None:
    """No more than is known."""
    assert status_text.stage(said) == text


def test_where_nothing_is_known_the_rate_is_said() -> None:
    """Counts and how fast they grow are all there is in a first run; later a percentage says it better."""
    first, later = progress(), progress(percent=42, seconds_left=140.2)
    assert doing(first, 10) == "backing up, 1,200 files, 3.0 MiB read, 1.0 MiB stored, 10.0 s, 307.2 KiB/s"
    assert doing(later, 10) == "backing up, 42 %, about 3 min left, 1,200 files, 3.0 MiB read, 1.0 MiB stored, 10.0 s"


@pytest.mark.parametrize(
    ("said", "seconds", "text"),
    [
        (progress(), 10, "307.2 KiB/s"),
        (progress(bytes_read=1200), 10, "120 files/s"),
        (progress(bytes_read=0, files=1), 10, "0.1 files/s"),
        (progress(), 0, "3 MiB/s"),
        (progress(), -5, "3 MiB/s"),
    ],
)
def test_a_rate_tells_of_what_the_run_does(said: Progress, seconds: float, text: str) -> None:
    """Bytes where it reads, files where it finds them unchanged; a clock that was set back divides by nothing."""
    assert status_text.rate(said, seconds) == text
