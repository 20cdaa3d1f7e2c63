"""
docs/formats.rst is enough to write a reader from: here is one, of Python's own library alone, over the golden files.

Nothing of sysbackup is imported. What this reader knows it has from the
document; where it had to look elsewhere, the document would lack something.
"""

import base64
import gzip
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
DOCUMENT = ROOT / "docs" / "formats.rst"

# Names
HEX = "[0-9a-f]"
RUN = rf"[0-9]{{8}}T[0-9]{{6}}Z-{HEX}{{8}}"
NAME = "(?:[A-Za-z0-9._-]|%[0-9A-F]{2})+"
KEYS = {
    "content": rf"content/{HEX}{{64}}",
    "pack": rf"packs/{HEX}{{64}}",
    "moving": rf"snapshots/{NAME}/{RUN}-file-{HEX}{{32}}",
    "snapshot": rf"snapshots/{NAME}/{RUN}-{NAME}",
    "index": rf"index/{NAME}/{RUN}(?:\.[0-9]{{5,}})?\.jsonl\.gz",
    "manifest": rf"manifests/{NAME}/{RUN}{HEX}{{8}}\.jsonl\.gz",
}


class Bucket:
    """What S3 shows: bytes of a version by range, its metadata, keys."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {
            key: said
            for name in ("bucket.json", "bucket-2.json")
            for key, said in json.loads((GOLDEN / name).read_bytes()).items()
        }

    def get(self, key: str, version: str | None, start: int = 0, length: int | None = None) -> bytes:
        """A ranged GET."""
        assert self.known[key]["version"] == version
        body = (GOLDEN / "bucket" / key).read_bytes()
        return body[start:] if length is None else body[start : start + length]

    def keys(self, prefix: str) -> list[str]:
        """A listing."""
        return sorted(key for key in self.known if key.startswith(prefix))

    def metadata(self, key: str) -> dict[str, str]:
        """What a HEAD tells."""
        found: dict[str, str] = self.known[key]["metadata"]
        return found


class Manifest:
    """A manifest that is whole."""

    def __init__(self, key: str, body: bytes) -> None:
        text = gzip.decompress(body)
        assert text.endswith(b"\n")
        self.header, *self.entries, self.end = [json.loads(line) for line in text[:-1].split(b"\n")]
        assert (self.header["typ"], self.end["typ"]) == ("run", "end")
        assert self.header["format"] in (1, 2)
        if self.header["format"] == 2:
            self.entries = [entry for entry in self.entries if entry["typ"] not in "mt"]
        _, host, run = key.removesuffix(".jsonl.gz").split("/")
        assert (self.header["host"], self.header["run"]) == (unquote(host), run)
        assert {entry["typ"] for entry in self.entries} <= set("fldpcbs") | {"log"}

    def of(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The entries of some kinds."""
        return (entry for entry in self.entries if entry["typ"] in kinds)


def path_of(entry: dict[str, Any]) -> bytes:
    """The path of an entry, as the kernel knows it."""
    return base64.b64decode(entry["pathb"], validate=True) if "pathb" in entry else entry["path"].encode()


def one_member(packed: bytes) -> bytes:
    """What is in one gzip member, with nothing behind it."""
    unpacker = zlib.decompressobj(31)
    content = unpacker.decompress(packed)
    assert unpacker.eof
    assert not unpacker.unused_data
    return content


def content_of(bucket: Bucket, entry: dict[str, Any]) -> bytes:
    """A file's content, read from the bucket and checked."""
    content = b""
    if "dat" in entry:
        packed = bucket.get(entry["dat"], entry.get("ver"), entry.get("off", 0), entry.get("len"))
        content = one_member(packed) if entry.get("enc") == "gzip" or "off" in entry else packed
    assert len(content) == entry.get("sz", 0)
    assert hashlib.sha256(content).hexdigest() == entry["sha"]
    return content


def last_line(tail: bytes) -> Any:
    """A manifest's last line, from the object's last bytes alone."""
    return last_lines(tail)[-1]


def last_lines(tail: bytes) -> list[Any]:
    """What is in a manifest's last member."""
    at = len(tail)
    while (at := tail.rfind(b"\x1f\x8b\x08", 0, at)) >= 0:
        unpacker = zlib.decompressobj(31)
        try:
            text = unpacker.decompress(tail[at:])
        except zlib.error:
            continue
        if unpacker.eof and not unpacker.unused_data:
            return [json.loads(line) for line in text.splitlines()]
    return [None]


