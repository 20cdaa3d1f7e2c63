"""The bytes of a version, resumed where a connection breaks."""

import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import aiohttp
from botocore.exceptions import HTTPClientError, IncompleteReadError

from sysbackup.errors import StoreError, StoreUnavailable
from sysbackup.store import answers
from sysbackup.store.addressing import Action
from sysbackup.store.answers import NoAnswer
from sysbackup.store.wire import Wire

if TYPE_CHECKING:
    from aiobotocore.response import StreamingBody
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_BREAKS = 5  # so often may a connection break without one more byte

_BROKEN = (HTTPClientError, IncompleteReadError, aiohttp.ClientError, OSError)


async def read(
    wire: Wire, key: str, version: str | None, start: int = 0, length: int | None = None
) -> AsyncGenerator[bytes, None]:
    """The range of a version, as `ObjectStore.read` says."""
    if length == 0:
        return
    params: GetObjectRequestTypeDef = {"Bucket": wire.bucket, "Key": key}
    if version is not None:
        params["VersionId"] = version
    at, breaks = start, 0
    end = None if length is None else start + length
    etag: str | None = None
    while end is None or at < end:
        answer = await _ask(wire, params, version, at, end, etag)
        end, etag = at + answer["ContentLength"], answer["ETag"]
        if "VersionId" not in params:
            # should the object be replaced meanwhile, what follows would belong to other bytes
            params["IfMatch"] = answer["ETag"]
        try:
            async with answer["Body"] as body:
                while at < end and (chunk := await _next(body, wire.chunk)):
                    at, breaks = at + len(chunk), 0
                    yield chunk
        except _BROKEN as exc:
            broken: Exception | None = exc
        else:
            broken = None
        if at < end:
            breaks += 1
            if breaks > _BREAKS:
                raise StoreUnavailable(
                    f"Reading {key!r} (version {version or 'current'}) from {wire.place} broke off at byte {at} "
                    f"{breaks} times in a row: {broken or 'the connection ended'}."
                ) from broken


async def _next(body: "StreamingBody", most: int | None) -> bytes:
    """Of what has arrived the next bytes; without a bound as they came, for to put pieces together is to copy all."""
    if most is not None:
        return await body.read(most)
    arrived, more = b"", True
    while more and not arrived:  # of a body in HTTP's own chunks each ends with nothing
        arrived, more = await body.raw_stream.content.readchunk()
    return arrived


async def _ask(
    wire: Wire, params: "GetObjectRequestTypeDef", version: str | None, at: int, end: int | None, etag: str | None
) -> "GetObjectOutputTypeDef":
    """GetObject from `at`; the answer holds the bytes from there on, or it raises."""
    ranged = at > 0 or end is not None
    if ranged:
        params["Range"] = f"bytes={at}-" if end is None else f"bytes={at}-{end - 1}"
    key = params["Key"]

    async def send() -> "GetObjectOutputTypeDef":
        answer = await wire.client.get_object(**params)
        try:
            answers.need("ETag", answer.get("ETag"))
            answers.need("Content-Length", answer.get("ContentLength"))
            answers.same("version", version, answer.get("VersionId"))
            answers.same("content", etag, answer["ETag"])
            if ranged and answer.get("ContentRange"):
                _fits(answer["ContentRange"], answer["ContentLength"], at, end)
        except BaseException:
            answer["Body"].close()
            raise
        return answer

    answer = await wire.make(Action("GetObject", key, version), send)
    if ranged and not answer.get("ContentRange"):
        answer["Body"].close()
        raise StoreError(f"{wire.place} does not answer ranged reads (of {key!r}): a restore cannot use it.")
    return answer


def _fits(told: str, length: int, at: int, end: int | None) -> None:
    """`NoAnswer` where a range is not what was asked for, from `at` to `end` or to where the object ends."""
    found = _RANGE.fullmatch(told)
    if not found:
        raise NoAnswer(f"a range that makes no sense: {told[:60]!r}")
    first, last, whole = (int(number) for number in found.groups())
    wanted = whole if end is None else min(end, whole)
    if (first, last + 1) != (at, wanted) or length != wanted - at:
        raise NoAnswer(f"another range than was asked for: {told[:60]!r}, {length} bytes")
