"""AWS's errors outside the bucket (STS, CloudFormation, credentials) in this program's own."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    SSOError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from sysbackup.errors import AccessDenied, ConfigError, StoreUnavailable, SysbackupError


@contextmanager
def translating(what: str, remedy: str) -> Iterator[None]:
    """
    Raise what goes wrong inside as an error of our tree.

    `what` names the attempt ('Assuming role …'), `remedy` says what to look at
    where it is a matter of settings.
    """
    try:
        yield
    except (ResponseParserError, LookupError, TypeError, AttributeError) as exc:
        # a page in the place of an answer: not XML, or without what the answer must have
        raise StoreUnavailable(
            f"{what} failed, what answered is not AWS ({type(exc).__name__}: {str(exc)[:200]}): check whether a proxy "
            "stands between (HTTPS_PROXY, HTTP_PROXY), and AWS_ENDPOINT_URL if it is set."
        ) from exc
    except (BotoCoreError, ClientError, ValueError, OSError) as exc:
        # ValueError: how botocore refuses an endpoint that is no URL
        raise _translated(exc, what, remedy) from exc


def _translated(exc: Exception, what: str, remedy: str) -> SysbackupError:
    if isinstance(exc, ClientError):
        return _answer(exc, what, remedy)
    if isinstance(exc, CredentialRetrievalError | SSOError):
        return AccessDenied(f"{what} failed, for there are no AWS credentials: {exc}")
    if isinstance(exc, BotoConnectionError | HTTPClientError | OSError):
        return StoreUnavailable(f"{what} failed, AWS did not answer: {exc}")
    return ConfigError(f"{what} failed: {exc}. {remedy}")


def _answer(exc: ClientError, what: str, remedy: str) -> SysbackupError:
    error = exc.response.get("Error", {})
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{error.get('Code', status)}: {error.get('Message', '')}"
    if status >= 500 or "Throttl" in said:
        return StoreUnavailable(f"{what} failed, AWS is not able to answer just now: {said}")
    if status in (401, 403):
        return AccessDenied(f"{what} was refused by AWS: {said}")
    return ConfigError(f"{what} was refused by AWS: {said}. {remedy}")