class Table:
    """The way to a path in a manifest of format 2, by ranged reads alone."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        tail = read(max(0, size - 4096), min(size, 4096))
        root, self.end = last_lines(tail)
        assert (root["typ"], root["format"]) == ("t", 2)
        self.of = root["host"], root["run"]
        self._read = read
        self._root = root

    def rows(self, row: dict[str, Any]) -> list[Any]:
        """The lines of the member to which a row leads."""
        packed = self._read(row["off"], row["len"])
        assert hashlib.sha256(packed).hexdigest() == row["sha"]
        lines = [json.loads(line) for line in one_member(packed).splitlines()]
        assert len(lines) == row.get("n", len(lines))
        return lines

    def lines(self, place: tuple[int, bytes]) -> list[dict[str, Any]]:
        """The lines of the last member that begins at this place, or before it."""
        row, level = self._root, self._root["lvl"]
        while level >= 0:
            rows = self.rows(row)
            assert {found.get("lvl", 0) for found in rows} == {level}
            assert not any("dat" in found for found in rows)
            row = [found for found in rows if self.place(found) <= place][-1]
            level -= 1
        return self.rows(row)

    @staticmethod
    def place(row: dict[str, Any]) -> tuple[int, bytes]:
        first = base64.b64decode(row["firstb"]) if "firstb" in row else row.get("first", "").encode()
        return ["", "s", "log"].index(row.get("of", "")), first


def text_of(value: str) -> str:
    """The text that a snapshot's metadata hold."""
    return unquote(value.removeprefix("UTF-8''")) if value.startswith("UTF-8''") else value


@pytest.fixture(scope="module")
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture(scope="module")
def manifest(bucket: Bucket) -> Manifest:
    (key,) = bucket.keys("manifests/alpha/")
    return Manifest(key, bucket.get(key, bucket.known[key]["version"]))


def test_keys(bucket: Bucket) -> None:
    """Every key is of one of the forms that the document has."""
    kinds = {next((k for k, form in KEYS.items() if re.fullmatch(form, key)), key) for key in bucket.known}
    assert kinds == KEYS.keys()


def test_all_files_come_back(bucket: Bucket, manifest: Manifest) -> None:
    """Each content by its range, from packs, as gzip, as it is, and of a moving file; each has its hash."""
    contents = {path_of(entry): content_of(bucket, entry) for entry in manifest.of("f")}
    assert contents[b"/etc/empty"] == b""
    assert contents[b"/etc/hosts"] == contents[b"/etc/hosts.copy"]
    assert contents[b"/etc/hosts"].startswith(b"127.0.0.1 localhost\n")
    assert contents[b"/srv/journal"] == b"all is well\n" * 90_000
    assert contents[b"/srv/sudo"] == contents[b"/srv/sudoedit"] == b"two names, one inode\n" * 3
    assert contents[b"/var/log/busy"] == b"it never held still\n"
    assert {path: len(content) for path, content in contents.items()} == {
        b"/etc/empty": 0,
        b"/etc/hosts": 140,
        b"/etc/hosts.copy": 140,
        b"/srv/a\tb": 300,
        b"/srv/alone": 500,
        b"/srv/caf\xe9": 70_000,
        b"/srv/journal": 1_080_000,
        b"/srv/sudo": 63,
        b"/srv/sudoedit": 63,
        b"/var/log/busy": 20,
    }


def test_a_bucket_without_versions_or_locks(bucket: Bucket) -> None:
    """Its manifest promises nothing, and its entries name no version."""
    (key,) = bucket.keys("manifests/beta/")
    found = Manifest(key, bucket.get(key, None))
    assert (found.header["lock"], found.header["promise"]) == ("none", found.header["started"])
    assert [content_of(bucket, entry) for entry in found.of("f")] == [b"this is beta's\n" * 5]


