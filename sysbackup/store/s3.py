"""The bucket on S3, or on a server that speaks its protocol."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sysbackup.config import sections
from sysbackup.errors import ObjectGone, StoreError
from sysbackup.model import Lock, LockMode, StoredObject
from sysbackup.store import answers, downloading, listing
from sysbackup.store.accounting import Requests
from sysbackup.store.digests import base64_of, md5_hex, sha256_of
from sysbackup.store.error_translation import PRECONDITION_FAILED, Action
from sysbackup.store.locking import Locks, lock_in, mode_for_s3, until_second
from sysbackup.store.port import NO_METADATA, Body, ObjectInfo, Upload, Version
from sysbackup.store.uploading import S3Upload, equal_version, locked_version
from sysbackup.store.wire import NO_ANSWER_SECONDS, Expected, Wire

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import (
        CreateMultipartUploadRequestTypeDef,
        PutObjectRequestTypeDef,
    )


class S3Store:
    """
    `port.ObjectStore` over an aiobotocore client, which must try each request once (see `wire`).

    The client stays the caller's to close, and serves this store alone.
    """

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        settings: sections.S3,
        give_up_after: float,
        no_answer_after: float = NO_ANSWER_SECONDS,
    ) -> None:
        self._wire = Wire(client, bucket, give_up_after, no_answer_after)
        self._locks = Locks(self._wire)
        self._settings = settings

    @property
    def requests(self) -> Requests:
        return self._wire.requests

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._wire.bucket

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
    ) -> StoredObject:
        params: PutObjectRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": key,
            "Body": body,  # type: ignore[typeddict-item]  # botocore takes a bytearray as well
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64_of(sha256 or await sha256_of(body)),
        }
        self._dress(params, lock, metadata)
        if once:
            params["IfNoneMatch"] = "*"
        try:
            version, etag = await self._put(params, body)
        except Expected:
            etag = await md5_hex(body)
            if taken := await equal_version(self._wire, self._locks, key, len(body), etag, lock):
                return taken
            del params["IfNoneMatch"]
            version, etag = await self._put(params, body)
        self.requests.sent += len(body)
        return await locked_version(self._wire, self._locks, StoredObject(key, version, len(body), lock), etag)

    async def _put(self, params: "PutObjectRequestTypeDef", body: Body) -> tuple[str | None, str]:
        """Send it; the version that holds `body`, as far as the answer or a look at it tells, and its ETag."""

        async def send() -> tuple[str | None, str, bool]:
            answer = await self._wire.client.put_object(**params)
            proven = await answers.stored(answer, body, params["ChecksumSHA256"], locked="ObjectLockMode" in params)
            return listing.named(answer.get("VersionId")), answer["ETag"].strip('"'), proven

        version, etag, proven = await self._wire.make(
            Action("PutObject", params["Key"]),
            send,
            expected=(PRECONDITION_FAILED,) if "IfNoneMatch" in params else (),
        )
        if not proven:
            await listing.make_sure(self._wire, params["Key"], version, len(body), etag)
        return version, etag

    @asynccontextmanager
    async def upload(
        self,
        key: str,
        lock: Lock,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        once: bool = False,
    ) -> AsyncIterator[Upload]:
        params: CreateMultipartUploadRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": key,
            "ChecksumAlgorithm": "SHA256",
        }
        self._dress(params, lock, metadata)
        upload = S3Upload(self._wire, self._locks, key, lock, once=once)
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

    async def renew(self, key: str, version: str | None, lock: Lock) -> Lock:
        if lock.mode is not LockMode.NONE:
            return (await self._locks.keep(key, version, lock))[0]
        # nothing to renew; what is asked is whether the object is still there, which a listing
        # tells without the right to read
        async for found in listing.versions(self._wire, key):
            if found.key != key:
                break
            if not found.marker and (found.version == version or (version is None and found.latest)):
                return lock
        raise ObjectGone(f"{key!r} (version {version or 'current'}) does not exist in {self._wire.place}.")

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
            params["ObjectLockRetainUntilDate"] = until_second(lock.until)
        # which words are good here the store decides, not the stubs
        if self._settings.sse:
            params["ServerSideEncryption"] = self._settings.sse  # type: ignore[arg-type]
        if self._settings.sse_kms_key_id:
            params["SSEKMSKeyId"] = self._settings.sse_kms_key_id
        if self._settings.storage_class:
            params["StorageClass"] = self._settings.storage_class  # type: ignore[arg-type]
