"""
Every setting of `conf`: where it stands, what it means, what it may be.

The one table (`SETTINGS`) is what the file is read with, what mistakes are
explained with, and what `sysbackup check-config` prints. Defaults are those of
the structs in `config`.
"""

from dataclasses import dataclass

from sysbackup.config.bandwidth import Rates
from sysbackup.config.kinds import (
    Address,
    FilePath,
    Hosts,
    Integer,
    Kind,
    OneOf,
    Price,
    Schedule,
    Text,
    Url,
    Zone,
    byte_count,
    seconds,
)
from sysbackup.config.sections import DAY, GIB, HOUR, KIB, MIB
from sysbackup.model import LockMode


@dataclass(frozen=True, slots=True)
class Setting:
    """One line that `conf` may have. `unset` says what holds where the default is nothing."""

    section: str
    name: str
    kind: Kind
    meaning: str
    unset: str = "not set"

    @property
    def label(self) -> str:
        """`[content] days_retained`."""
        return f"[{self.section}] {self.name}"


_REGION = Text("a region's name such as eu-central-1", r"[A-Za-z0-9][A-Za-z0-9_-]*")
_BUCKET = Text(
    "a bucket's bare name such as my-backups, without s3:// and without a path, or an access point's ARN",
    r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]|arn:[^:\s]+:s3[a-z-]*:[^\s]+",
)
_ROLE = Text("a role's ARN such as arn:aws:iam::123456789012:role/backup", r"arn:[^:\s]+:iam::[^:\s]*:role/\S+")
_HOST = Text("letters, digits, dots, dashes and underscores, at most 255", r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")

STORAGE_CLASSES = ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY")
"""S3's classes whose objects can be read at once. Other stores have classes of their own."""

ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
"""Those whose objects cannot: not even a manifest could be listed."""

SETTINGS: tuple[Setting, ...] = (
    Setting("aws", "profile", Text("a profile's name"), "the profile to use", "the SDK's default"),
    Setting(
        "aws",
        "credentials_file",
        FilePath(),
        "an AWS credentials file, used alone instead of the SDK's usual places",
        "the SDK's usual places",
    ),
    Setting("aws", "role_arn", _ROLE, "a role to assume; only with credentials_file", "none is assumed"),
    Setting("s3", "bucket", _BUCKET, "the bucket to store in", "looked up in CloudFormation's exports"),
    Setting("s3", "endpoint_url", Url(), "the store, where it is not AWS S3", "AWS S3"),
    Setting("s3", "region", _REGION, "the bucket's region", "that of the profile or environment"),
    Setting("s3", "addressing_style", OneOf(("auto", "path", "virtual")), "where the bucket stands in a URL"),
    Setting(
        "s3",
        "ca_bundle",
        FilePath(
            "an absolute path of certificates in PEM form; $CREDENTIALS_DIRECTORY or %d is where systemd puts them"
        ),
        "the authorities whose certificates are trusted, of the store and of AWS, instead of the usual ones",
        "AWS_CA_BUNDLE, or those that come with Python's certifi",
    ),
    Setting(
        "s3",
        "storage_class",
        Text("a storage class in capitals", r"[A-Z][A-Z0-9_]*"),
        "the storage class of what is stored",
        "the bucket's default",
    ),
    Setting(
        "s3",
        "sse",
        OneOf(("AES256", "aws:kms", "aws:kms:dsse")),
        "server-side encryption to ask for",
        "the bucket's default",
    ),
    Setting(
        "s3",
        "sse_kms_key_id",
        Text("a KMS key's id, alias or ARN", r"\S+"),
        "the key for sse = aws:kms",
        "the account's default key",
    ),
    Setting(
        "cloudformation", "region", _REGION, "where the stack is that exports the bucket's name", "the profile's region"
    ),
    Setting(
        "cloudformation", "export", Text("an export's name", r"[A-Za-z0-9:-]+"), "the export that names the bucket"
    ),
    Setting(
        "content", "lock_timeout", seconds(0, HOUR), "how long to wait for an advisory lock on a file before reading"
    ),
    Setting("content", "days_retained", Integer(1, 36500), "for how many days a backup cannot be changed or deleted"),
    Setting(
        "content",
        "lock_mode",
        OneOf(tuple(LockMode)),
        "how firmly: GOVERNANCE can be lifted with a special right, COMPLIANCE by nobody, none promises nothing",
    ),
    Setting(
        "content",
        "renewal_slack",
        seconds(0, 366 * DAY, "d"),
        "how much longer than promised contents are locked, so that later runs seldom renew locks",
    ),
    Setting(
        "content",
        "pack_below",
        byte_count(0, 32 * MIB),
        "contents smaller than this are packed together; 0 packs nothing",
    ),
    Setting("content", "pack_size", byte_count(64 * KIB, GIB), "how large a pack grows"),
    Setting(
        "content",
        "chunk_from",
        byte_count(8 * MIB, 32 * MIB),
        "files larger than this are cut into chunks, each of which is stored once",
    ),
    Setting("content", "chunk_size", byte_count(16 * KIB, MIB), "how large the chunks of files are on average"),
    Setting(
        "content",
        "snapshot_chunk_from",
        byte_count(0, 32 * MIB),
        "snapshots larger than this are cut, too; shorter ones are stored as they are",
    ),
    Setting("content", "snapshot_chunk_size", byte_count(16 * KIB, MIB), "how large their chunks are on average"),
    Setting("content", "stream_pack_size", byte_count(MIB, GIB), "how large a pack of chunks grows"),
    Setting("content", "host", _HOST, "this machine's name in the bucket"),
    Setting("content", "share", Hosts(), "the hosts whose stored contents may be reused"),
    Setting(
        "content",
        "verify_shared",
        OneOf(("off", "first-use", "sample")),
        "whether what was learnt of others' contents is fetched once and compared before it is relied on; where"
        " s3:GetObject is not granted, it is stored again instead",
    ),
    Setting("run", "workers", Integer(1, 64), "processes that read, hash and compress"),
    Setting("run", "uploads", Integer(1, 1000), "uploads at once"),
    Setting(
        "run",
        "memory",
        byte_count(64 * MIB, 1024 * GIB),
        "about what a run uses of memory, its workers' own aside; half of it for bytes between disk and store",
    ),
    Setting(
        "run",
        "bandwidth",
        Rates(),
        "bytes a second that go to the store and come from it, together, at most; windows are in [daemon] time_zone",
        "no limit",
    ),
    Setting("run", "picker_idle_limit", seconds(1, 7 * DAY, "min"), "for how long a picker may be silent"),
    Setting("run", "snapshot_idle_limit", seconds(1, 7 * DAY, "min"), "for how long a snapshotter may be silent"),
    Setting("run", "snapshots_at_once", Integer(1, 100), "snapshotters that run at the same time"),
    Setting("run", "give_up_after", seconds(1, 7 * DAY, "min"), "for how long a store that does not answer is tried"),
    Setting("daemon", "schedule", Schedule(), "when the daemon starts runs by itself", "it waits to be triggered"),
    Setting(
        "daemon",
        "time_zone",
        Zone(),
        "the time zone of the schedule, and of the windows of [run] bandwidth",
        "the system's",
    ),
    Setting(
        "daemon", "random_delay", seconds(0, DAY, "min"), "the most by which a scheduled run is put off, by chance"
    ),
    Setting(
        "daemon",
        "stale_after",
        seconds(60, 366 * DAY, "h"),
        "how long ago the last complete backup may have ended before sysbackup status calls it stale",
    ),
    Setting("daemon", "hook_limit", seconds(1, HOUR), "for how long a hook may run"),
    Setting("metrics", "listen", Address(), "where the daemon serves Prometheus metrics over HTTP", "it does not"),
    Setting(
        "metrics",
        "textfile",
        FilePath("an absolute path, ending in .prom for node_exporter"),
        "the file that metrics are written to after each run",
        "none is written",
    ),
    Setting("prices", "write", Price(), "US dollars for 1,000 requests that write or list"),
    Setting("prices", "read", Price(), "US dollars for 1,000 requests that read"),
)

SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
