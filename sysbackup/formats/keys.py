"""
Names of objects in the bucket.

===========================================  ==========================================
``content/<sha256 of the content>``          one content, or its gzip
``packs/<sha256 of the body>``               many small contents
``packs/<32 digits, drawn>``                 chunks of large contents, sent while it fills
``snapshots/<host>/<run>-<program>``         what a snapshotter wrote
``index/<host>/<run>.jsonl.gz``              what the run stored or renewed
``index/<host>/<run>.<n>.jsonl.gz``          the same, published while a long run goes on
``manifests/<host>/<full name>.jsonl.gz``    how to put the machine back together
===========================================  ==========================================

Every key is written once. `<run>` is the run's working name, which these keys
show while it goes on. Nobody knows its full name, and with it the manifest's
key, before the manifest is written (`model.full_name`). `<host>` and `<program>` are percent-encoded but for
letters, digits and ``._-``, so that no name can reach into another prefix.
"""

from urllib.parse import quote, unquote

ENCODING = "storage-encoding"  # metadata of a content object; the value is "gzip" (as in s3-sysbackup 0.2.0)
PACK_INDEX = "pack-index"  # metadata of a pack: the offset of its list
DESCRIPTION = "backup-output"  # metadata of a snapshot: what the snapshotter said on standard output
RESTORE = "restore-through"  # metadata of a snapshot: the command that takes the data back

MANIFEST_END = ".jsonl.gz"


def _safe(name: str | bytes) -> str:
    text = quote(name, safe="")
    # '.' and '..' are no file names anywhere; quote() leaves dots (and '~') alone
    return text.replace(".", "%2E") if text.strip(".") == "" else text.replace("~", "%7E")


def content_key(sha: bytes) -> str:
    """The key of a content stored alone; `sha` is the 32-byte digest of the content itself."""
    return f"content/{sha.hex()}"


def pack_key(sha: bytes) -> str:
    """The key of a pack; `sha` is the 32-byte digest of its whole body."""
    return f"packs/{sha.hex()}"


def stream_pack_key(drawn: bytes) -> str:
    """The key of a pack that is sent while it fills; `drawn` are 16 random bytes."""
    return f"packs/{drawn.hex()}"


def snapshot_key(host: str, run: str, program: bytes) -> str:
    """The key of what one snapshotter wrote in one run."""
    return f"snapshots/{_safe(host)}/{run}-{_safe(program)}"


def manifest_key(host: str, run: str) -> str:
    """The key of one run's manifest."""
    return f"{manifest_prefix(host)}{run}{MANIFEST_END}"


def manifest_prefix(host: str | None = None) -> str:
    """What the manifests of one host, or of all, begin with."""
    return "manifests/" if host is None else f"manifests/{_safe(host)}/"


def index_key(host: str, run: str, number: int | None = None) -> str:
    """The key of what one run publishes; `number` counts what it publishes before its end, from 1."""
    part = "" if number is None else f".{number:05}"
    return f"{index_prefix(host)}{run}{part}{MANIFEST_END}"


def index_prefix(host: str | None = None) -> str:
    """What the indexes of one host, or of all, begin with."""
    return "index/" if host is None else f"index/{_safe(host)}/"


def index_host(key: str) -> str | None:
    """Whose index a key names; None where it names none."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != "index" or not parts[2].endswith(MANIFEST_END):
        return None
    return unquote(parts[1])


def content_sha(key: str) -> bytes | None:
    """The digest that the key of a content object names; None where it is no such key."""
    return _digest(key, "content/")


def pack_sha(key: str) -> bytes | None:
    """The digest that the key of a pack names; None where it is no such key."""
    return _digest(key, "packs/")


def is_stream_pack(key: str) -> bool:
    """Whether a key is that of a pack that was sent while it filled."""
    return _digest(key, "packs/", 16) is not None


def is_pack(key: str) -> bool:
    """Whether a key is that of a pack of either kind."""
    return pack_sha(key) is not None or is_stream_pack(key)


def possible(key: str, version: str | None) -> bool:
    """
    Whether an object of ours could lie there.

    S3 takes keys, and gives version ids, of up to 1,024 bytes (User Guide, "Naming Amazon S3 objects" and "How S3
    Versioning works"). A key of ours has no step that a proxy on the way could resolve.
    """
    if not key.isprintable() or any(step in ("", ".", "..") for step in key.split("/")):
        return False
    if version is not None and (not version.isprintable() or " " in version):
        return False
    return len(key.encode()) <= 1024 and len((version or "").encode()) <= 1024


def _digest(key: str, prefix: str, size: int = 32) -> bytes | None:
    name = key.removeprefix(prefix)
    if name == key or len(name) != 2 * size or not set(name) <= set("0123456789abcdef"):
        return None
    return bytes.fromhex(name)


def manifest_parts(key: str) -> tuple[str, str] | None:
    """(host, run) of a manifest's key; None where it is no such key."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] != "manifests" or not parts[2].endswith(MANIFEST_END):
        return None
    host, run = unquote(parts[1]), parts[2].removesuffix(MANIFEST_END)
    # One key for each: what `%61lpha` says of itself must not be taken for alpha's word.
    return (host, run) if manifest_key(host, run) == key else None
