"""What lies in the bucket: objects and versions, page by page."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sysbackup.config.settings import ARCHIVES
from sysbackup.store import answers
from sysbackup.store.addressing import Action
from sysbackup.store.answers import NoAnswer
from sysbackup.store.error_codes import NOT_IMPLEMENTED
from sysbackup.store.port import Version
from sysbackup.store.wire import Expected, Wire

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import (
        ListObjectsV2RequestTypeDef,
        ListObjectVersionsOutputTypeDef,
        ListObjectVersionsRequestTypeDef,
    )


def named(version: str | None) -> str | None:
    """A version id as we use it: None where the store gave none, or S3's "null" of a bucket without versions."""
    return None if version in (None, "", "null") else version


async def objects(wire: Wire, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
    """Current objects, as `ObjectStore.list` says."""
    params: ListObjectsV2RequestTypeDef = {"Bucket": wire.bucket, "Prefix": prefix}
    if after:
        params["StartAfter"] = after
    last, tokens = after, set[str]()

    async def send() -> tuple[list[Version], str | None]:
        page = await wire.client.list_objects_v2(**params)
        answers.of_bucket(wire.bucket, page.get("Name"))
        answers.echoes("prefix", prefix, page.get("Prefix"))
        found = [_version(entry, prefix, current=True) for entry in page.get("Contents", [])]
        _in_turn([last, *(version.key for version in found)])
        token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
        if page.get("IsTruncated"):
            answers.need("NextContinuationToken", token)
        if token in tokens:
            raise NoAnswer("a listing that does not move on")
        return found, token

    while True:
        page, token = await wire.make(Action("ListObjectsV2"), send)
        for version in page:
            yield version
        if token is None:
            return
        last = _behind(last, page, tokens)
        tokens.add(token)
        params["ContinuationToken"] = token


async def versions(wire: Wire, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
    """All versions, as `ObjectStore.versions` says."""
    params: ListObjectVersionsRequestTypeDef = {"Bucket": wire.bucket, "Prefix": prefix}
    if after:
        params["KeyMarker"] = after
    last, markers = after, set[tuple[str, str]]()

    async def send() -> tuple[list[Version], tuple[str, str] | None]:
        page = await wire.client.list_object_versions(**params)
        answers.of_bucket(wire.bucket, page.get("Name"))
        answers.echoes("prefix", prefix, page.get("Prefix"))
        answers.echoes("key to begin after", params.get("KeyMarker", ""), page.get("KeyMarker"))
        found = _in_order(page, prefix)
        _in_turn([last, *(version.key for version in found)])
        if not page.get("IsTruncated"):
            return found, None
        answers.need("NextKeyMarker", page.get("NextKeyMarker"))
        marker = page["NextKeyMarker"], page.get("NextVersionIdMarker", "")
        if marker in markers:
            raise NoAnswer("a listing that does not move on")
        return found, marker

    while True:
        try:
            page, marker = await wire.make(Action("ListObjectVersions"), send, expected=(NOT_IMPLEMENTED,))
        except Expected:
            async for found in objects(wire, prefix, after):
                yield found
            return
        # Ceph's gateway and moto begin with the marker's own key
        for version in (version for version in page if version.key > after):
            yield version
        if marker is None:
            return
        last = _behind(last, page, markers)
        markers.add(marker)
        _move_on(params, *marker)


def _behind(last: str, page: Sequence[Version], seen: set[Any]) -> str:
    """
    The last key of a page, `last` where it has none.

    Behind another key nothing that was `seen` before can come again: it would bring
    earlier keys, out of their turn. So what is remembered does not grow with the bucket.
    """
    if not page or page[-1].key == last:
        return last
    seen.clear()
    return page[-1].key


def _move_on(params: "ListObjectVersionsRequestTypeDef", key: str, version: str) -> None:
    params["KeyMarker"] = key
    params.pop("VersionIdMarker", None)
    if version:
        params["VersionIdMarker"] = version


def _in_order(page: "ListObjectVersionsOutputTypeDef", prefix: str) -> list[Version]:
    """One page's versions and delete markers, which botocore lists apart, by key and newest first."""
    stored = [_version(found, prefix) for found in page.get("Versions", [])]
    markers = [_version(found, prefix, marker=True) for found in page.get("DeleteMarkers", [])]
    return sorted([*markers, *stored], key=lambda v: (v.key, not v.latest, -v.modified.timestamp()))


def _version(found: Mapping[str, Any], prefix: str, *, current: bool = False, marker: bool = False) -> Version:
    """One entry of a listing; `NoAnswer` where it is not one of this listing."""
    key = found["Key"]
    if not key.startswith(prefix):
        raise NoAnswer(f"a key that was not asked for: {key[:100]!r}")
    return Version(
        key=key,
        version=None if current else named(found.get("VersionId")),
        size=0 if marker else found["Size"],
        etag="" if marker else found.get("ETag", "").strip('"'),
        modified=found["LastModified"].astimezone(UTC),
        latest=current or found["IsLatest"],
        marker=marker,
        archived=found.get("StorageClass") in ARCHIVES,
    )


def _in_turn(keys: Sequence[str]) -> None:
    """`NoAnswer` where keys do not come in order (of their bytes in UTF-8, as S3 has it)."""
    for earlier, later in pairwise(keys):
        if later.encode() < earlier.encode():
            raise NoAnswer(f"{later[:100]!r} listed after {earlier[:100]!r}; S3 lists keys by their bytes")
