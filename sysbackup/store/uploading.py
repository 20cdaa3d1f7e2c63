"""Multipart uploads: parts with checksums, joined, or aborted."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sysbackup.concurrency.waits import outlast
from sysbackup.errors import StoreError, StoreUnavailable
from sysbackup.store import answers, listing
from sysbackup.store.adapter import Taken, Told
from sysbackup.store.addressing import Action
from sysbackup.store.bodies import for_botocore
from sysbackup.store.digests import base64_of, sha256_of
from sysbackup.store.error_codes import CONFLICT, NO_SUCH_UPLOAD, PRECONDITION_FAILED
from sysbackup.store.matching import Listed, make_sure
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


class S3Upload:
    """One multipart upload, begun by `begin`; see `adapter.Joining`."""

    def __init__(self, wire: Wire, listed: Listed, key: str, *, locked: bool) -> None:
        self._wire = wire
        self._listed = listed
        self._key = key
        self._locked = locked
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
                "Body": for_botocore(body),
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
        self._parts[number] = part

    async def join(self, *, once: bool) -> Told:
        """See `adapter.Joining.join`."""
        if not self._parts:
            # S3 joins nothing, but it takes one empty part
            await self.part(1, b"")
        size = sum(part.size for part in self._parts.values())
        try:
            version = await self._complete(size, once=once)
        except Expected as exc:
            gone = exc.code == NO_SUCH_UPLOAD
            if gone:
                self._id = None
            raise Taken(size, self._composite(), exc.otherwise if gone else None) from exc
        self._id = None
        return Told(self._key, version, size, self._composite())

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
        if version is None and self._locked:
            # looked for with its lock; or there are no versions, as in a bucket without Object Lock
            return None
        if not fits and checksum != self._joined_checksum():
            # RGW 16 leaves the ETag empty, under SSE-KMS it is no MD5: the version is looked at before it is relied on
            await make_sure(self._listed, self._key, version, size, etag or self._composite())
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
