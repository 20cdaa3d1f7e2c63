"""
What botocore, aiohttp and S3 servers say went wrong, in one vocabulary: S3's codes.

Servers differ in codes and wording; what was seen of AWS, Ceph RGW 16, moto 5
and rclone is here and nowhere else.
"""

import ssl
import traceback

import aiohttp
from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from sysbackup.errors import StoreUnavailable, SysbackupError
from sysbackup.store.answers import request_id

PRECONDITION_FAILED = "PreconditionFailed"
CONFLICT = "ConditionalRequestConflict"
NO_SUCH_UPLOAD = "NoSuchUpload"
NOT_IMPLEMENTED = "NotImplemented"
NO_RETENTION = "NoSuchObjectLockConfiguration"
NO_OBJECT_LOCK = "the bucket has no Object Lock"

_LOCKING = ("PutObject", "CreateMultipartUpload", "PutObjectRetention")
_BY_STATUS = {412: PRECONDITION_FAILED, 501: NOT_IMPLEMENTED}

_BUSY = {"SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException"}
_BUSY |= {"RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests", "TooManyRequestsException"}
_BUSY |= {"InternalError", "ServiceUnavailable", "OperationAborted", CONFLICT}
_DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}

_PASSING = (
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
)


def code_of(exc: Exception) -> str:
    """
    S3's code of an error answer, the same word whatever the server; "" where there was no answer.

    HEAD answers have no body: their code is the number of the HTTP status.
    """
    if not isinstance(exc, ClientError):
        return ""
    code, words = exc.response.get("Error", {}).get("Code", ""), said(exc).lower()
    if is_foreign(exc):
        return ""
    if status_of(exc) in _BY_STATUS:
        return _BY_STATUS[status_of(exc)]
    if code == "ObjectLockConfigurationNotFoundError":
        # AWS says it of a bucket, RGW of a version without retention
        return NO_RETENTION
    if code == "InvalidRequest" and ("lock" in words or (not words and exc.operation_name in _LOCKING)):
        # RGW refuses a locked put without a word
        return NO_OBJECT_LOCK
    return code


def status_of(exc: ClientError) -> int:
    """The HTTP status of an error answer."""
    return exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def said(exc: ClientError) -> str:
    """The message of an error answer."""
    # RGW sends empty ones, which botocore makes None
    return exc.response.get("Error", {}).get("Message") or ""


def is_foreign(exc: ClientError) -> bool:
    """
    Whether an error answer says nothing in S3's words, as a proxy's page does not.

    HEAD answers have no words; botocore makes the status the code where there is no XML.
    An answer with S3's request id is S3's own.
    """
    metadata = exc.response.get("ResponseMetadata", {})
    code, headers = exc.response.get("Error", {}).get("Code", ""), metadata.get("HTTPHeaders", {})
    if exc.operation_name == "HeadObject" or (code and code != str(status_of(exc))):
        return False
    return request_id(headers) is None


def is_of_sts(exc: Exception) -> bool:
    """Whether it is an answer of the STS behind our credentials, which is not the store."""
    return isinstance(exc, ClientError) and exc.operation_name.startswith("AssumeRole")


def is_page(exc: ClientError) -> bool:
    """
    Whether botocore made a 500 of a 200 with no XML in it, as it does.

    502 to 504 are what a gateway says of an S3 that is down: that may last.
    """
    return status_of(exc) == 500 and is_foreign(exc) and not is_of_sts(exc)


def page(exc: ClientError) -> str:
    """How an answer that is not S3's is told of."""
    headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    kind = str(headers.get("content-type", "")).partition(";")[0].strip()[:40]
    shown = kind if kind.isascii() and kind.isprintable() and kind else "of no known type"
    return f"answered {status_of(exc)} with something that is not S3's ({shown})"


def is_of_credentials(exc: Exception) -> bool:
    """Whether it happened while credentials were fetched, which the first request does, and one now and then."""
    return any(
        frame.f_globals.get("__name__") == "aiobotocore.credentials"
        for frame, _ in traceback.walk_tb(exc.__traceback__)
    )


def is_passing(exc: Exception) -> bool:
    """Whether the same request may well succeed later: the network, a busy store, a damaged transfer."""
    if isinstance(exc, ClientError):
        code, status = code_of(exc), status_of(exc)
        return code in _BUSY or code in _DAMAGED or status == 429 or (status >= 500 and status != 501)
    if isinstance(exc, SSLError):
        return not is_distrust(exc)
    if isinstance(exc, SysbackupError):
        # raised below us: temporary credentials that could not be renewed just now
        return isinstance(exc, StoreUnavailable)
    return isinstance(exc, _PASSING)


def is_damage(exc: Exception) -> bool:
    """Whether the store got other bytes than were sent."""
    return code_of(exc) in _DAMAGED


def is_distrust(exc: SSLError) -> bool:
    """Whether it is about a certificate, and not about the connection."""
    cause = exc.kwargs.get("error")
    return isinstance(cause, ssl.CertificateError | aiohttp.ClientConnectorCertificateError)


def trouble(exc: Exception) -> str:
    """What was wrong with one try, in a few words."""
    if isinstance(exc, ClientError) and is_foreign(exc):
        return page(exc)
    words = said(exc) if isinstance(exc, ClientError) else str(exc)
    return " ".join(part for part in (code_of(exc), words) if part) or type(exc).__name__
