"""Credentials, roles and the bucket's name, against moto's STS and CloudFormation."""

import configparser
import functools
import getpass
import io
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import uvloop
from aiobotocore.credentials import AioDeferredRefreshableCredentials
from types_aiobotocore_cloudformation.client import CloudFormationClient

from sysbackup import logs
from sysbackup.api.connecting import open_store
from sysbackup.aws import sessions
from sysbackup.aws.bucket import find_bucket
from sysbackup.aws.sessions import cloudformation_client, s3_client
from sysbackup.config.sections import Aws, CloudFormation, Config, Content
from sysbackup.errors import AccessDenied, ConfigError, StoreUnavailable
from tests.support.clock import ManualClock
from tests.support.proxy import Fault, Proxy, proxying
from tests.support.servers import REGION, OnServer, Server

ROLE = "arn:aws:iam::123456789012:role/backup-writer"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moto: Server) -> None:
    """Nothing of the machine's own AWS settings; STS and CloudFormation are moto's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", moto.endpoint)


def ini(path: Path, **profiles: dict[str, str]) -> Path:
    parser = configparser.RawConfigParser()
    parser.read_dict(profiles)
    with path.open("w") as file:
        parser.write(file)
    return path


def keys(name: str) -> dict[str, str]:
    return {"aws_access_key_id": name, "aws_secret_access_key": f"secret of {name}"}


async def key_used(config: Config) -> str:
    """The access key by which an S3 request is signed."""
    with proxying(config.s3.endpoint_url or "") as proxy:
        seen = msgspec.structs.replace(config, s3=msgspec.structs.replace(config.s3, endpoint_url=proxy.url))
        async with open_store(seen) as store:
            await store.check()
        return proxy.heads[0].split("Credential=", 1)[1].split("/", 1)[0]


def test_the_credentials_file_alone_counts(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment and ~/.aws are not asked where a file is named; its profile is `[aws] profile`, or `default`."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    ini(tmp_path / "aws-credentials", default=keys("HOME"), backup=keys("HOMEBACKUP"))
    named = ini(tmp_path / "named", default=keys("DEFAULT"), backup=keys("BACKUP"))
    config = moto_bucket.server.config(moto_bucket.name)

    async def body() -> None:
        for profile, key in ((None, "DEFAULT"), ("backup", "BACKUP")):
            aws = Aws(credentials_file=named, profile=profile)
            assert await key_used(msgspec.structs.replace(config, aws=aws)) == key
        monkeypatch.setenv("AWS_PROFILE", "backup")
        aws = Aws(credentials_file=named)
        assert await key_used(msgspec.structs.replace(config, aws=aws)) == "BACKUP"

    uvloop.run(body())


def test_without_a_credentials_file_the_usual_chain_counts(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`[aws] profile` before the environment, the environment before the default profile; AWS_PROFILE chooses one."""
    ini(tmp_path / "aws-credentials", default=keys("HOME"), backup=keys("HOMEBACKUP"))
    config = msgspec.structs.replace(moto_bucket.server.config(moto_bucket.name), aws=Aws())

    async def body() -> None:
        assert await key_used(config) == "HOME"
        monkeypatch.setenv("AWS_PROFILE", "backup")
        assert await key_used(config) == "HOMEBACKUP"
        monkeypatch.delenv("AWS_PROFILE")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        assert await key_used(config) == "ENVIRONMENT"
        assert await key_used(msgspec.structs.replace(config, aws=Aws(profile="backup"))) == "HOMEBACKUP"

    uvloop.run(body())


def assuming(moto: Server, bucket: str, tmp_path: Path) -> Config:
    return msgspec.structs.replace(
        moto.config(bucket),
        aws=Aws(credentials_file=ini(tmp_path / "named", default=keys("SOURCE")), role_arn=ROLE),
        content=Content(host="db 1.example.org"),
    )


def asked_of_sts(proxy: Proxy) -> int:
    return proxy.count("^POST / ")


def test_a_role_is_assumed_under_a_name_that_tells_who_it_was(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`user@host` in STS's alphabet; the S3 requests go out under the role's own key."""
    config = assuming(moto_bucket.server, moto_bucket.name, tmp_path)

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as sts:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
            assert (await key_used(config)).startswith("ASIA")
            assert asked_of_sts(sts) == 1
            (sent,) = sts.bodies
            assert f"RoleSessionName={getpass.getuser()}%40db-1.example.org" in sent.decode()

    uvloop.run(body())


def test_a_role_is_assumed_again_before_its_credentials_expire(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may last longer than an hour: within the same open store the role is renewed in time."""
    config = assuming(moto_bucket.server, moto_bucket.name, tmp_path)
    clock = ManualClock(datetime.now(UTC))
    told = functools.partial(AioDeferredRefreshableCredentials, time_fetcher=clock.now)
    monkeypatch.setattr(sessions, "AioDeferredRefreshableCredentials", told)

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as sts:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
            async with open_store(config) as store:
                await store.check()
                clock.turn(minutes=30)
                await store.check()
                assert asked_of_sts(sts) == 1
                clock.turn(minutes=20)
                await store.check()
                assert asked_of_sts(sts) == 2

    uvloop.run(body())


def test_a_role_that_cannot_be_assumed_is_named(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store's error names the role, not the object that happened to be first."""
    config = assuming(moto_bucket.server, moto_bucket.name, tmp_path)
    config = msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, give_up_after=0.5))
    monkeypatch.setattr(sessions, "_ATTEMPTS", 1)

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as sts:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
            sts.fail("^POST / ", Fault.DENIED, *range(1, 100))
            async with open_store(config) as store:
                with pytest.raises(AccessDenied, match=ROLE):
                    await store.check()
        with proxying(moto_bucket.server.endpoint) as sts:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
            sts.fail("^POST / ", Fault.BUSY, *range(1, 100))
            async with open_store(config) as store:
                with pytest.raises(StoreUnavailable, match=ROLE):
                    await store.check()

    uvloop.run(body())


