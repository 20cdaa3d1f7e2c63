"""
How requests are made: counted, tried again, and their errors translated.

botocore is told to try once. Trying again is decided here alone: its own
loop would try five times below ours, neither knowing of the other's waits, and
`give_up_after` would hold for neither.
"""

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.exceptions import ClientError
from botocore.handlers import convert_body_to_file_like_object
from botocore.parsers import ResponseParserError

from sysbackup.config.units import duration_text
from sysbackup.errors import StoreUnavailable
from sysbackup.store import answers
from sysbackup.store.accounting import Requests
from sysbackup.store.answers import NoAnswer
from sysbackup.store.error_translation import (
    Action,
    BucketAddress,
    asked_of,
    code_of,
    is_damage,
    is_of_credentials,
    is_page,
    is_passing,
    not_aws,
    not_s3,
    translated,
    trouble,
    unavailable,
)
from sysbackup.store.port import Body

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

log = structlog.get_logger()

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 20.0
_TELL_AFTER, _TELL_EVERY = 10.0, 60.0  # seconds of trouble until it is told of, and told again
NO_ANSWER_SECONDS = 25.0  # a proxy recovers within that; a wrong endpoint_url is told soon
_DAMAGES = 3  # a transfer damaged more often than this is no accident

_SLICE = 1 << 18

# what botocore's parsers raise where an answer has not the form they expect
_UNREADABLE = (ResponseParserError, LookupError, TypeError, AttributeError, ValueError)

_CHECKSUM = "x-amz-checksum-sha256"
_SIGNER = "sysbackup-s3v4"
_WITH_BODY = ("PutObject", "UploadPart")


class Expected(Exception):
    """The store answered with one of the codes that the caller of `Wire.make` said it can deal with."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Wire:
    """
    One bucket at the end of one client.

    The client must not be used for another bucket's `Wire`: requests are
    counted by the client's events.
    """

    def __init__(
        self, client: "S3Client", bucket: str, give_up_after: float, no_answer_after: float = NO_ANSWER_SECONDS
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.place = BucketAddress(bucket, client.meta.endpoint_url)
        self.requests = Requests()
        self._give_up_after = give_up_after
        self._no_answer_after = min(give_up_after, no_answer_after)
        self._told_at = -_TELL_EVERY
        _tune(client)
        answers.guard(client)
        client.meta.events.register("before-send.s3", self._sending)

    def _sending(self, request: AWSPreparedRequest, event_name: str, **_: object) -> None:
        """Count each attempt as it goes out, and let large bodies go out in slices."""
        self.requests.add(event_name.rpartition(".")[2])
        if isinstance(request.body, bytes | bytearray) and len(request.body) > _SLICE:
            # aiohttp takes its own kind of body too; botocore's stubs do not know of that
            request.body = _Slices(request.body)  # type: ignore[assignment]

    async def make(self, action: Action, send: Callable[[], Awaitable[T]], expected: Collection[str] = ()) -> T:
        """
        The answer to the request that `send` makes, tried again while the trouble looks passing.

        Raises `Expected` for an answer whose code is in `expected`, `StoreUnavailable`
        when trouble has lasted for `give_up_after`, and what `translated` says else.
        `NoAnswer`, which `send` may raise too, is tried again for `no_answer_after`
        at most, and then a `StoreError` that names what to look at.
        """
        loop = asyncio.get_running_loop()
        began: float | None = None
        nonsense: float | None = None
        tries = damages = strange = 0
        while True:
            try:
                return await _answered(send)
            except NoAnswer as exc:
                strange += 1
                nonsense = nonsense or loop.time()
                left = nonsense + self._no_answer_after - loop.time()
                if left <= 0:
                    raise not_s3(exc, action, self.place, strange) from exc
            except Exception as exc:
                if (code := code_of(exc)) in expected:
                    raise Expected(code) from exc
                damages += is_damage(exc)
                if not is_passing(exc) or damages > _DAMAGES:
                    raise translated(exc, action, self.place) from exc
                began = began or loop.time()
                left = began + self._give_up_after - loop.time()
                if left <= 0:
                    if isinstance(exc, StoreUnavailable):
                        raise
                    raise unavailable(exc, self.place, self._give_up_after) from exc
                self._tell(exc, loop.time(), began, left)
            wait = min(_FIRST_WAIT * 2.0**tries, _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            await asyncio.sleep(min(wait, left))
            tries += 1

    def _tell(self, exc: Exception, now: float, began: float, left: float) -> None:
        """Say now and then that we wait, once for all requests: a run of which nothing is heard looks as if it hung."""
        if now - began >= _TELL_AFTER and now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            log.warning(
                "store.unreachable",
                store=str(asked_of(exc, self.place)),
                reason=trouble(exc),
                tried_for=duration_text(round(now - began)),
                gives_up_in=duration_text(round(left)),
            )


async def _answered(send: Callable[[], Awaitable[T]]) -> T:
    """What `send` returns; `NoAnswer` where botocore could not read what came, or made a 500 of it."""
    try:
        return await send()
    except _UNREADABLE as exc:
        if is_of_credentials(exc):
            raise not_aws(exc) from exc
        raise NoAnswer(f"{type(exc).__name__}: {exc}") from exc
    except ClientError as exc:
        if is_page(exc):
            raise NoAnswer("neither XML nor one of S3's errors") from exc
        raise


class _Slices(Payload):
    """
    A body that goes out slice by slice, as fast as the connection takes it, without a copy.

    aiohttp sends bytes in one piece, which holds up the loop (it warns of that),
    and copies a BytesIO once whole.
    """

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self._size: int = len(body)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        end = self._size if content_length is None else min(content_length, len(self._value))
        body = memoryview(self._value)
        for start in range(0, end, _SLICE):
            await writer.write(body[start : min(start + _SLICE, end)])

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


def _tune(client: "S3Client") -> None:
    """
    Send bodies as they are.

    botocore would wrap bytes into a file, for which it asks `Expect: 100-continue`
    first (a round trip more), and hash each body a second time for its signature.
    """
    AUTH_TYPE_MAPS[_SIGNER] = _KnownDigest
    for operation in _WITH_BODY:
        event = f"before-parameter-build.s3.{operation}"
        client.meta.events.unregister(event, convert_body_to_file_like_object)
        # what this handler returns is the answer; the stubs know only of handlers that return nothing
        client.meta.events.register(f"choose-signer.s3.{operation}", _choose_signer)  # type: ignore[arg-type]


def _choose_signer(signature_version: Any, **_: object) -> str | None:
    return _SIGNER if signature_version in ("s3v4", "v4") else None
