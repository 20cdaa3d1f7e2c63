"""
The border: what botocore, aiohttp and S3 servers say, in this program's own errors.

Servers differ in codes and wording; what was seen of AWS, Ceph RGW 16, moto 5
and rclone is here and nowhere else.
"""

import ssl
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    InvalidRegionError,
    MetadataRetrievalError,
    MissingDependencyException,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    SSLError,
    SSOError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from sysbackup.errors import (
    AccessDenied,
    BucketUnusable,
    ConfigError,
    ObjectGone,
    StoreError,
    StoreUnavailable,
    SysbackupError,
)
from sysbackup.store.answers import NoAnswer, request_id

PRECONDITION_FAILED = "PreconditionFailed"
CONFLICT = "ConditionalRequestConflict"
NO_SUCH_UPLOAD = "NoSuchUpload"
NOT_IMPLEMENTED = "NotImplemented"
NO_RETENTION = "NoSuchObjectLockConfiguration"
NO_OBJECT_LOCK = "the bucket has no Object Lock"

_LOOK_AT = "check [s3] endpoint_url, and whether a proxy stands between (HTTPS_PROXY, HTTP_PROXY)."

_READS = ("GetObject", "HeadObject", "GetObjectRetention")
_LOCKING = ("PutObject", "CreateMultipartUpload", "PutObjectRetention")
_BY_STATUS = {412: PRECONDITION_FAILED, 501: NOT_IMPLEMENTED}

_RIGHTS = {
    "PutObject": "s3:PutObject and, for its lock, s3:PutObjectRetention",
    "CreateMultipartUpload": "s3:PutObject and, for its lock, s3:PutObjectRetention",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "PutObjectRetention": "s3:PutObjectRetention",
    "GetObjectRetention": "s3:GetObjectRetention",
    "GetObject": "s3:GetObject and s3:GetObjectVersion",
    "HeadObject": "s3:GetObject and s3:GetObjectVersion",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
}

