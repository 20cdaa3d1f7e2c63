"""A daemon's moment in one sentence, for `systemctl status` and the log; how far a run is, for everybody."""

from datetime import UTC, datetime
from math import ceil

from sysbackup.config.units import duration_text, size_text
from sysbackup.service.messages import Progress
from sysbackup.service.status_file import Status


def sentence(status: Status, now: datetime) -> str:
    """`Backing up: 12,345 files, 1.4 GiB read …`, or `Waiting; …`."""
    if status.state == "stopping":
        return "Stopping"
    if (current := status.current) is not None:
        progress = current.progress
        passed = (now - current.started).total_seconds()
        text = f"{stage(progress).capitalize()}: {progress.files:,} files, {size_text(progress.bytes_read)} read"
        text += f", {size_text(progress.bytes_stored)} stored, {duration_text(passed)}"
        if progress.percent is None and progress.files:
            text += f", {rate(progress, passed)}"
        if progress.problems:
            text += f", {progress.problems:,} problems"
        return text + ("; one more run after this" if status.asked else "")
    parts = ["Waiting"]
    if status.last is None:
        parts.append("no run yet")
    else:
        parts.append(f"last run {status.last.outcome} at {_when(status.last.finished)}")
    if status.next is not None:
        parts.append(f"next at {_when(status.next)}")
    if status.refused:
        parts.append("the configuration has mistakes, the one from before is in force")
    return "; ".join(parts)


def stage(progress: Progress) -> str:
    """What a run does now and how far it is: `backing up, 42 %, about 3 min left`."""
    parts = [progress.stage]
    if progress.percent is not None:
        parts.append(f"{progress.percent} %")
    if progress.sending:
        parts.append(f"{progress.sending:,} object{'s' if progress.sending > 1 else ''} still to be stored")
    elif progress.beyond:
        parts.append("more than the last run held")
    elif progress.seconds_left is not None:
        parts.append(f"about {_about(progress.seconds_left)} left")
    return ", ".join(parts)


def rate(progress: Progress, seconds: float) -> str:
    """How fast a run of so many seconds has been: `12.3 MiB/s`, or `1,300 files/s` where hardly anything is read."""
    seconds = max(seconds, 1.0)  # of a moment nothing can be told
    if progress.bytes_read >= _HARDLY * progress.files:
        return f"{size_text(round(progress.bytes_read / seconds))}/s"
    files = progress.files / seconds
    return f"{files:,.{0 if files >= 10 else 1}f} files/s"


def _about(seconds: float) -> str:
    """Rounded up to what changes now and then, not each second."""
    step = next((step for least, step in _STEPS if seconds > least), 5)
    return duration_text(max(step, ceil(seconds / step) * step))


_STEPS = ((86400, 3600), (7200, 600), (90, 60), (30, 10))
"""Above so many seconds, rounded to so many."""


_HARDLY = 1024
"""Bytes read for each file: below that, files say more of what a run does."""


def _when(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
