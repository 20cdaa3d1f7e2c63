"""
One request in the adapter's words, and its answer or what it means that there is none.

botocore is told to try once. `Asking` makes one try and says in our own words
how it ended; whoever wants more (see `stack`) puts another `Requester` around it.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from sysbackup.errors import SysbackupError
from sysbackup.store.addressing import Action, BucketAddress
from sysbackup.store.answers import NoAnswer
from sysbackup.store.error_codes import code_of, is_damage, is_of_credentials, is_page, is_passing, trouble
from sysbackup.store.error_translation import asked_of, not_aws, translated

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

T = TypeVar("T")

# what botocore's parsers raise where an answer has not the form they expect
_UNREADABLE = (ResponseParserError, LookupError, TypeError, AttributeError, ValueError)


class Expected(Exception):
    """
    The store answered with one of the codes that the caller said it can deal with.

    `otherwise` is the error to raise where it cannot after all.
    """

    def __init__(self, code: str, otherwise: SysbackupError) -> None:
        super().__init__(code)
        self.code = code
        self.otherwise = otherwise


class Passing(Exception):
    """
    A try failed, and the same request may well succeed later.

    `asked` gave the answer, which says `trouble`. With `damage` other bytes arrived
    than were sent. `otherwise` is the error to raise where nobody tries again.
    """

    def __init__(self, asked: str, trouble: str, otherwise: SysbackupError, *, damage: bool) -> None:
        super().__init__(trouble)
        self.asked = asked
        self.trouble = trouble
        self.otherwise = otherwise
        self.damage = damage


class Requester(Protocol):
    """What makes requests."""

    async def make(self, action: Action, send: Callable[[], Awaitable[T]], expected: Collection[str] = ()) -> T:
        """
        The answer to the request that `send` makes.

        Raises `Expected` for an answer whose code is in `expected`, else an error of
        our tree. `send` raises `NoAnswer` for what proves nothing; that, and
        `Passing`, come out of a requester that does not deal with them.
        """
        ...


class Asking:
    """Makes one try."""

    def __init__(self, place: BucketAddress) -> None:
        self._place = place

    async def make(self, action: Action, send: Callable[[], Awaitable[T]], expected: Collection[str] = ()) -> T:
        """See `Requester.make`."""
        try:
            return await _answered(send)
        except NoAnswer:
            raise
        except Exception as exc:
            otherwise = translated(exc, action, self._place)
            if (code := code_of(exc)) in expected:
                raise Expected(code, otherwise) from exc
            if is_passing(exc):
                asked = asked_of(exc, self._place)
                raise Passing(asked, trouble(exc), otherwise, damage=is_damage(exc)) from exc
            if otherwise is exc:
                raise
            raise otherwise from exc


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


@dataclass(frozen=True, slots=True)
class Wire:
    """
    One bucket at the end of one client, which serves no other bucket, and how requests to it are made.

    `chunk`: bytes that are read from a connection at a time; None: as they come.
    """

    client: "S3Client"
    bucket: str
    place: BucketAddress
    requester: Requester
    chunk: int | None

    async def make(self, action: Action, send: Callable[[], Awaitable[T]], expected: Collection[str] = ()) -> T:
        """See `Requester.make`."""
        return await self.requester.make(action, send, expected)