def test_what_a_manifest_says(manifest: Manifest) -> None:
    """Order, names that are not UTF-8, hard links, devices, what is left out for being the default, and the sums."""
    nodes = [*manifest.of(*"fldpcb")]
    paths = [path_of(entry) for entry in nodes]
    assert paths == sorted(set(paths))
    by_path = dict(zip(paths, nodes, strict=True))
    link = by_path["/srv/link to café".encode()]
    assert base64.b64decode(link["tgtb"]) == b"caf\xe9"
    assert by_path[b"/srv/sudo"]["id"] == by_path[b"/srv/sudoedit"]["id"]
    assert (by_path[b"/srv/sudo"]["mode"], by_path[b"/srv/sudo"]["sb"]) == (0o4755, "s--")
    assert base64.b64decode(by_path[b"/srv/sudo"]["x"]["user.comment"]) == "grüße".encode()
    disk = by_path[b"/dev/sda"]
    assert (disk["typ"], disk.get("major", 0), disk.get("minor", 0)) == ("b", 8, 0)
    counted = [*nodes, *manifest.of("s")]
    assert manifest.end["counts"] == {
        kind: sum(entry["typ"] == kind for entry in counted) for kind in {entry["typ"] for entry in counted}
    }
    assert manifest.end["bytes"] == sum(entry.get("sz", 0) for entry in counted)
    assert manifest.end["problems"] == sum(entry["event"] != "file.vanished" for entry in manifest.of("log"))


def test_the_last_line_alone(bucket: Bucket, manifest: Manifest) -> None:
    """It is had from the object's end, without the rest."""
    (key,) = bucket.keys("manifests/alpha/")
    body = bucket.get(key, bucket.known[key]["version"])
    assert last_line(body[-100:]) == last_line(body[-4096:]) == manifest.end


def test_format_2(bucket: Bucket, manifest: Manifest) -> None:
    """Read whole it has the same lines; each of them is found by the table, and so is the snapshot."""
    (key,) = bucket.keys("manifests/gamma/")
    body = bucket.get(key, bucket.known[key]["version"])
    found = Manifest(key, body)
    assert found.entries == manifest.entries
    table = Table(lambda start, length: body[start : start + length], len(body))
    assert table.of == (found.header["host"], found.header["run"])
    assert table.end == found.end
    for entry in found.of(*"fldpcb"):
        assert entry in table.lines((0, path_of(entry)))
    assert [*found.of("s")] == table.lines((1, b""))
    assert [*found.of("log")] == table.lines((2, b""))


def test_snapshots(bucket: Bucket, manifest: Manifest) -> None:
    """The data as they were written; their metadata say the same as the manifest."""
    (entry,) = manifest.of("s")
    data = bucket.get(entry["dat"], entry["ver"])
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["sz"], entry["sha"])
    said = {name: text_of(value) for name, value in bucket.metadata(entry["dat"]).items()}
    assert said == {"backup-output": entry["description"], "restore-through": entry["restore"]}
    assert unquote(entry["dat"].rsplit("/", 1)[1]).endswith("-" + entry["name"])


def test_packs(bucket: Bucket) -> None:
    """Named by their hash; their own list is enough to find every content; the whole is gzip, too."""
    (key,) = bucket.keys("packs/")
    version, begin = bucket.known[key]["version"], int(bucket.metadata(key)["pack-index"])
    body = bucket.get(key, version)
    assert key == f"packs/{hashlib.sha256(body).hexdigest()}"
    rows = [json.loads(line) for line in one_member(bucket.get(key, version, begin)).splitlines()]
    contents = [one_member(bucket.get(key, version, offset, length)) for _, offset, length, _ in rows]
    assert [(hashlib.sha256(c).hexdigest(), len(c)) for c in contents] == [(sha, size) for sha, _, _, size in rows]
    assert gzip.decompress(body[:begin]) == b"".join(contents)
    assert len(rows) == 4


def test_content_objects(bucket: Bucket) -> None:
    """Named by the hash of the content, whether they are stored as gzip or not."""
    found = set()
    for key in bucket.keys("content/"):
        encoding = bucket.metadata(key).get("storage-encoding")
        found.add(encoding)
        body = bucket.get(key, bucket.known[key]["version"])
        content = one_member(body) if encoding == "gzip" else body
        assert key == f"content/{hashlib.sha256(content).hexdigest()}"
    assert found == {None, "gzip"}


