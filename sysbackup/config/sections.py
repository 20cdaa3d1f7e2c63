"""
The settings of a configuration directory, typed, with their defaults and meaning.

Sizes are in bytes and durations in seconds here; in the file they take units
(`16 MiB`, `15 min`).
"""

import os
from pathlib import Path

from msgspec import Struct, field

from sysbackup.config.bandwidth import Bandwidth
from sysbackup.model import LockMode

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Aws(Struct, frozen=True, kw_only=True):
    """`[aws]`: who we are to AWS."""

    profile: str | None = None
    credentials_file: Path | None = None
    role_arn: str | None = None


class S3(Struct, frozen=True, kw_only=True):
    """`[s3]`: where the bucket is and how objects are written."""

    bucket: str | None = None
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: str = "auto"
    ca_bundle: Path | None = None
    storage_class: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None


class CloudFormation(Struct, frozen=True, kw_only=True):
    """`[cloudformation]`: where the bucket's name is exported, if `[s3] bucket` does not say it."""

    region: str | None = None
    export: str = "backup-bucket"


class Content(Struct, frozen=True, kw_only=True):
    """`[content]`: what is promised, and how contents are stored."""

    lock_timeout: float = 2.0
    days_retained: int = 14
    lock_mode: LockMode = LockMode.GOVERNANCE
    renewal_slack: float = 7 * DAY
    pack_below: int = MIB
    pack_size: int = 16 * MIB
    chunk_from: int = 32 * MIB
    chunk_size: int = 512 * KIB
    snapshot_chunk_from: int = MIB
    snapshot_chunk_size: int = 128 * KIB
    stream_pack_size: int = 256 * MIB
    host: str = field(default_factory=lambda: os.uname().nodename)
    share: tuple[str, ...] = ("*",)
    verify_shared: str = "first-use"


class Run(Struct, frozen=True, kw_only=True):
    """`[run]`: what one run may use, and how long it waits."""

    workers: int = field(default_factory=lambda: min(16, len(os.sched_getaffinity(0))))
    uploads: int = 16
    memory: int = 256 * MIB
    bandwidth: Bandwidth | None = None
    picker_idle_limit: float = 15 * MINUTE
    snapshot_idle_limit: float = 60 * MINUTE
    snapshots_at_once: int = 2
    give_up_after: float = 15 * MINUTE


class Daemon(Struct, frozen=True, kw_only=True):
    """`[daemon]`: when the daemon starts runs by itself, and what it expects of them."""

    schedule: str | None = None
    time_zone: str | None = None
    random_delay: float = 0.0
    stale_after: float = 36 * HOUR
    hook_limit: float = MINUTE


class Metrics(Struct, frozen=True, kw_only=True):
    """`[metrics]`: where Prometheus finds out how backups go."""

    listen: tuple[str, int] | None = None
    textfile: Path | None = None


class Prices(Struct, frozen=True, kw_only=True):
    """
    `[prices]`: what S3 charges for 1,000 requests, in US dollars.

    The defaults are Amazon's list prices of S3 Standard in us-east-1
    (https://aws.amazon.com/s3/pricing/, seen 2026-11).
    """

    write: float = 0.005
    read: float = 0.0004


class Config(Struct, frozen=True, kw_only=True):
    """
    All settings of one configuration directory, and where sysbackup keeps its own files.

    `cache` may be deleted at any time, `state` holds the history of runs,
    `runtime` what is of use only as long as the daemon runs.
    """

    directory: Path
    cache: Path
    state: Path
    runtime: Path
    aws: Aws = Aws()
    s3: S3 = S3()
    cloudformation: CloudFormation = CloudFormation()
    content: Content = field(default_factory=Content)
    run: Run = field(default_factory=Run)
    daemon: Daemon = Daemon()
    metrics: Metrics = Metrics()
    prices: Prices = Prices()

    @property
    def pickers(self) -> Path:
        """Where the pickers are."""
        return self.directory / "pickers.d"

    @property
    def snapshotters(self) -> Path:
        """Where the snapshotters are."""
        return self.directory / "snapshots.d"

    @property
    def hooks(self) -> Path:
        """Where the programs are that are told how runs went."""
        return self.directory / "hooks.d"
