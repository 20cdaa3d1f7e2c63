"""How bodies go out: as they are, slice by slice, as fast as the limit lets them."""

import base64
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.handlers import add_expect_header, convert_body_to_file_like_object

from sysbackup.store.limiting import Limit
from sysbackup.store.port import Body

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_SLICE = 1 << 18

_CHECKSUM = "x-amz-checksum-sha256"
_SIGNER = "sysbackup-s3v4"
_WITH_BODY = ("PutObject", "UploadPart")


def send_in_slices(client: "S3Client", limit: Limit) -> None:
    """
    Have the bodies that `client` sends go out as they are, and no faster than `limit`.

    botocore would wrap bytes into a file, ask `Expect: 100-continue` for all files
    first (a round trip more), and hash each body a second time for its signature.
    """
    client.meta.events.unregister("before-call.s3", add_expect_header)
    AUTH_TYPE_MAPS[_SIGNER] = _KnownDigest
    for operation in _WITH_BODY:
        event = f"before-parameter-build.s3.{operation}"
        client.meta.events.unregister(event, convert_body_to_file_like_object)
        # what this handler returns is the answer; the stubs know only of handlers that return nothing
        client.meta.events.register(f"choose-signer.s3.{operation}", _choose_signer)  # type: ignore[arg-type]

    def slice_body(request: AWSPreparedRequest, **_: object) -> None:
        longest = 0 if limit.ever else _SLICE
        body: object = request.body
        if isinstance(body, Viewed):
            body = body.view
        if isinstance(body, memoryview) or (isinstance(body, bytes | bytearray) and len(body) > longest):
            # aiohttp takes its own kind of body too; botocore's stubs do not know of that
            request.body = Slices(body, limit)  # type: ignore[assignment]

    client.meta.events.register("before-send.s3", slice_body)


class Viewed:
    """
    A body that lies in memory of others, as botocore takes it: for a file.

    It asks a file for its length and, where there is no other digest, for its bytes.
    """

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def read(self) -> bytes:
        """A copy of it."""
        return bytes(self.view)


def for_botocore(body: Body) -> Any:
    """A body as botocore's parameters take it; its stubs know of bytes and files alone."""
    return Viewed(body) if isinstance(body, memoryview) else body


class Slices(Payload):
    """
    A body that goes out slice by slice, as fast as connection and limit take it, without a copy.

    aiohttp sends bytes in one piece, which holds up the loop (it warns of that),
    and copies a BytesIO once whole.
    """

    def __init__(self, body: Body, limit: Limit) -> None:
        super().__init__(body)
        self._size: int = len(body)
        self._limit = limit

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        end = self._size if content_length is None else min(content_length, len(self._value))
        body = memoryview(self._value)
        start = 0
        while start < end:
            size = await self._limit.grant(min(_SLICE, end - start))
            await writer.write(body[start : start + size])
            start += size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text, for aiohttp's own debugging."""
        return bytes(self._value).decode(encoding, errors)

    def seek(self, position: int) -> None:
        """botocore rewinds what it sends again; each `write` begins at the start anyway."""


class _KnownDigest(S3SigV4Auth):
    """Signature version 4 over the body's SHA-256 that the checksum header holds already."""

    def payload(self, request: AWSRequest) -> str:
        known = request.headers.get(_CHECKSUM)
        return base64.b64decode(known).hex() if known else str(super().payload(request))


def _choose_signer(signature_version: Any, **_: object) -> str | None:
    return _SIGNER if signature_version in ("s3v4", "v4") else None