_BUSY = {"SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException"}
_BUSY |= {"RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests", "TooManyRequestsException"}
_BUSY |= {"InternalError", "ServiceUnavailable", "OperationAborted", CONFLICT}
_DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_GONE = {"NoSuchKey", "NoSuchVersion", "404"}
_MARKERS = {"MethodNotAllowed", "405"}  # how a delete marker answers who reads it
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"}
_ELSEWHERE |= {"IllegalLocationConstraintException", "IncorrectEndpoint", "301", "307"}
_UNKNOWN_KEY = {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "NotSignedUp"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"}
_DENIED = {"AccessDenied", "AccessDeniedException", "Forbidden", "403", "AllAccessDisabled", "AccountProblem"}
_DENIED |= {"InvalidPayer", "UnauthorizedAccess", "Unauthorized", "401", "InvalidSecurity"}


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Where requests go, as error messages name it."""

    bucket: str
    endpoint: str

    def __str__(self) -> str:
        return f"bucket {self.bucket!r} at {self.endpoint}"


@dataclass(frozen=True, slots=True)
class Action:
    """One S3 operation, on one version of one object where it is about one."""

    operation: str
    key: str | None = None
    version: str | None = None

    @property
    def target(self) -> str:
        """What a message says the action was on: ` on 'content/ab…' (version x)`, or nothing."""
        if self.key is None:
            return ""
        return f" on {self.key!r}" + (f" (version {self.version})" if self.version else "")


def code_of(exc: Exception) -> str:
    """
    S3's code of an error answer, the same word whatever the server; "" where there was no answer.

    HEAD answers have no body: their code is the number of the HTTP status.
    """
    if not isinstance(exc, ClientError):
        return ""
    code, said = exc.response.get("Error", {}).get("Code", ""), _said(exc).lower()
    if is_foreign(exc):
        return ""
    if status_of(exc) in _BY_STATUS:
        return _BY_STATUS[status_of(exc)]
    if code == "ObjectLockConfigurationNotFoundError":
        # AWS says it of a bucket, RGW of a version without retention
        return NO_RETENTION
    if code == "InvalidRequest" and ("lock" in said or (not said and exc.operation_name in _LOCKING)):
        # RGW refuses a locked put without a word
        return NO_OBJECT_LOCK
    return code


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


def is_page(exc: ClientError) -> bool:
    """
    Whether botocore made a 500 of a 200 with no XML in it, as it does.

    502 to 504 are what a gateway says of an S3 that is down: that may last. STS is not the store.
    """
    return status_of(exc) == 500 and is_foreign(exc) and not exc.operation_name.startswith("AssumeRole")


def _page(exc: ClientError) -> str:
    """How an answer that is not S3's is told of."""
    headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    kind = str(headers.get("content-type", "")).partition(";")[0].strip()[:40]
    shown = kind if kind.isascii() and kind.isprintable() and kind else "of no known type"
    return f"answered {status_of(exc)} with something that is not S3's ({shown})"


def asked_of(exc: Exception, place: BucketAddress) -> "BucketAddress | str":
    """Who gave the answer: STS, where credentials were asked for, and else the store."""
    if isinstance(exc, ClientError) and exc.operation_name.startswith("AssumeRole"):
        return "AWS STS"
    return "AWS" if isinstance(exc, SysbackupError) else place


def not_s3(exc: NoAnswer, action: Action, place: BucketAddress, times: int) -> StoreError:
    """The error for something that goes on answering, but not as S3 does."""
    return StoreError(
        f"{place} answered {action.operation}{action.target} with something that is not S3's, {times} "
        f"time{'s' if times > 1 else ''} ({str(exc)[:200]}): {_LOOK_AT} "
        "What was stored before stays; the next run goes on from there."
    )


def is_of_credentials(exc: Exception) -> bool:
    """Whether it happened while credentials were fetched, which the first request does, and one now and then."""
    return any(
        frame.f_globals.get("__name__") == "aiobotocore.credentials"
        for frame, _ in traceback.walk_tb(exc.__traceback__)
    )


def not_aws(exc: Exception) -> StoreUnavailable:
    """The error for something that answers in the place of what gives us credentials."""
    return StoreUnavailable(
        f"AWS credentials could not be fetched, what answered is not AWS ({type(exc).__name__}: {str(exc)[:200]}): "
        "check whether a proxy stands between (HTTPS_PROXY, HTTP_PROXY), and AWS_ENDPOINT_URL if it is set."
    )


def _said(exc: ClientError) -> str:
    # RGW sends empty messages, which botocore makes None
    return exc.response.get("Error", {}).get("Message") or ""


def status_of(exc: ClientError) -> int:
    """The HTTP status of an error answer."""
    return exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def is_passing(exc: Exception) -> bool:
    """Whether the same request may well succeed later: the network, a busy store, a damaged transfer."""
    if isinstance(exc, ClientError):
        code, status = code_of(exc), status_of(exc)
        return code in _BUSY or code in _DAMAGED or status == 429 or (status >= 500 and status != 501)
    if isinstance(exc, SSLError):
        return not _is_distrust(exc)
    if isinstance(exc, SysbackupError):
        # raised below us: temporary credentials that could not be renewed just now
        return isinstance(exc, StoreUnavailable)
    return isinstance(
        exc,
        BotoConnectionError
        | HTTPClientError
        | IncompleteReadError
        | MetadataRetrievalError
        | aiohttp.ClientError
        | ConnectionError
        | TimeoutError,
    )


def is_damage(exc: Exception) -> bool:
    """Whether the store got other bytes than were sent."""
    return code_of(exc) in _DAMAGED


def _is_distrust(exc: SSLError) -> bool:
    cause = exc.kwargs.get("error")
    return isinstance(cause, ssl.CertificateError | aiohttp.ClientConnectorCertificateError)


def unavailable(exc: Exception, place: BucketAddress, seconds: float) -> StoreUnavailable:
    """The error for a store that went on failing for `seconds`."""
    return StoreUnavailable(
        f"{asked_of(exc, place)} did not answer as it should for {seconds:.0f} s; the last answer: {trouble(exc)}. "
        "What was stored before stays; the next run goes on from there."
    )


def trouble(exc: Exception) -> str:
    """What was wrong with one try, in a few words."""
    if isinstance(exc, ClientError) and is_foreign(exc):
        return _page(exc)
    said = _said(exc) if isinstance(exc, ClientError) else str(exc)
    return " ".join(part for part in (code_of(exc), said) if part) or type(exc).__name__


def translated(exc: Exception, action: Action, place: BucketAddress) -> SysbackupError:
    """The one error of our tree that says what `exc` means and what to do about it."""
    if isinstance(exc, SysbackupError):
        return exc
    if isinstance(exc, ClientError):
        return _answer(exc, action, place)
    if isinstance(exc, SSLError) and _is_distrust(exc):
        return StoreUnavailable(
            f"The TLS certificate of {place.endpoint} is not trusted: {exc.kwargs.get('error')}. "
            "Name a file with its authority's certificate in [s3] ca_bundle, or mend [s3] endpoint_url."
        )
    return _identity_trouble(exc) or StoreError(
        f"{action.operation}{action.target} in {place} failed: {type(exc).__name__}: {exc}"
    )


def _identity_trouble(exc: Exception) -> SysbackupError | None:
    """No credentials, no region: what fails before a request is sent."""
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return ConfigError(
            f"No usable AWS credentials were found ({exc}): set [aws] profile or credentials_file, "
            "or give the machine a role."
        )
    if isinstance(exc, CredentialRetrievalError | SSOError):
        return AccessDenied(f"AWS credentials could not be fetched: {exc}")
    if isinstance(exc, NoRegionError | InvalidRegionError):
        return ConfigError(f"AWS needs to know a region ({exc}): set [s3] region.")
    if isinstance(exc, MissingDependencyException):
        return ConfigError(f"A library that these AWS settings need is not installed: {exc}")
    return None


def _answer(exc: ClientError, action: Action, place: BucketAddress) -> SysbackupError:
    """What an error answer of S3, or of the STS behind our credentials, means."""
    code, said = code_of(exc), _said(exc)
    if is_foreign(exc):
        return _foreign(exc, action, place)
    return (
        _bucket_trouble(exc, code, said, place)
        or _object_trouble(code, said, action, place)
        or _setting_trouble(code, said, place)
        # last, for an archived object is a 403 as well
        or _denial(exc, code, said, action, place)
        or StoreError(f"{place} refused {action.operation}{action.target}: {code} {said}".rstrip())
    )


def _foreign(exc: ClientError, action: Action, place: BucketAddress) -> StoreError:
    kind = AccessDenied if status_of(exc) in (401, 403) else StoreError
    who = asked_of(exc, place)
    asked = exc.operation_name if who == "AWS STS" else f"{action.operation}{action.target}"
    return kind(f"{asked}: {who} {_page(exc)}: {_LOOK_AT}")


def _denial(exc: ClientError, code: str, said: str, action: Action, place: BucketAddress) -> AccessDenied | None:
    if exc.operation_name.startswith("AssumeRole"):
        return AccessDenied(f"AWS STS refused {exc.operation_name}: {code}: {said}")
    if code in _UNKNOWN_KEY:
        reason = f"was refused: the store does not know this access key ({code})."
    elif code == "SignatureDoesNotMatch":
        reason = f"was refused: the secret key does not fit the access key ({code})."
    elif code in _EXPIRED:
        reason = f"was refused: the credentials have expired or are void ({code}: {said})."
    elif code == "RequestTimeTooSkewed":
        reason = f"was refused: this machine's clock is wrong, check its time service ({said})."
    elif code in _DENIED or status_of(exc) in (401, 403):
        right = _RIGHTS.get(action.operation, f"s3:{action.operation}")
        reason = f"was denied ({said or code}): grant {right}, or look for a policy that denies it."
    else:
        return None
    return AccessDenied(f"{action.operation}{action.target} in {place} {reason}")


def _bucket_trouble(exc: ClientError, code: str, said: str, place: BucketAddress) -> BucketUnusable | None:
    if code == "NoSuchBucket":
        return BucketUnusable(
            f"There is no {place}: check [s3] bucket, endpoint_url and region, or create the bucket "
            "(with Object Lock enabled)."
        )
    if code == NO_OBJECT_LOCK:
        return BucketUnusable(
            f"The {place} has no Object Lock, so nothing was stored. Enable Object Lock on it (AWS: versioning "
            "first, then PutObjectLockConfiguration; other stores: only when a bucket is created), "
            "or set [content] lock_mode = none and do without."
        )
    if code in _ELSEWHERE:
        headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        error: Mapping[str, Any] = exc.response.get("Error", {})
        region = error.get("Region") or headers.get("x-amz-bucket-region")
        hint = f"set [s3] region = {region}" if region else "set [s3] region to where the bucket is"
        return BucketUnusable(f"The {place} is in another region ({said or code}): {hint}.")
    return None


def _object_trouble(code: str, said: str, action: Action, place: BucketAddress) -> StoreError | None:
    version = action.version or "current"
    unreadable = action.operation in _READS and code in _MARKERS
    misnamed = action.version and code == "InvalidArgument" and "version" in said.lower()
    if action.key is not None and (code in _GONE or unreadable or misnamed):
        return ObjectGone(f"{action.key!r} (version {version}) does not exist in {place}.")
    if code == NO_SUCH_UPLOAD:
        return dropped(action.key or "", place)
    if code == "InvalidObjectState":
        return StoreError(
            f"{action.key!r} (version {version}) in {place} is archived: restore it in S3 first ({said})."
        )
    return None


def dropped(key: str, place: BucketAddress) -> StoreError:
    """The error for a multipart upload that the store does not know any more."""
    return StoreError(
        f"{place} dropped the unfinished upload of {key!r} (does a lifecycle rule abort uploads too early?). "
        "Nothing that was stored is lost; run the backup again."
    )


def _setting_trouble(code: str, said: str, place: BucketAddress) -> ConfigError | None:
    if code == "InvalidStorageClass":
        return ConfigError(f"{place} does not know the storage class of [s3] storage_class: {said}")
    if code.startswith("KMS."):
        return ConfigError(f"{place} cannot use the key of [s3] sse_kms_key_id: {code}: {said}")
    return None