@pytest.mark.parametrize("fault", [Fault.BROKEN_HTML, Fault.HTML, Fault.XHTML, Fault.JSON, Fault.EMPTY])
def test_an_sts_that_is_none_is_blamed_and_not_the_bucket(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """A page or an empty answer in its place: the error names the role, and no log holds a traceback."""
    config = assuming(moto_bucket.server, moto_bucket.name, tmp_path)
    config = msgspec.structs.replace(config, run=msgspec.structs.replace(config.run, give_up_after=0.5))
    monkeypatch.setattr(sessions, "_ATTEMPTS", 1)

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as sts:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
            sts.fail("^POST / ", fault, *range(1, 100))
            async with open_store(config) as store:
                with pytest.raises(StoreUnavailable, match=ROLE) as caught:
                    await store.check()
        assert moto_bucket.name not in str(caught.value)

    said = io.StringIO()
    logs.configure(stream=said)
    uvloop.run(body())
    assert "Refreshing temporary credentials failed" in said.getvalue()
    assert ROLE in said.getvalue()
    assert "Traceback" not in said.getvalue()


@pytest.mark.parametrize("fault", [Fault.BROKEN_HTML, Fault.HTML, Fault.XHTML, Fault.JSON, Fault.EMPTY])
def test_the_role_of_a_profile_is_no_matter_of_the_bucket(
    moto_bucket: OnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Where botocore itself assumes a role, and a page answers for STS: credentials are named, and no bucket."""
    (tmp_path / "config").write_text(
        f"[profile theirs]\nrole_arn = {ROLE}\nsource_profile = default\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(moto_bucket.server.credentials))
    config = moto_bucket.server.config(moto_bucket.name, give_up_after=0.5)
    config = msgspec.structs.replace(config, aws=Aws(profile="theirs"))

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as sts:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
            sts.fail("^POST / ", fault, *range(1, 100))
            async with open_store(config) as store:
                with pytest.raises(StoreUnavailable, match=r"credentials|STS") as caught:
                    await store.check()
            assert moto_bucket.name not in str(caught.value)
            sts.forgive()
            async with open_store(config) as store:
                await store.check()

    uvloop.run(body())


@asynccontextmanager
async def administrator(config: Config) -> AsyncIterator[CloudFormationClient]:
    async with cloudformation_client(config) as client:
        yield client


def exporting(moto: Server, tmp_path: Path, *, region: str | None, export: str) -> Config:
    """A configuration without a bucket."""
    config = moto.config("unused")
    return msgspec.structs.replace(
        config,
        s3=msgspec.structs.replace(config.s3, bucket=None),
        cloudformation=CloudFormation(region=region, export=export),
    )


def test_the_bucket_is_found_by_its_export(moto: Server, tmp_path: Path) -> None:
    """Among more exports than one answer holds, and only in its own region."""
    unique = uuid.uuid4().hex[:8]
    config = exporting(moto, tmp_path, region="eu-central-1", export=f"backup-bucket-{unique}")
    outputs = {f"O{n}": {"Value": f"v{n}", "Export": {"Name": f"a{unique}-{n:03}"}} for n in range(120)}
    outputs["Bucket"] = {"Value": "the-bucket", "Export": {"Name": f"backup-bucket-{unique}"}}
    resources = {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {}}}
    template = json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources, "Outputs": outputs})

    async def body() -> None:
        async with administrator(config) as client:
            await client.create_stack(StackName=f"s{unique}", TemplateBody=template)
        assert await find_bucket(config) == "the-bucket"
        other = exporting(moto, tmp_path, region="us-west-2", export=f"backup-bucket-{unique}")
        with pytest.raises(ConfigError, match=f"us-west-2.*backup-bucket-{unique}"):
            await find_bucket(other)

    uvloop.run(body())


def test_without_a_region_the_export_cannot_be_looked_up(moto: Server, tmp_path: Path) -> None:
    """What to set is said; the session's own region serves where there is one."""

    async def body() -> None:
        config = exporting(moto, tmp_path, region=None, export="none")
        with pytest.raises(ConfigError, match=r"\[cloudformation\] region"):
            await find_bucket(config)

    uvloop.run(body())


def test_a_configured_bucket_is_not_looked_up(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudFormation need not even be there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:1")
    assert uvloop.run(find_bucket(moto.config("mine"))) == "mine"


def test_an_endpoint_that_is_no_url_is_a_mistake_of_the_configuration(moto: Server) -> None:
    """Said before anything is tried."""

    async def body() -> None:
        config = moto.config("b", endpoint_url="not a url")
        with pytest.raises(ConfigError, match="not a url"):
            async with s3_client(config):
                raise AssertionError("a client was opened")

    uvloop.run(body())


def test_requests_say_that_they_are_sysbackups(moto_bucket: OnServer) -> None:
    """So that a server's log tells backups from the rest."""

    async def body() -> None:
        with proxying(moto_bucket.server.endpoint) as proxy:
            async with moto_bucket.store(endpoint_url=proxy.url, region=REGION) as store:
                await store.check()
            assert "sysbackup/" in proxy.heads[0]

    uvloop.run(body())