def test_indexes(bucket: Bucket) -> None:
    """Each line names an object with its lock and its contents; the lines of its own word bear the host's seal."""
    key = (GOLDEN / "host.key").read_bytes()
    sealed, told = [], []
    for name in bucket.keys("index/alpha/"):
        text = gzip.decompress(bucket.get(name, bucket.known[name]["version"]))
        header, *lines = text.splitlines()
        assert json.loads(header) == {"typ": "index", "format": 1, "host": "alpha", "run": "20261123T041500Z-a1003fa9"}
        for line in lines:
            entry = json.loads(line)
            if "mac" not in entry:
                told.append(entry)
                continue
            bare = line.replace(b',"mac":"%s"' % entry["mac"].encode(), b"")
            message = b"alpha\0" + b"bucket at AWS\0" + bare
            assert hmac.new(key, message, hashlib.sha256).hexdigest() == entry["mac"]
            sealed.append(entry)
    assert [entry["of"] for entry in told] == ["beta"]
    assert len(sealed) == 3
    for entry in sealed:
        body = bucket.get(entry["key"], entry["ver"])
        assert (len(body), entry["mode"]) == (entry["sz"], bucket.known[entry["key"]]["mode"])
        for sha, offset, length, size in entry["contents"]:
            packed = body[offset : offset + length] if length else body
            content = one_member(packed) if entry.get("enc") == "gzip" else packed
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha, size)


def lines() -> Iterator[Any]:
    """All JSON objects that the golden files hold."""
    for name in [*GOLDEN.glob("bucket/manifests/*/*"), *GOLDEN.glob("bucket/index/*/*")]:
        yield from map(json.loads, gzip.decompress(name.read_bytes()).splitlines())
    for name in [GOLDEN / "history.jsonl", GOLDEN / "running.json", *GOLDEN.glob("status-*.json")]:
        yield from map(json.loads, name.read_bytes().splitlines())


def fields(said: Any) -> set[str]:
    """The names of all fields in an object and in those in it, but for tables whose names are data."""
    if isinstance(said, list):
        return set().union(*map(fields, said))
    if not isinstance(said, dict):
        return set()
    within = [value for name, value in said.items() if name not in ("x", "counts", "entries", "requests")]
    return set(said).union(*map(fields, within))


def test_every_field_is_described() -> None:
    """There is nothing in a golden file that the document does not name."""
    text = DOCUMENT.read_text()
    found = set().union(*map(fields, lines()))
    assert len(found) > 80
    assert {name for name in found if f"``{name}``" not in text} == set()


AWS = f"""\
#!{sys.executable}
# aws s3api, as far as the example in the document needs it, over the golden bucket
import json, shutil, sys
from pathlib import Path

golden = Path({str(GOLDEN)!r})
known = json.loads((golden / "bucket.json").read_bytes()) | json.loads((golden / "bucket-2.json").read_bytes())
api, command, *rest = sys.argv[1:]
output = rest.pop() if len(rest) % 2 else None
given = dict(zip(rest[::2], rest[1::2], strict=True))
assert (api, given.pop("--bucket")) == ("s3api", "my-backups")
if command == "list-object-versions":
    for key, said in known.items():
        if key.startswith(given["--prefix"]):
            print(key, said["version"], sep="\\t")
else:
    assert command == "get-object"
    key = given["--key"]
    assert known[key]["version"] == given["--version-id"]
    body = (golden / "bucket" / key).read_bytes()
    first, last = given.get("--range", f"bytes=0-{{len(body) - 1}}").removeprefix("bytes=").split("-")
    Path(output).write_bytes(body[int(first) : int(last) + 1])
"""


def example() -> str:
    """All shell commands of the document's worked example, as they stand there."""
    section = DOCUMENT.read_text().split("\nA worked example\n", 1)[1].split("\nOn the machine\n", 1)[0]
    blocks = re.findall(r"\n\.\. code-block:: sh\n\n((?:    .*\n|\n)+)", section)
    assert len(blocks) == 3
    return "".join(map(textwrap.dedent, blocks))


def test_the_worked_example_works(tmp_path: Path) -> None:
    """Its commands, run as they stand there, find the newest manifest and bring the file back, with its hash."""
    (tmp_path / "bin").mkdir()
    aws = tmp_path / "bin" / "aws"
    aws.write_text(AWS)
    aws.chmod(0o755)
    path = f"{aws.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example()],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "manifests/alpha/20261123T041500Z-a1003fa95c0e77d2.jsonl.gz\tdff2d6f3" in done.stdout
    assert done.stdout.endswith("hosts: OK\n")
    assert (tmp_path / "hosts").read_bytes().splitlines()[-1] == b"10.0.0.8 node8"
