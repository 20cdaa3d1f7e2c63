"""What a person is told when a server refuses: each error names what to do, on real servers."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import uvloop

from sysbackup.api.connecting import open_store
from sysbackup.config.sections import Aws
from sysbackup.errors import AccessDenied, BucketUnusable, ConfigError, StoreError
from sysbackup.model import Lock, LockMode
from sysbackup.store.port import ObjectStore
from tests.support.asking import lock
from tests.support.servers import OnServer, Server

Act = Callable[[ObjectStore], Awaitable[None]]


async def put(store: ObjectStore) -> None:
    await store.put("k", b"x", lock())


async def upload(store: ObjectStore) -> None:
    async with store.upload("k", lock()) as upload:
        await upload.part(1, b"x")
        await upload.finish()


async def check(store: ObjectStore) -> None:
    await store.check()


async def read(store: ObjectStore) -> None:
    async for _ in store.read("k", None):
        pass


async def deny(bucket: OnServer, *actions: str) -> None:
    arns = [f"arn:aws:s3:::{bucket.name}", f"arn:aws:s3:::{bucket.name}/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": [*actions], "Resource": arns}
    async with bucket.server.client() as client:
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        await client.put_bucket_policy(Bucket=bucket.name, Policy=policy)


@pytest.mark.parametrize("act", [check, put, upload, read])
def test_a_bucket_that_does_not_exist_is_unusable(server: Server, act: Act) -> None:
    """Named with its endpoint, whatever the first request is."""
    missing = OnServer(server, "no-such-bucket")

    async def body() -> None:
        async with missing.store(give_up_after=1) as store:
            with pytest.raises(BucketUnusable, match=f"no-such-bucket.*{server.endpoint}"):
                await act(store)

    uvloop.run(body())


@pytest.mark.parametrize("act", [put, upload])
def test_a_bucket_without_object_lock_is_unusable(server: Server, act: Act) -> None:
    """The error says how to enable it, and how to do without."""

    async def body() -> None:
        bucket = await server.bucket(locking=False)
        async with bucket.store(give_up_after=1) as store:
            with pytest.raises(BucketUnusable, match=r"Object Lock.*lock_mode = none"):
                await act(store)
        assert await bucket.unfinished() == 0

    uvloop.run(body())


def test_a_bucket_without_object_lock_serves_without_locks(server: Server) -> None:
    """`lock_mode = none` works on it, versions or not."""

    async def body() -> None:
        bucket = await server.bucket(locking=False)
        none = Lock(LockMode.NONE, datetime.now(UTC))
        async with bucket.store() as store:
            stored = await store.put("k", b"x", none, once=True)
            assert stored.version is None
            assert await store.lock_of("k", None) is None
            assert await store.renew("k", None, none) == none
            assert [(v.key, v.version) async for v in store.versions("")] == [("k", None)]
            assert [chunk async for chunk in store.read("k", None)] == [b"x"]

    uvloop.run(body())


@pytest.mark.parametrize(
    ("key", "secret", "reason"), [("testkey", "wrong", "secret key"), ("nobody", "wrong", "access key")]
)
def test_wrong_credentials_are_told_apart(rgw: Server, tmp_path: Path, key: str, secret: str, reason: str) -> None:
    """A mistyped secret is not an unknown key; neither appears in the error."""
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")

    async def body() -> None:
        bucket = await rgw.bucket()
        config = msgspec.structs.replace(rgw.config(bucket.name), aws=Aws(credentials_file=credentials))
        async with open_store(config) as store:
            with pytest.raises(AccessDenied, match=reason) as caught:
                await store.check()
        assert key not in str(caught.value)
        assert secret not in str(caught.value)

    uvloop.run(body())


@pytest.mark.parametrize(
    ("action", "act", "said"),
    [
        ("s3:PutObject", put, r"PutObject on 'k'.*grant s3:PutObject"),
        ("s3:PutObject", upload, r"(CreateMultipartUpload|UploadPart) on 'k'.*grant s3:PutObject"),
        ("s3:GetObject", read, r"GetObject on 'k'.*grant s3:GetObject"),
    ],
)
def test_a_missing_right_is_named(served: OnServer, action: str, act: Act, said: str) -> None:
    """What a policy denies comes out as the right to grant, with the object and the bucket."""

    async def body() -> None:
        await served.plant("k", b"x")
        await deny(served, action)
        async with served.store() as store:
            with pytest.raises(AccessDenied, match=said) as caught:
                await act(store)
        assert served.name in str(caught.value)

    uvloop.run(body())


def test_the_right_to_list_is_named(rgw: Server) -> None:
    """`check` finds out before anything else is tried (moto lets everybody list)."""

    async def body() -> None:
        bucket = await rgw.bucket()
        await deny(bucket, "s3:ListBucket")
        async with bucket.store() as store:
            with pytest.raises(AccessDenied, match="grant s3:ListBucket"):
                await store.check()

    uvloop.run(body())


def test_a_writer_needs_no_right_to_read(rgw: Server) -> None:
    """Puts, uploads, equal versions and renewals work where reading objects is denied (rule 11)."""

    async def body() -> None:
        bucket = await rgw.bucket()
        await deny(bucket, "s3:GetObject", "s3:GetObjectVersion", "s3:DeleteObject", "s3:DeleteObjectVersion")
        async with bucket.store() as store:
            await store.check()
            stored = await store.put("put", b"x", lock(), once=True)
            async with store.upload("parts", lock(), once=True) as parts:
                await parts.part(1, b"x")
                await parts.finish()
            longer = Lock(LockMode.GOVERNANCE, datetime.now(UTC) + timedelta(days=9))
            assert (await store.renew("put", stored.version, longer)).covers(longer)
            assert len([v async for v in store.versions("")]) == 2

    uvloop.run(body())


def test_without_credentials_the_configuration_is_at_fault(
    moto_bucket: OnServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing in the environment, no files, no machine role: what to set is said."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    async def body() -> None:
        config = msgspec.structs.replace(moto_bucket.server.config(moto_bucket.name), aws=Aws())
        async with open_store(config) as store:
            with pytest.raises(ConfigError, match="credentials_file"):
                await store.check()

    uvloop.run(body())


def test_metadata_that_s3_cannot_hold_is_refused(server: Server) -> None:
    """Before anything is stored; encoding it is the caller's."""

    async def body() -> None:
        bucket = await server.bucket()
        async with bucket.store() as store:
            with pytest.raises(StoreError, match="'k'"):
                await store.put("k", b"x", lock(), metadata={"description": "grüße"})
            assert [v async for v in store.versions("")] == []

    uvloop.run(body())
