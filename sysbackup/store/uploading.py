"""Multipart uploads: parts with checksums, joined under a lock, or aborted."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from sysbackup.concurrency.waits import outlast
from sysbackup.errors import BucketUnusable, ObjectGone, StoreError, StoreUnavailable
from sysbackup.model import Lock, LockMode, StoredObject
from sysbackup.store import answers, listing
from sysbackup.store.digests import base64_of, sha256_of
from sysbackup.store.error_translation import CONFLICT, NO_SUCH_UPLOAD, PRECONDITION_FAILED, Action, dropped
from sysbackup.store.locking import Locks
from sysbackup.store.port import Body
from sysbackup.store.wire import Expected, Wire

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import (
        AbortMultipartUploadRequestTypeDef,
        CompletedPartTypeDef,
        CompleteMultipartUploadRequestTypeDef,
        CreateMultipartUploadRequestTypeDef,
        UploadPartRequestTypeDef,
    )

T = TypeVar("T")

_ABORT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Part:
    etag: str
    checksum: str
    size: int
    proven: bool


async def equal_version(wire: Wire, locks: Locks, key: str, size: int, etag: str, lock: Lock) -> StoredObject | None:
    """
    A version that is there already with this size and ETag, its lock lengthened to `lock`.

    None if there is none. Whoever may write may have put it there: one whose lock
    cannot be lengthened, for whatever reason, or that nobody can read at once, is as
    good as none.
    """
    async for found in listing.equals(wire, key, size, etag):
        if found.archived:
            continue
        try:
            kept = lock if lock.mode is LockMode.NONE else (await locks.keep(key, found.version, lock))[0]
        except StoreUnavailable:
            raise
        except StoreError:
            continue
        return StoredObject(key, found.version, size, kept, fresh=False)
    return None


async def locked_version(wire: Wire, locks: Locks, told: StoredObject, etag: str) -> StoredObject:
    """
    What an answer told of as stored, proven: that version's lock has been read back, and so there is such a version.

    Where the answer names none, or one that there is not, the version that holds what was
    sent is looked for. `BucketUnusable` where the store keeps no versions, `LockNotKept` where it keeps no lock.
    """
    if told.lock.mode is LockMode.NONE:
        return told
    if told.version is not None:
        try:
            return replace(told, lock=(await locks.keep(told.key, told.version, told.lock, doubt=True))[0])
        except ObjectGone:
            pass
    version = await listing.newest(wire, told.key, told.size, etag)
    if version is None:
        raise BucketUnusable(
            f"The {wire.place} took {told.key!r}, but keeps no versions, and so no locks: it has no Object Lock. "
            "Enable that on the bucket, choose a store that has it, or set [content] lock_mode = none and do without."
        )
    try:
        return replace(told, version=version, lock=(await locks.keep(told.key, version, told.lock, doubt=True))[0])
    except ObjectGone as exc:
        raise listing.unlisted(wire, told.key, version, told.size, etag) from exc


class S3Upload:
    """One multipart upload, begun by `begin`; see `port.Upload`."""

    def __init__(self, wire: Wire, locks: Locks, key: str, lock: Lock, *, once: bool) -> None:
        self._wire = wire
        self._locks = locks
        self._key = key
        self._lock = lock
        self._once = once
        self._id: str | None = None
        self._parts: dict[int, _Part] = {}
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def begin(self, params: "CreateMultipartUploadRequestTypeDef") -> None:
        """Create the upload; cancelled meanwhile, wait for its id all the same, so that it can be aborted."""

        async def create() -> None:
            async def send() -> str:
                answer = await self._wire.client.create_multipart_upload(**params)
                answers.need("UploadId", answer.get("UploadId"))
                answers.same("key", self._key, answer.get("Key"))
                return answer["UploadId"]

            self._id = await self._wire.make(Action("CreateMultipartUpload", self._key), send)

        await outlast(create(), seconds=_ABORT_SECONDS)

    async def part(self, number: int, body: Body, *, sha256: bytes | None = None) -> None:
        """See `port.Upload.part`."""
        checksum = base64_of(sha256 or await sha256_of(body))

        async def send() -> _Part:
            params: UploadPartRequestTypeDef = {
                "Bucket": self._wire.bucket,
                "Key": self._key,
                "UploadId": self._open_id(),
                "PartNumber": number,
                "Body": body,  # type: ignore[typeddict-item]  # botocore takes a bytearray as well
                "ChecksumAlgorithm": "SHA256",
                "ChecksumSHA256": checksum,
            }
            answer = await self._wire.client.upload_part(**params)
            proven = await answers.stored(answer, body, checksum, locked=False)
            return _Part(answer["ETag"], checksum, len(body), proven)

        self._under_way += 1
        self._idle.clear()
        try:
            part = await self._wire.make(Action("UploadPart", self._key), send)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        self._wire.requests.sent += len(body)
        self._parts[number] = part

    async def finish(self) -> StoredObject:
        """See `port.Upload.finish`."""
        if not self._parts:
            # S3 joins nothing, but it takes one empty part
            await self.part(1, b"")
        size = sum(part.size for part in self._parts.values())
        try:
            version = await self._complete(size, once=self._once)
        except Expected as exc:
            if exc.code == NO_SUCH_UPLOAD:
                self._id = None
            # the answer to an earlier try may have been lost: then this finds our own version
            if taken := await equal_version(self._wire, self._locks, self._key, size, self._composite(), self._lock):
                return taken
            if exc.code == NO_SUCH_UPLOAD:
                raise dropped(self._key, self._wire.place) from exc
            try:
                version = await self._complete(size, once=False)
            except Expected as again:
                self._id = None
                raise dropped(self._key, self._wire.place) from again
        self._id = None
        told = StoredObject(self._key, version, size, self._lock)
        return await locked_version(self._wire, self._locks, told, self._composite())

    async def abandon(self) -> None:
        """
        Abort what is not finished, even when cancelled, but for no longer than half a minute.

        Parts that other tasks are sending may end first: S3 keeps what arrives after an abort.
        """
        if self._id is None:
            return
        params: AbortMultipartUploadRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": self._key,
            "UploadId": self._id,
        }
        self._id = None

        async def abort() -> None:
            try:
                async with asyncio.timeout(_ABORT_SECONDS / 2):
                    await self._idle.wait()
            except TimeoutError:
                pass  # aborted under way, such a part may have to wait for the lifecycle rule
            await self._wire.make(
                Action("AbortMultipartUpload", self._key),
                lambda: self._wire.client.abort_multipart_upload(**params),
                expected=(NO_SUCH_UPLOAD,),
            )

        async def abort_in_time() -> None:
            try:
                async with asyncio.timeout(_ABORT_SECONDS):
                    await abort()
            except Expected:
                return  # gone already
            except TimeoutError as exc:
                raise StoreUnavailable(
                    f"{self._wire.place} did not take the abort of the unfinished upload of {self._key!r} "
                    f"within {_ABORT_SECONDS:.0f} s: its parts stay until a lifecycle rule removes them."
                ) from exc

        await outlast(abort_in_time(), seconds=_ABORT_SECONDS)

    def _open_id(self) -> str:
        if self._id is None:
            raise StoreError(f"The upload of {self._key!r} has ended: it takes no more parts.")
        return self._id

    async def _complete(self, size: int, *, once: bool) -> str | None:
        """Join the parts; `Expected` where `once` is refused, or the upload not known any more."""
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumSHA256": part.checksum}
            for number, part in sorted(self._parts.items())
        ]
        params: CompleteMultipartUploadRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": self._key,
            "UploadId": self._open_id(),
            "MultipartUpload": {"Parts": parts},
            "MpuObjectSize": size,
        }
        if once:
            params["IfNoneMatch"] = "*"

        async def send() -> tuple[str | None, str, str | None]:
            answer = await self._wire.client.complete_multipart_upload(**params)
            etag = answer.get("ETag", "").strip('"')
            answers.same("key", self._key, answer.get("Key"))
            return listing.named(answer.get("VersionId")), etag, answer.get("ChecksumSHA256")

        version, etag, checksum = await self._wire.make(
            Action("CompleteMultipartUpload", self._key),
            send,
            expected=(PRECONDITION_FAILED, CONFLICT, NO_SUCH_UPLOAD) if once else (NO_SUCH_UPLOAD,),
        )
        fits = etag == self._composite() and all(part.proven for part in self._parts.values())
        if version is None and self._lock.mode is not LockMode.NONE:
            # looked for with its lock; or there are no versions, as in a bucket without Object Lock
            return None
        if not fits and checksum != self._joined_checksum():
            # RGW 16 leaves the ETag empty, under SSE-KMS it is no MD5: the version is looked at before it is relied on
            await listing.make_sure(self._wire, self._key, version, size, etag or self._composite())
        return version

    def _joined_checksum(self) -> str:
        """The checksum that S3 gives to the parts joined: the SHA-256 of their SHA-256s, and their number."""
        digests = b"".join(base64.b64decode(part.checksum) for _, part in sorted(self._parts.items()))
        return f"{base64_of(hashlib.sha256(digests).digest())}-{len(self._parts)}"

    def _composite(self) -> str:
        """The ETag that S3 gives to the parts joined: the MD5 of their MD5s, and their number."""
        etags = [part.etag.strip('"') for _, part in sorted(self._parts.items())]
        try:
            joined = b"".join(bytes.fromhex(etag) for etag in etags)
        except ValueError:
            return ""  # under SSE-KMS an ETag is no MD5, and nothing can be compared
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"
