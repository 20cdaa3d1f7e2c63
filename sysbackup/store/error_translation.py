"""The border: foreign errors, in this program's own, each with what to do about it."""

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    InvalidRegionError,
    MissingDependencyException,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    SSLError,
    SSOError,
)

from sysbackup.errors import AccessDenied, ConfigError, StoreError, StoreUnavailable, SysbackupError
from sysbackup.store.addressing import Action, BucketAddress
from sysbackup.store.answers import NoAnswer
from sysbackup.store.error_codes import is_distrust, is_foreign, is_of_sts, page, status_of
from sysbackup.store.error_meanings import refusal

_LOOK_AT = "check [s3] endpoint_url, and whether a proxy stands between (HTTPS_PROXY, HTTP_PROXY)."

# what fails before a request is sent
_UNSENT: tuple[tuple[tuple[type[Exception], ...], type[SysbackupError], str], ...] = (
    (
        (NoCredentialsError, PartialCredentialsError),
        ConfigError,
        "No usable AWS credentials were found ({0}): set [aws] profile or credentials_file, "
        "or give the machine a role.",
    ),
    ((CredentialRetrievalError, SSOError), AccessDenied, "AWS credentials could not be fetched: {0}"),
    ((NoRegionError, InvalidRegionError), ConfigError, "AWS needs to know a region ({0}): set [s3] region."),
    ((MissingDependencyException,), ConfigError, "A library that these AWS settings need is not installed: {0}"),
)


def translated(exc: Exception, action: Action, place: BucketAddress) -> SysbackupError:
    """The one error of our tree that says what `exc` means and what to do about it."""
    if isinstance(exc, SysbackupError):
        return exc
    if isinstance(exc, ClientError):
        return _foreign(exc, action, place) if is_foreign(exc) else refusal(exc, action, place)
    if isinstance(exc, SSLError) and is_distrust(exc):
        return StoreUnavailable(
            f"The TLS certificate of {place.endpoint} is not trusted: {exc.kwargs.get('error')}. "
            "Name a file with its authority's certificate in [s3] ca_bundle, or mend [s3] endpoint_url."
        )
    for kinds, error, says in _UNSENT:
        if isinstance(exc, kinds):
            return error(says.format(exc))
    return StoreError(f"{action} in {place} failed: {type(exc).__name__}: {exc}")


def _foreign(exc: ClientError, action: Action, place: BucketAddress) -> StoreError:
    kind = AccessDenied if status_of(exc) in (401, 403) else StoreError
    asked = exc.operation_name if is_of_sts(exc) else str(action)
    return kind(f"{asked}: {asked_of(exc, place)} {page(exc)}: {_LOOK_AT}")


def asked_of(exc: Exception, place: BucketAddress) -> str:
    """Who gave the answer: STS, where credentials were asked for, and else the store."""
    if is_of_sts(exc):
        return "AWS STS"
    return "AWS" if isinstance(exc, SysbackupError) else str(place)


def not_s3(exc: NoAnswer, action: Action, place: BucketAddress, times: int) -> StoreError:
    """The error for something that goes on answering, but not as S3 does."""
    return StoreError(
        f"{place} answered {action} with something that is not S3's, {times} "
        f"time{'s' if times > 1 else ''} ({str(exc)[:200]}): {_LOOK_AT} "
        "What was stored before stays; the next run goes on from there."
    )


def not_aws(exc: Exception) -> StoreUnavailable:
    """The error for something that answers in the place of what gives us credentials."""
    return StoreUnavailable(
        f"AWS credentials could not be fetched, what answered is not AWS ({type(exc).__name__}: {str(exc)[:200]}): "
        "check whether a proxy stands between (HTTPS_PROXY, HTTP_PROXY), and AWS_ENDPOINT_URL if it is set."
    )


def unavailable(asked: str, trouble: str, seconds: float) -> StoreUnavailable:
    """The error for who went on failing for `seconds`."""
    return StoreUnavailable(
        f"{asked} did not answer as it should for {seconds:.0f} s; the last answer: {trouble}. "
        "What was stored before stays; the next run goes on from there."
    )
