"""
Who we are to AWS, and clients that speak for us.

Without `[aws] credentials_file` the AWS SDKs' usual chain decides: environment,
profiles, web identity, container, instance. With it, that file alone does.
"""

import asyncio
import getpass
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.configloader
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentialResolver, AioDeferredRefreshableCredentials
from aiobotocore.session import AioSession
from botocore.credentials import CredentialProvider
from botocore.exceptions import ConfigNotFound, ConfigParseError, ProfileNotFound

from sysbackup.aws.aws_errors import translating
from sysbackup.config.certificates import need_certificates
from sysbackup.config.sections import Config
from sysbackup.errors import ConfigError
from sysbackup.version import VERSION

if TYPE_CHECKING:
    from types_aiobotocore_cloudformation.client import CloudFormationClient
    from types_aiobotocore_s3.client import S3Client

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0

# connections beyond those of the uploads: listings, locks, aborts
_SPARE_CONNECTIONS = 8

# any of these makes a section of a credentials file one that identifies somebody
_IDENTITIES = ("aws_access_key_id", "credential_process", "role_arn", "sso_session", "sso_start_url")

# STS and CloudFormation, which nobody else tries again
_ATTEMPTS = 5


@asynccontextmanager
async def s3_client(config: Config) -> AsyncIterator["S3Client"]:
    """
    A client for the bucket's store, fit for `store.stack.s3_store`.

    It tries each request once: `store.retrying` decides about trying again.
    """
    settings = _settings(
        s3={"addressing_style": config.s3.addressing_style},
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=config.run.uploads + _SPARE_CONNECTIONS,
    )
    session = await asyncio.to_thread(open_session, config)
    verify = await asyncio.to_thread(_trusted, session, config)
    async with AsyncExitStack() as stack:
        with translating("Opening the S3 client", "See [s3] endpoint_url and region, and [aws], in the configuration."):
            client = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=config.s3.region,
                    endpoint_url=config.s3.endpoint_url,
                    verify=verify,
                    config=settings,
                )
            )
        yield client


@asynccontextmanager
async def cloudformation_client(config: Config) -> AsyncIterator["CloudFormationClient"]:
    """A client for CloudFormation in `[cloudformation] region`, or else the session's own region."""
    session = await asyncio.to_thread(open_session, config)
    verify = await asyncio.to_thread(_trusted, session, config)
    async with AsyncExitStack() as stack:
        with translating(
            "Opening the CloudFormation client",
            "Set [cloudformation] region, or [s3] bucket if the bucket's name is known.",
        ):
            client = await stack.enter_async_context(
                session.create_client(
                    "cloudformation", region_name=config.cloudformation.region, verify=verify, config=_settings()
                )
            )
        yield client


def open_session(config: Config) -> AioSession:
    """
    A session that stands for whom `[aws]` names.

    Reads files: not for the loop's own thread. `ConfigError` where a file or
    profile is missing.
    """
    aws = config.aws
    if aws.credentials_file is None:
        if aws.role_arn:
            raise ConfigError(
                "[aws] role_arn needs credentials_file. To assume a role from other credentials, put role_arn and "
                "source_profile (or credential_source) into a profile of ~/.aws/config and name it in [aws] profile."
            )
        return _standard(aws.profile)
    profile, named_by = _profile(aws.profile)
    _need_identity(aws.credentials_file, profile, named_by)
    session = AioSession(profile=profile)
    session.set_config_variable("credentials_file", str(aws.credentials_file))
    # nothing but that file: somebody's ~/.aws/config must not change what it means
    session.set_config_variable("config_file", os.devnull)
    return _assuming(session, aws.role_arn, config) if aws.role_arn else session


def _standard(profile: str | None) -> AioSession:
    session = AioSession(profile=profile)
    try:
        session.get_scoped_config()
    except ProfileNotFound as exc:
        name, named_by = _profile(profile)
        raise ConfigError(
            f"AWS profile {name!r}, named by {named_by}, is neither in {session.get_config_variable('config_file')} "
            f"nor in {session.get_config_variable('credentials_file')}."
        ) from exc
    except ConfigParseError as exc:
        raise ConfigError(f"The AWS configuration cannot be read: {exc}") from exc
    return session


def _profile(configured: str | None) -> tuple[str, str]:
    """The profile in force, and what names it."""
    if configured:
        return configured, "[aws] profile"
    if named := os.environ.get("AWS_PROFILE"):
        return named, "the environment's AWS_PROFILE"
    return "default", "no setting (the default)"


