"""A daemon's moment in one sentence, for `systemctl status` and the log."""

from datetime import UTC, datetime

from sysbackup.service.status import Status
from sysbackup.units import duration_text, size_text


def sentence(status: Status, now: datetime) -> str:
    """`Backing up: 12,345 files, 1.4 GiB read …`, or `Waiting; …`."""
    if status.state == "stopping":
        return "Stopping"
    if (current := status.current) is not None:
        progress = current.progress
        text = f"{progress.stage.capitalize()}: {progress.files:,} files, {size_text(progress.bytes_read)} read"
        text += f", {size_text(progress.bytes_stored)} stored, {duration_text((now - current.started).total_seconds())}"
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


def _when(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
