"""
What an answer has to prove before it is believed.

A proxy, a load balancer or a portal answers 200 to whatever it is asked. What
follows checks raw answers before botocore reads them, and what it made of
them; `NoAnswer` is raised for one that proves nothing.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sysbackup.store.digests import md5_hex
from sysbackup.store.port import Body

if TYPE_CHECKING:
    from botocore.model import OperationModel
    from types_aiobotocore_s3.client import S3Client

# the root of each answer that has one (S3 API Reference), and an element by which an honest server shows
# itself that names the root otherwise (rclone: InitiateMultipartUpload); the other answers have no body
_FORMS = {
    "ListObjectsV2": ("ListBucketResult", "Name"),
    "ListObjectVersions": ("ListVersionsResult", "Name"),
    "CreateMultipartUpload": ("InitiateMultipartUploadResult", "UploadId"),
    "CompleteMultipartUpload": ("CompleteMultipartUploadResult", "ETag"),
    "GetObjectRetention": ("Retention", "RetainUntilDate"),
}
_ROOTS = frozenset(root for root, _ in _FORMS.values())
_BODILESS = ("PutObject", "UploadPart", "PutObjectRetention", "AbortMultipartUpload")

_PLAIN = re.compile(r"[\w./-]*", re.ASCII)

_REQUEST_IDS = ("x-amz-request-id", "x-amzn-requestid")


class NoAnswer(Exception):
    """What came back is not an answer to what was asked; `str()` says why."""


def guard(client: "S3Client") -> None:
    """Have each answer of `client` looked at before botocore reads it."""
    client.meta.events.register("before-parse.s3", _look)


def _look(operation_model: "OperationModel", response_dict: dict[str, Any], **_: object) -> None:
    """
    Refuse a success whose body is not of the operation's form.

    botocore reads what it finds and leaves out what it does not, so that an XHTML
    page passes for an empty listing. It has made 500 of a 200 with an error inside by now.
    """
    operation, body = operation_model.name, response_dict["body"]
    if response_dict["status_code"] >= 300 or operation_model.has_streaming_output:
        return
    if operation in _BODILESS and body.strip():
        raise NoAnswer(f"a body of {len(body)} bytes where none belongs")
    if operation == "AbortMultipartUpload" and response_dict["status_code"] != 204:
        need("a sign of S3", request_id(response_dict["headers"]))
    if form := _FORMS.get(operation):
        root, element = form
        try:
            found = ET.fromstring(body)  # noqa: S314 - expat bounds what entities may grow to
        except (ET.ParseError, ValueError, LookupError) as exc:
            raise NoAnswer(f"no XML: {exc}") from exc
        # the form of another operation is none of this one, whatever is in it
        strange = _name(found) in _ROOTS or all(_name(child) != element for child in found)
        if _name(found) != root and strange:
            raise NoAnswer(f"<{_name(found)[:40]}> instead of <{root}>")


def _name(element: ET.Element) -> str:
    """An element's name without its namespace, which servers choose or leave out."""
    return element.tag.rpartition("}")[2]


def need(what: str, value: Any) -> None:
    """`NoAnswer` where an answer lacks what each answer of its kind has."""
    if value is None or value == "":
        raise NoAnswer(f"{what} is missing")


def same(what: str, wanted: str | None, found: str | None) -> None:
    """`NoAnswer` where an answer names something other than what was asked for; naming nothing is no lie."""
    if found and wanted and found != wanted:
        raise NoAnswer(f"it is about another {what}: {found[:100]!r}")


def echoes(what: str, asked: str, found: str | None) -> None:
    """
    `NoAnswer` where a listing says that it was asked for something else; one that says nothing is no lie.

    Nothing is compared where servers differ in how they write it: RGW 16 gives a plus sign back as a space.
    """
    if found is not None and found != asked and _PLAIN.fullmatch(asked):
        raise NoAnswer(f"it is about another {what}: {found[:100]!r}")


def of_bucket(bucket: str, name: str | None) -> None:
    """
    `NoAnswer` where a listing is not one of `bucket`.

    RGW puts a tenant before the name; an access point may be listed under the bucket's own name.
    """
    need("Name", name)
    if not (bucket.startswith("arn:") or bucket.endswith("-s3alias")) and name:
        same("bucket", bucket, name.rpartition(":")[2].rpartition("/")[2])


def request_id(headers: Mapping[str, str]) -> str | None:
    """The id that S3 (and RGW, and moto) gives each request; nothing between invents one."""
    return next((headers[name] for name in _REQUEST_IDS if headers.get(name)), None)


def is_answered_by_s3(answer: Mapping[str, Any]) -> bool:
    """Whether an answer without other contents bears S3's request id."""
    return request_id(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})) is not None


async def stored(answer: Mapping[str, Any], body: Body, checksum: str, *, locked: bool) -> bool:
    """
    Whether the answer to a put or a part proves that the store has `body`, whose SHA-256 is `checksum`.

    False where it proves that there is something, but not what: under SSE-KMS an
    ETag is no MD5. `NoAnswer` for one that proves nothing, or the contrary.
    """
    etag, echoed = answer.get("ETag"), answer.get("ChecksumSHA256")
    need("ETag", (etag or "").strip('"'))
    if echoed:
        same("checksum", checksum, echoed)
    proven = bool(echoed) or (etag or "").strip('"') == await md5_hex(body)
    if locked and not proven:
        # a bucket with Object Lock has versions, and each of them a name; where only that is
        # missing, there may be a store without versions, or a proxy that drops headers: a listing tells
        version = answer.get("VersionId")
        need("the version id that a bucket with Object Lock gives", None if version == "null" else version)
    return proven