def _need_identity(path: Path, profile: str, named_by: str) -> None:
    try:
        with path.open("rb"):
            pass
        sections = botocore.configloader.raw_config_parse(str(path))
    except (OSError, ConfigNotFound) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a regular file"
        raise ConfigError(f"{path}, named by [aws] credentials_file, cannot be read: {reason}.") from exc
    except ConfigParseError as exc:
        raise ConfigError(
            f"{path}, named by [aws] credentials_file, is not in the form of an AWS credentials file."
        ) from exc
    if profile not in sections:
        known = ", ".join(sections) or "none"
        raise ConfigError(
            f"{path}, named by [aws] credentials_file, has no profile {profile!r} (which {named_by} names); "
            f"it has: {known}."
        )
    if not any(name in sections[profile] for name in _IDENTITIES):
        raise ConfigError(
            f"Profile {profile!r} in {path}, named by [aws] credentials_file, holds no credentials: "
            "aws_access_key_id and aws_secret_access_key are missing."
        )


def _assuming(source: AioSession, role_arn: str, config: Config) -> AioSession:
    """
    A session under `role_arn`, assumed with the credentials of `source`.

    It asks STS at its first request, and again a quarter of an hour before what
    it got expires, however long a run lasts.
    """
    region = source.get_config_variable("region") or config.s3.region or "us-east-1"
    name = session_name(_user(), config.content.host)

    async def assume() -> dict[str, Any]:
        with translating(f"Assuming role {role_arn} as {name}", "Check [aws] role_arn and the role's trust policy."):
            verify = await asyncio.to_thread(_trusted, source, config)
            async with source.create_client("sts", region_name=region, verify=verify, config=_settings()) as sts:
                answer = await sts.assume_role(RoleArn=role_arn, RoleSessionName=name)
        credentials = answer["Credentials"]
        return {
            "access_key": credentials["AccessKeyId"],
            "secret_key": credentials["SecretAccessKey"],
            "token": credentials["SessionToken"],
            "expiry_time": credentials["Expiration"].isoformat(),
        }

    session = AioSession(profile=source.profile)
    for variable in ("credentials_file", "config_file"):
        session.set_config_variable(variable, source.get_config_variable(variable))
    session.register_component("credential_provider", AioCredentialResolver([_RoleProvider(assume)]))
    return session


class _RoleProvider(CredentialProvider):
    """A link of botocore's credential chain that gives a role's temporary credentials."""

    METHOD = "sysbackup-assume-role"

    def __init__(self, assume: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        super().__init__()
        self._assume = assume

    async def load(self) -> AioDeferredRefreshableCredentials:
        return AioDeferredRefreshableCredentials(refresh_using=self._assume, method=self.METHOD)


def _trusted(session: AioSession, config: Config) -> str | None:
    """
    The file of trusted certificates: `[s3] ca_bundle`, else AWS_CA_BUNDLE or a profile's; None for certifi's.

    Reads it: not for the loop's own thread. aiohttp would read it at the first
    request, and what it says of a missing one looks like a store that is down.
    """
    named = config.s3.ca_bundle or session.get_config_variable("ca_bundle")
    if not named:
        return None
    setting = "[s3] ca_bundle" if config.s3.ca_bundle else "AWS_CA_BUNDLE, or a profile's ca_bundle,"
    try:
        need_certificates(Path(named))
    except ValueError as exc:
        raise ConfigError(f"{setting} = {named} {exc}: name the certificate of the store's authority.") from exc
    return str(named)


def session_name(user: str, host: str) -> str:
    """`user@host` in the letters and the length that STS takes (AssumeRole: 2 to 64 of `[\\w+=,.@-]`)."""
    return re.sub(r"[^\w+=,.@-]", "-", f"{user or '-'}@{host or '-'}", flags=re.ASCII)[:64]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # a user id without an entry in the user database: systemd's DynamicUser, containers
        return f"uid-{os.getuid()}"


def _settings(**more: Any) -> AioConfig:
    """What all clients have in common; checksums are computed by us, and only where S3 needs them."""
    return AioConfig(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra=f"sysbackup/{VERSION}",
        connector_args={"socket_factory": _socket},
        **({"retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS}} | more),
    )


def _socket(address: Any) -> socket.socket:
    """
    A socket that notices a peer that is gone.

    READ_SECONDS counts from the end of a request's body only; a body that nobody
    takes in would otherwise be tried for a quarter of an hour (tcp(7)).
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_SECONDS * 1000))
    return made
