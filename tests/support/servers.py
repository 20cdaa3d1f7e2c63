"""The servers that the store is tested against, and a fresh bucket on each."""

import itertools
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer
from types_aiobotocore_s3.client import S3Client

from sysbackup.api.connecting import open_store
from sysbackup.aws.sessions import s3_client
from sysbackup.config import sections
from sysbackup.config.sections import Config
from sysbackup.errors import AccessDenied
from sysbackup.store.port import ObjectStore
from tests.support import rgw
from tests.support.memory_store import MemoryBucket, MemoryStore

REGION = "us-east-1"

_names = (f"bucket-{os.getpid()}-{number}" for number in itertools.count())


@dataclass(frozen=True, slots=True)
class Traits:
    """In what a server differs from AWS, as far as a test has to know."""

    conditions: bool = True
    """It heeds If-None-Match."""
    multipart_locks: bool = True
    """It heeds the lock headers of a multipart upload."""
    lock_reads: str = "GetObjectRetention"
    """The request by which a lock can be read."""
    tells_etag: bool = True
    """It tells the ETag of what it joined from parts."""
    fixed_modes: bool = True
    """It does not let GOVERNANCE become COMPLIANCE."""


class Bucket(Protocol):
    """An empty bucket with Object Lock, and what others than sysbackup can do to it."""

    traits: Traits

    def store(self) -> AbstractAsyncContextManager[ObjectStore]:
        """A store over it, fresh: its requests are counted from nought."""
        ...

    async def plant(self, key: str, body: bytes) -> str:
        """Store something without a lock; its version."""
        ...

    async def hide(self, key: str) -> None:
        """Delete a key without naming a version, which leaves a delete marker."""
        ...

    async def delete(self, key: str, version: str) -> None:
        """Delete a version for good; `AccessDenied` where the server does not let us."""
        ...

    async def unfinished(self) -> int:
        """How many multipart uploads are under way."""
        ...


class InMemory:
    """`Bucket` on nothing."""

    def __init__(self, *, multipart_locks: bool) -> None:
        self.traits = Traits(multipart_locks=multipart_locks)
        self.bucket = MemoryBucket(multipart_locks=multipart_locks)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[ObjectStore]:
        yield MemoryStore(self.bucket)

    async def plant(self, key: str, body: bytes) -> str:
        return self.bucket.add(key, body).version

    async def hide(self, key: str) -> None:
        self.bucket.hide(key)

    async def delete(self, key: str, version: str) -> None:
        self.bucket.delete(key, version)

    async def unfinished(self) -> int:
        return len(self.bucket.uploads)


@dataclass(frozen=True, slots=True)
class Server:
    """A running S3 server, and the credentials file of its one user, who may do everything."""

    endpoint: str
    credentials: Path
    traits: Traits

    def config(self, bucket: str, *, give_up_after: float = 20.0, **s3: str) -> Config:
        """How sysbackup is configured for this server; `s3` are more settings of that section."""
        settings = sections.S3(bucket=bucket, endpoint_url=self.endpoint, region=REGION)
        return Config(
            directory=self.credentials.parent,
            cache=self.credentials.parent,
            state=self.credentials.parent,
            runtime=self.credentials.parent,
            aws=sections.Aws(credentials_file=self.credentials),
            s3=msgspec.structs.replace(settings, **s3),
            run=sections.Run(give_up_after=give_up_after),
        )

    def client(self) -> AbstractAsyncContextManager[S3Client]:
        """A client as sysbackup's own: for the administrator, or the attacker."""
        return s3_client(self.config("none"))

    async def bucket(self, *, locking: bool = True) -> "OnServer":
        """A fresh bucket."""
        name = next(_names)
        async with self.client() as client:
            await client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locking)
        return OnServer(self, name)


class OnServer:
    """`Bucket` on a server."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.traits = server.traits

    @asynccontextmanager
    async def store(self, *, give_up_after: float = 20.0, **s3: str) -> AsyncIterator[ObjectStore]:
        async with open_store(self.server.config(self.name, give_up_after=give_up_after, **s3)) as store:
            yield store

    async def plant(self, key: str, body: bytes) -> str:
        async with self.server.client() as client:
            return (await client.put_object(Bucket=self.name, Key=key, Body=body))["VersionId"]

    async def hide(self, key: str) -> None:
        async with self.server.client() as client:
            await client.delete_object(Bucket=self.name, Key=key)

    async def delete(self, key: str, version: str) -> None:
        async with self.server.client() as client:
            try:
                await client.delete_object(Bucket=self.name, Key=key, VersionId=version)
            except ClientError as exc:
                raise AccessDenied(str(exc)) from exc

    async def unfinished(self) -> int:
        async with self.server.client() as client:
            return len((await client.list_multipart_uploads(Bucket=self.name)).get("Uploads", []))


@contextmanager
def moto_server(folder: Path) -> Iterator[Server]:
    """moto in a thread of this process. Its STS and CloudFormation answer at the same endpoint."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        credentials = _credentials(folder, "anykey", "anysecret")
        traits = Traits(multipart_locks=False, lock_reads="HeadObject", fixed_modes=False)
        yield Server(f"http://127.0.0.1:{port}", credentials, traits)
    finally:
        server.stop()


@contextmanager
def rgw_server(folder: Path, shared: Path) -> Iterator[Server]:
    """
    Ceph's gateway, see `rgw.shared_gateway`. Where it is not installed a test fails in CI, and is skipped elsewhere.
    """
    if reason := rgw.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI tests against a real S3, but {reason}")
        pytest.skip(reason)
    with rgw.shared_gateway(shared) as endpoint:
        credentials = _credentials(folder, rgw.ACCESS_KEY, rgw.SECRET_KEY)
        yield Server(endpoint, credentials, Traits(conditions=False, multipart_locks=False, tells_etag=False))


def _credentials(folder: Path, access_key: str, secret_key: str) -> Path:
    path = folder / "credentials"
    path.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
    return path
