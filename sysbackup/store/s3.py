"""A bucket on S3, or on a server that speaks its protocol."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sysbackup.config import sections
from sysbackup.errors import StoreError
from sysbackup.model import Lock, LockMode
from sysbackup.store import answers, downloading, listing
from sysbackup.store.accounting import Requests
from sysbackup.store.adapter import Joining, Taken, Told
from sysbackup.store.addressing import Action
from sysbackup.store.bodies import for_botocore
from sysbackup.store.digests import base64_of, md5_hex, sha256_of
from sysbackup.store.error_codes import PRECONDITION_FAILED
from sysbackup.store.locking import Locks, lock_in, mode_for_s3
from sysbackup.store.matching import make_sure
from sysbackup.store.port import NO_METADATA, Body, Limits, ObjectInfo, Version
from sysbackup.store.uploading import S3Upload
from sysbackup.store.wire import Expected, Wire

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import (
        CreateMultipartUploadRequestTypeDef,
        PutObjectRequestTypeDef,
    )

# User Guide, "Amazon S3 multipart upload limits"; a part has 5 GiB at the most, an object 48.8 TiB
LIMITS = Limits(least_part=5 << 20, most_parts=10_000)


class S3Adapter:
    """
    `adapter.Adapter` over an aiobotocore client, which must try each request once (`wire`'s requester tries again).

    The client stays the caller's to close, and serves this adapter alone; its requests are counted in `requests`.
    """

    def __init__(self, wire: Wire, settings: sections.S3, requests: Requests) -> None:
        answers.guard(wire.client)
        self._wire = wire
        self._locks = Locks(wire)
        self._settings = settings
        self._requests = requests

    @property
    def bucket(self) -> str:
        return self._wire.bucket

    @property
    def place(self) -> str:
        return str(self._wire.place)

    @property
    def limits(self) -> Limits:
        return LIMITS

    @property
    def requests(self) -> Requests:
        return self._requests

    async def check(self) -> None:
        wire = self._wire

        async def send() -> None:
            page = await wire.client.list_objects_v2(Bucket=wire.bucket, MaxKeys=1)
            answers.of_bucket(wire.bucket, page.get("Name"))

        await wire.make(Action("ListObjectsV2"), send)

    async def put(
        self,
        key: str,
        body: Body,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
        sha256: bytes | None = None,
    ) -> Told:
        params: PutObjectRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": key,
            "Body": for_botocore(body),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64_of(sha256 or await sha256_of(body)),
        }
        self._dress(params, lock, metadata)
        if once:
            params["IfNoneMatch"] = "*"

        async def send() -> tuple[str | None, str, bool]:
            answer = await self._wire.client.put_object(**params)
            proven = await answers.stored(answer, body, params["ChecksumSHA256"], locked="ObjectLockMode" in params)
            return listing.named(answer.get("VersionId")), answer["ETag"].strip('"'), proven

        try:
            version, etag, proven = await self._wire.make(
                Action("PutObject", key), send, expected=(PRECONDITION_FAILED,) if once else ()
            )
        except Expected as exc:
            raise Taken(len(body), await md5_hex(body)) from exc
        if not proven:
            await make_sure(self, key, version, len(body), etag)
        return Told(key, version, len(body), etag)

    @asynccontextmanager
    async def upload(
        self, key: str, lock: Lock, *, metadata: Mapping[str, str] = NO_METADATA
    ) -> AsyncIterator[Joining]:
        params: CreateMultipartUploadRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": key,
            "ChecksumAlgorithm": "SHA256",
        }
        self._dress(params, lock, metadata)
        upload = S3Upload(self._wire, self, key, locked=lock.mode is not LockMode.NONE)
        try:
            await upload.begin(params)
            yield upload
        except BaseException as exc:
            try:
                await upload.abandon()
            except StoreError as failure:
                exc.add_note(str(failure))
            raise
        await upload.abandon()

    def read(
        self, key: str, version: str | None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        return downloading.read(self._wire, key, version, start, length)

    def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        return listing.objects(self._wire, prefix, after)

    def versions(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
        return listing.versions(self._wire, prefix, after)

    async def head(self, key: str, version: str | None) -> ObjectInfo:
        answer = await self._locks.head(key, version)
        return ObjectInfo(
            key=key,
            version=listing.named(answer.get("VersionId")),
            size=answer["ContentLength"],
            etag=answer["ETag"].strip('"'),
            lock=lock_in(answer),
            metadata=answer["Metadata"],
        )

    async def lock_of(self, key: str, version: str | None) -> Lock | None:
        return await self._locks.of(key, version)

    async def set_lock(self, key: str, version: str, lock: Lock) -> bool:
        return await self._locks.set(key, version, lock)

    def _dress(
        self,
        params: "PutObjectRequestTypeDef | CreateMultipartUploadRequestTypeDef",
        lock: Lock,
        metadata: Mapping[str, str],
    ) -> None:
        """Add what an object has besides its body, however it is uploaded."""
        if metadata:
            params["Metadata"] = metadata
        if lock.mode is not LockMode.NONE:
            params["ObjectLockMode"] = mode_for_s3(lock)
            params["ObjectLockRetainUntilDate"] = lock.until
        # which words are good here the store decides, not the stubs
        if self._settings.sse:
            params["ServerSideEncryption"] = self._settings.sse  # type: ignore[arg-type]
        if self._settings.sse_kms_key_id:
            params["SSEKMSKeyId"] = self._settings.sse_kms_key_id
        if self._settings.storage_class:
            params["StorageClass"] = self._settings.storage_class  # type: ignore[arg-type]
