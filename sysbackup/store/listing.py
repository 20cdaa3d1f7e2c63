"""What lies in the bucket: objects, versions, and a version equal to given bytes."""

from collections.abc import AsyncGenerator
from datetime import UTC
from typing import TYPE_CHECKING

from sysbackup.store.port import Version
from sysbackup.store.translating import NOT_IMPLEMENTED, Action
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
    while True:
        page = await wire.make(Action("ListObjectsV2"), lambda: wire.client.list_objects_v2(**params))
        for found in page.get("Contents", []):
            yield Version(
                key=found["Key"],
                version=None,
                size=found["Size"],
                etag=found.get("ETag", "").strip('"'),
                modified=found["LastModified"].astimezone(UTC),
            )
        if not page.get("IsTruncated") or "NextContinuationToken" not in page:
            return
        params["ContinuationToken"] = page["NextContinuationToken"]


async def versions(wire: Wire, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
    """All versions, as `ObjectStore.versions` says."""
    params: ListObjectVersionsRequestTypeDef = {"Bucket": wire.bucket, "Prefix": prefix}
    if after:
        params["KeyMarker"] = after
    while True:
        try:
            page = await wire.make(
                Action("ListObjectVersions"),
                lambda: wire.client.list_object_versions(**params),
                expected=(NOT_IMPLEMENTED,),
            )
        except Expected:
            async for found in objects(wire, prefix, after):
                yield found
            return
        for version in _in_order(page):
            # Ceph's gateway and moto begin with the marker's own key
            if version.key > after:
                yield version
        if not page.get("IsTruncated") or "NextKeyMarker" not in page:
            return
        params["KeyMarker"] = page["NextKeyMarker"]
        if marker := page.get("NextVersionIdMarker"):
            params["VersionIdMarker"] = marker
        else:
            params.pop("VersionIdMarker", None)


async def equals(wire: Wire, key: str, size: int, etag: str) -> AsyncGenerator[Version, None]:
    """The versions of exactly `key` that have this size and ETag, newest first."""
    async for found in versions(wire, key):
        if found.key != key:
            # keys come in order, and what only begins with `key` sorts after it
            return
        if not found.marker and found.size == size and found.etag == etag:
            yield found


def _in_order(page: "ListObjectVersionsOutputTypeDef") -> list[Version]:
    """One page's versions and delete markers, which botocore lists apart, by key and newest first."""
    stored = [
        Version(
            key=found["Key"],
            version=named(found.get("VersionId")),
            size=found["Size"],
            etag=found.get("ETag", "").strip('"'),
            modified=found["LastModified"].astimezone(UTC),
            latest=found["IsLatest"],
        )
        for found in page.get("Versions", [])
    ]
    markers = [
        Version(
            key=found["Key"],
            version=named(found.get("VersionId")),
            size=0,
            etag="",
            modified=found["LastModified"].astimezone(UTC),
            latest=found["IsLatest"],
            marker=True,
        )
        for found in page.get("DeleteMarkers", [])
    ]
    return sorted([*markers, *stored], key=lambda v: (v.key, not v.latest, -v.modified.timestamp()))
