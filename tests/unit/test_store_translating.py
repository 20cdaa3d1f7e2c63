"""The border to botocore: answers that no test server gives, as AWS documents them."""

import ssl

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from sysbackup.errors import (
    AccessDenied,
    BucketUnusable,
    ConfigError,
    ObjectGone,
    StoreError,
    StoreUnavailable,
    SysbackupError,
)
from sysbackup.store.addressing import Action, BucketAddress
from sysbackup.store.error_codes import is_passing
from sysbackup.store.error_translation import translated

PLACE = BucketAddress("backups", "https://s3.eu-central-1.amazonaws.com")


def answer(
    code: str, status: int, message: str | None = "said so", operation: str = "PutObject", **more: str
) -> ClientError:
    error = {"Code": code, "Message": message, **more}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[typeddict-item]  # as the servers really answer


@pytest.mark.parametrize(
    ("exc", "kind", "says"),
    [
        (answer("AccessDenied", 403), AccessDenied, "grant s3:PutObject and, for its lock, s3:PutObjectRetention"),
        (answer("InvalidAccessKeyId", 403), AccessDenied, "does not know this access key"),
        (answer("SignatureDoesNotMatch", 403), AccessDenied, "secret key does not fit"),
        (answer("ExpiredToken", 400), AccessDenied, "expired"),
        (answer("RequestTimeTooSkewed", 403), AccessDenied, "clock is wrong"),
        (answer("403", 403, "Forbidden", "HeadObject"), AccessDenied, "denied"),
        (answer("AccessDenied", 403, "no", "AssumeRole"), AccessDenied, "STS"),
        (answer("NoSuchBucket", 404), BucketUnusable, "create the bucket"),
        (answer("InvalidRequest", 400, "Bucket is missing Object Lock Configuration"), BucketUnusable, "Object Lock"),
        (answer("InvalidRequest", 400, None), BucketUnusable, "lock_mode = none"),
        (answer("PermanentRedirect", 301, "elsewhere", Region="eu-west-1"), BucketUnusable, "region = eu-west-1"),
        (answer("AuthorizationHeaderMalformed", 400, "x", Region="eu-west-1"), BucketUnusable, "region = eu-west-1"),
        (answer("NoSuchKey", 404), ObjectGone, "'content/ab' (version v1)"),
        (answer("NoSuchVersion", 404), ObjectGone, "'content/ab' (version v1)"),
        (answer("404", 404, "Not Found", "HeadObject"), ObjectGone, "does not exist"),
        (answer("InvalidArgument", 400, "Invalid version id specified"), ObjectGone, "does not exist"),
        (answer("NoSuchUpload", 404), StoreError, "dropped the unfinished upload"),
        (answer("InvalidObjectState", 403), StoreError, "restore it in S3 first"),
        (answer("MethodNotAllowed", 405, "no", "PutObject"), StoreError, "refused PutObject"),
        (answer("InvalidStorageClass", 400), ConfigError, "storage_class"),
        (answer("KMS.NotFoundException", 400), ConfigError, "sse_kms_key_id"),
        (answer("EntityTooLarge", 400, "too large"), StoreError, "EntityTooLarge too large"),
        (NoCredentialsError(), ConfigError, "credentials_file"),
        (CredentialRetrievalError(provider="process", error_msg="exit 1"), AccessDenied, "exit 1"),
        (
            SSLError(endpoint_url="https://x", error=ssl.SSLCertVerificationError("self-signed certificate")),
            StoreUnavailable,
            "[s3] ca_bundle",
        ),
        (BotoCoreError(), StoreError, "BotoCoreError"),
    ],
)
def test_each_trouble_comes_out_as_what_to_do(exc: Exception, kind: type[SysbackupError], says: str) -> None:
    """One class of our tree each, and the sentence that helps."""
    ours = translated(exc, Action("PutObject", "content/ab", "v1"), PLACE)
    assert type(ours) is kind
    assert says in str(ours)


def test_our_own_errors_pass_through() -> None:
    """What was raised below, by a role that could not be assumed, is not wrapped once more."""
    ours = AccessDenied("no role")
    assert translated(ours, Action("PutObject", "k"), PLACE) is ours


@pytest.mark.parametrize(
    ("exc", "passing"),
    [
        (answer("SlowDown", 503), True),
        (answer("InternalError", 500), True),
        (answer("InternalError", 200), True),
        (answer("RequestTimeout", 400), True),
        (answer("ConditionalRequestConflict", 409), True),
        (answer("OperationAborted", 409), True),
        (answer("TooManyRequests", 429), True),
        (answer("BadDigest", 400), True),
        (answer("NotImplemented", 501), False),
        (answer("AccessDenied", 403), False),
        (answer("NoSuchKey", 404), False),
        (answer("PreconditionFailed", 412), False),
        (EndpointConnectionError(endpoint_url="x", error="refused"), True),
        (ConnectTimeoutError(endpoint_url="x"), True),
        (ReadTimeoutError(endpoint_url="x"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (StoreUnavailable("STS is down"), True),
        (SSLError(endpoint_url="x", error=ssl.SSLEOFError("EOF")), True),
        (SSLError(endpoint_url="x", error=ssl.SSLCertVerificationError("untrusted")), False),
        (NoCredentialsError(), False),
        (AccessDenied("no"), False),
        (FileNotFoundError("token"), False),
    ],
)
def test_only_passing_trouble_is_worth_another_try(exc: Exception, passing: bool) -> None:
    """The network, a busy store, a damaged transfer; never a refusal or a mistake."""
    assert is_passing(exc) is passing
