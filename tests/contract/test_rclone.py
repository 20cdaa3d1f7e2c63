"""`rclone serve s3`, a third S3 server: it has neither versions nor locks, and so serves without locks alone."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop

from sysbackup.api.connecting import open_store
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import S3, Aws, Config
from sysbackup.contents import shipping
from sysbackup.errors import BucketUnusable, ObjectGone
from sysbackup.model import LockMode
from sysbackup.pipeline.backup import back_up
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from sysbackup.store.port import ObjectStore
from tests.bench import contenders, serving
from tests.support import backups, comparing
from tests.support.asking import MIN_PART, all_of, content, lock

NONE = lock(mode=LockMode.NONE)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """A machine that backs up to a bucket of rclone's, without locks."""
    try:
        program = contenders.program("rclone")
    except SystemExit as missing:
        if os.environ.get("CI") == "true" and platform.machine() == "x86_64":
            pytest.fail(f"CI tests against rclone, but {missing}")
        pytest.skip(str(missing))
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[default]\naws_access_key_id = {serving.ACCESS_KEY}\naws_secret_access_key = {serving.SECRET_KEY}\n"
    )
    config = backups.configured(tmp_path, {"lock_mode": LockMode.NONE}, {"give_up_after": 20.0})
    with serving.serving(program, tmp_path) as server:
        server.bucket("bucket")
        s3 = S3(bucket="bucket", endpoint_url=server.endpoint, region="us-east-1", addressing_style="path")
        yield msgspec.structs.replace(config, aws=Aws(credentials_file=credentials), s3=s3)


def test_without_locks_all_of_the_port_works(config: Config) -> None:
    """Puts, uploads in parts, listings in order, HEAD, whole and ranged reads, and renewals, which make sure."""

    async def body() -> None:
        async with open_store(config) as store:
            await store.check()
            keys = ["m/A/1", "m/db-2/y", "m/db.z/1", "m/db/x", "m/db2/q", "mm"]
            for key in reversed(keys):
                for once in (False, True):
                    assert (await store.put(key, key.encode(), NONE, once=once)).version is None
            for listing in (store.list, store.versions):
                assert [v.key for v in await all_of(listing("m"))] == keys
                assert [v.key for v in await all_of(listing("m/db", "m/db.z/1"))] == ["m/db/x", "m/db2/q"]
            assert await content(store, "m/db/x", None) == b"m/db/x"
            assert await content(store, "m/db/x", None, 1, 2) == b"/d"
            assert await store.renew("m/db/x", None, NONE) == NONE
            with pytest.raises(ObjectGone):
                await content(store, "nothing", None)
            await in_parts(store)

    uvloop.run(body())


async def in_parts(store: ObjectStore) -> None:
    """An upload that is finished, and one that is not."""
    body = os.urandom(MIN_PART + 10)
    async with store.upload("parts", NONE, once=True) as upload:
        await upload.part(1, body[:MIN_PART])
        await upload.part(2, body[MIN_PART:])
        stored = await upload.finish()
    assert await content(store, "parts", stored.version) == body
    assert (await store.head("parts", None)).size == len(body)
    async with store.upload("left", NONE) as upload:
        await upload.part(1, b"x")
    assert [v.key for v in await all_of(store.list("left"))] == []


def test_a_backup_comes_back(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs, with a manifest in parts, restored byte for byte."""
    monkeypatch.setattr(shipping, "PART", MIN_PART)
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(20):
        (tree / f"small{n}").write_bytes(os.urandom(300 + n))
    (tree / "middle").write_bytes(os.urandom((1 << 20) + 1))
    (tree / "large").write_bytes(os.urandom(2 * MIN_PART + 7))
    backups.finder(config, tree)

    for number in range(2):
        (tree / "small3").write_bytes(b"changed %d" % number)

        async def body(target: Path = tmp_path / f"back{number}") -> None:
            async with open_store(config) as store:
                summary = await back_up(config, store, SystemClock())
                assert summary.exit_code == 0
                found = await stored_runs.find_run(store, summary.run, summary.host)
                await restore(store, found, (), bytes(target), Options(spool=tmp_path))
            assert comparing.differences(bytes(tree), bytes(target) + bytes(tree)) == []

        uvloop.run(body())


def test_locks_are_refused_with_what_to_do(config: Config) -> None:
    """A store that keeps no versions keeps no locks: the first object says so at once, however it is stored."""

    async def uploaded(store: ObjectStore) -> None:
        async with store.upload("parts", lock()) as upload:
            await upload.part(1, b"x")
            await upload.finish()

    async def body() -> None:
        async with open_store(config) as store:
            with pytest.raises(BucketUnusable, match=r"no versions.*Object Lock.*lock_mode = none"):
                await store.put("k", b"x", lock())
            with pytest.raises(BucketUnusable, match=r"no versions.*Object Lock.*lock_mode = none"):
                await uploaded(store)
            assert store.requests.by_kind["PutObject"] == 1

    uvloop.run(body())
