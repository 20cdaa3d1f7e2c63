"""What an error answer in S3's words means and what to do about it: one table."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from botocore.exceptions import ClientError

from sysbackup.errors import AccessDenied, BucketUnusable, ConfigError, ObjectGone, StoreError, SysbackupError
from sysbackup.store.addressing import Action, BucketAddress
from sysbackup.store.error_codes import NO_OBJECT_LOCK, NO_SUCH_UPLOAD, code_of, is_of_sts, said, status_of

_READS = ("GetObject", "HeadObject", "GetObjectRetention")

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


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An error answer in S3's words, and what it answers."""

    exc: ClientError
    action: Action
    place: BucketAddress

    @property
    def code(self) -> str:
        return code_of(self.exc)

    @property
    def said(self) -> str:
        return said(self.exc)

    @property
    def reason(self) -> str:
        """Its message, or else its code."""
        return self.said or self.code

    @property
    def key(self) -> str:
        return self.action.key or ""

    @property
    def version(self) -> str:
        return self.action.version or "current"

    @property
    def right(self) -> str:
        """What has to be granted for it."""
        return _RIGHTS.get(self.action.operation, f"s3:{self.action.operation}")

    @property
    def region(self) -> str:
        """How to name the bucket's region."""
        headers = self.exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        # the stubs do not know of the region that an error may tell
        told = dict(self.exc.response.get("Error", {})).get("Region") or headers.get("x-amz-bucket-region")
        return f"set [s3] region = {told}" if told else "set [s3] region to where the bucket is"

    @property
    def of_object(self) -> bool:
        return self.action.key is not None

    @property
    def names_no_version(self) -> bool:
        return self.of_object and bool(self.action.version) and "version" in self.said.lower()

    @property
    def denies(self) -> bool:
        return self.code in _DENIED or status_of(self.exc) in (401, 403)


def _always(_: _Refusal) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Meaning:
    """
    What an answer with one of these codes (None: any) means, where `when` says so too.

    `says` is formatted with the `_Refusal`.
    """

    codes: Collection[str] | None
    error: type[SysbackupError]
    says: str
    when: Callable[[_Refusal], bool] = _always


_GONE = "{0.key!r} (version {0.version}) does not exist in {0.place}."
_DROPPED = (
    "{0.place} dropped the unfinished upload of {0.key!r} (does a lifecycle rule abort uploads too early?). "
    "Nothing that was stored is lost; run the backup again."
)
_REFUSED = "{0.action} in {0.place} was refused: "

_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"}
_ELSEWHERE |= {"IllegalLocationConstraintException", "IncorrectEndpoint", "301", "307"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"}
_DENIED = {"AccessDenied", "AccessDeniedException", "Forbidden", "403", "AllAccessDisabled", "AccountProblem"}
_DENIED |= {"InvalidPayer", "UnauthorizedAccess", "Unauthorized", "401", "InvalidSecurity"}

# the first that fits; denials stand last, for an archived object is a 403 as well
_MEANINGS = (
    _Meaning(
        {"NoSuchBucket"},
        BucketUnusable,
        "There is no {0.place}: check [s3] bucket, endpoint_url and region, or create the bucket "
        "(with Object Lock enabled).",
    ),
    _Meaning(
        {NO_OBJECT_LOCK},
        BucketUnusable,
        "The {0.place} has no Object Lock, so nothing was stored. Enable Object Lock on it (AWS: versioning "
        "first, then PutObjectLockConfiguration; other stores: only when a bucket is created), "
        "or set [content] lock_mode = none and do without.",
    ),
    _Meaning(_ELSEWHERE, BucketUnusable, "The {0.place} is in another region ({0.reason}): {0.region}."),
    _Meaning({"NoSuchKey", "NoSuchVersion", "404"}, ObjectGone, _GONE, lambda it: it.of_object),
    # how a delete marker answers who reads it
    _Meaning({"MethodNotAllowed", "405"}, ObjectGone, _GONE, lambda it: it.of_object and it.action.operation in _READS),
    _Meaning({"InvalidArgument"}, ObjectGone, _GONE, lambda it: it.names_no_version),
    _Meaning({NO_SUCH_UPLOAD}, StoreError, _DROPPED),
    _Meaning(
        {"InvalidObjectState"},
        StoreError,
        "{0.key!r} (version {0.version}) in {0.place} is archived: restore it in S3 first ({0.said}).",
    ),
    _Meaning(
        {"InvalidStorageClass"},
        ConfigError,
        "{0.place} does not know the storage class of [s3] storage_class: {0.said}",
    ),
    _Meaning(
        None,
        ConfigError,
        "{0.place} cannot use the key of [s3] sse_kms_key_id: {0.code}: {0.said}",
        lambda it: it.code.startswith("KMS."),
    ),
    _Meaning(
        None,
        AccessDenied,
        "AWS STS refused {0.exc.operation_name}: {0.code}: {0.said}",
        lambda it: is_of_sts(it.exc),
    ),
    _Meaning(
        {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "NotSignedUp"},
        AccessDenied,
        _REFUSED + "the store does not know this access key ({0.code}).",
    ),
    _Meaning(
        {"SignatureDoesNotMatch"},
        AccessDenied,
        _REFUSED + "the secret key does not fit the access key ({0.code}).",
    ),
    _Meaning(_EXPIRED, AccessDenied, _REFUSED + "the credentials have expired or are void ({0.code}: {0.said})."),
    _Meaning(
        {"RequestTimeTooSkewed"},
        AccessDenied,
        _REFUSED + "this machine's clock is wrong, check its time service ({0.said}).",
    ),
    _Meaning(
        None,
        AccessDenied,
        "{0.action} in {0.place} was denied ({0.reason}): grant {0.right}, or look for a policy that denies it.",
        lambda it: it.denies,
    ),
)


def refusal(exc: ClientError, action: Action, place: BucketAddress) -> SysbackupError:
    """What an error answer of S3, or of the STS behind our credentials, means."""
    it = _Refusal(exc, action, place)
    for meaning in _MEANINGS:
        if (meaning.codes is None or it.code in meaning.codes) and meaning.when(it):
            return meaning.error(meaning.says.format(it))
    return StoreError(f"{place} refused {action}: {it.code} {it.said}".rstrip())
