"""Several machines and one bucket: contents are stored once for all that trust each other."""

import os
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from sysbackup.contents import renewing
from sysbackup.formats import gzipping, index, keys
from sysbackup.store.port import Version
from tests.support.clock import ManualClock
from tests.support.machines import alike
from tests.support.memory_store import MemoryBucket, MemoryStore

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("settled")


def test_a_second_machine_stores_no_content(bucket: MemoryBucket, tmp_path: Path) -> None:
    """Two catalogs, two host names, one tree: the second stores a manifest, and relies on what the first one did."""
    alpha, beta = alike(tmp_path, bucket, "alpha"), alike(tmp_path, bucket, "beta")
    first, second = alpha.back_up(), beta.back_up()
    assert second.kinds == {"manifests": 1}
    assert second.requests["PutObject"] == 1
    assert beta.places(second) == alpha.places(first)
    assert beta.restores(second)


def test_share_own_relies_on_nobody(bucket: MemoryBucket, tmp_path: Path) -> None:
    """It reads no other host's index, and sends every content itself."""
    first = alike(tmp_path, bucket, "alpha").back_up()
    gamma = alike(tmp_path, bucket, "gamma", share=("own",), pack_size=8 * MIB, pack_below=2 * MIB)
    told = gamma.back_up()
    assert told.requests["GetObject"] == 0
    assert gamma.knows().hosts == {"gamma": 2}
    assert told.requests["PutObject"] == first.requests["PutObject"]
    assert gamma.restores(told)


def test_share_names_hosts_by_patterns(bucket: MemoryBucket, tmp_path: Path) -> None:
    """`web*` lets web1 in and db1 not; no pattern at all lets nobody in, and oneself always."""
    db, web = alike(tmp_path, bucket, "db1"), alike(tmp_path, bucket, "web1")
    db.write("db", "only here")
    web.write("web", "only there")
    db.back_up(share=("own",))
    web.back_up(share=("own",))
    last = alike(tmp_path, bucket, "web2", share=("web*",))
    last.write("db", "only here")
    last.write("web", "only there")
    told = last.back_up()
    assert {*last.knows().hosts} == {"web1", "web2"}
    assert last.places(told)["web"] == web.places(web.back_up(share=("own",)))["web"]
    assert last.places(told)["db"].key in told.stored


def test_a_host_that_is_not_trusted_any_more_is_forgotten(bucket: MemoryBucket, tmp_path: Path) -> None:
    """When `share` stops allowing a host, what came from it is stored again; when it allows it again, it is reread."""
    alike(tmp_path, bucket, "alpha").back_up()
    beta = alike(tmp_path, bucket, "beta")
    beta.write("own", "of beta")
    beta.back_up()
    alone = beta.back_up(share=("own",), pack_size=8 * MIB)
    assert [line["host"] for line in alone.said("host.forgotten")] == ["alpha"]
    assert {*beta.knows().hosts} == {"beta"}
    assert beta.restores(alone)
    assert beta.back_up(share=("alpha",)).requests["GetObject"] == 2  # one asks whether we may read
    assert {*beta.knows().hosts} <= {"alpha", "beta"}


def test_of_a_sample_the_others_are_believed(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `verify_shared = sample` the first object of a host is compared; no run fails for those that are not."""
    monkeypatch.setattr(renewing, "_SAMPLE", 1 << 40)  # none of the others
    alpha = alike(tmp_path, bucket, "alpha", pack_below=0)
    objects = alpha.back_up().summary.objects
    beta = alike(tmp_path, bucket, "beta", pack_below=0, verify_shared="sample")
    told = beta.back_up()
    assert told.summary.contents == 0
    assert not told.said("catalog.set_aside")
    assert told.requests["GetObject"] < objects
    assert beta.restores(told)
    clock.turn(days=10)
    later = beta.back_up()
    assert later.summary.renewed > 1
    assert beta.restores(later)


def test_a_later_lock_learnt_from_another_saves_the_renewal(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """Both reuse the same objects: who runs first renews them, the other one learns of it."""
    alpha, beta = (alike(tmp_path, bucket, host, verify_shared="off") for host in ("alpha", "beta"))
    alpha.back_up()
    beta.back_up()
    clock.turn(days=10)
    assert beta.back_up().summary.renewed == 2
    told = alpha.back_up()
    assert told.summary.renewed == 0
    assert told.requests["GetObjectRetention"] <= 1  # of the manifest
    assert alpha.restores(told)


def test_a_new_catalog_reads_all_indexes_and_a_known_one_the_new_ones(
    bucket: MemoryBucket, clock: ManualClock, tmp_path: Path
) -> None:
    """One GetObject for each, and nothing is read twice."""
    alpha, beta = alike(tmp_path, bucket, "alpha"), alike(tmp_path, bucket, "beta", verify_shared="off")
    for n in range(5):
        clock.turn(hours=1)
        alpha.write("new", f"{n}")
        alpha.back_up()
    reads = []
    for news in (0, 0, 2, 1):
        for n in range(news):
            clock.turn(hours=1)
            alpha.write("newer", os.urandom(10 + n))
            alpha.back_up()
        clock.turn(hours=1)
        reads.append(beta.back_up().requests["GetObject"])
    assert reads == [5, 0, 2, 1]
    beta.catalog.unlink()
    assert beta.back_up().requests["GetObject"] == 8


def test_listing_goes_on_where_the_last_run_left_off(bucket: MemoryBucket, clock: ManualClock, tmp_path: Path) -> None:
    """However many indexes other hosts have left, trusted or not, an unchanged run stays within nine requests."""

    class Paging(MemoryStore):
        """Counts requests as S3 does: 1,000 keys for each (API Reference, "ListObjectsV2")."""

        async def list(self, prefix: str, after: str = "") -> AsyncGenerator[Version, None]:
            number = 0
            async for found in super().list(prefix, after):
                number += 1
                if number % 1000 == 1 and number > 1:
                    self.requests.add("ListObjectsV2")
                yield found

    alpha = alike(tmp_path, bucket, "alpha", share=("alpha", "beta"))
    for host in ("another", "beta", "stranger"):
        for n in range(1500):
            started = clock.now() - timedelta(hours=2000 - n)
            bucket.add(
                keys.index_key(host, f"{started:%Y%m%dT%H%M%SZ}-0000"), gzipping.compress(index.header(host, "x"))
            )
    assert alpha.back_up(Paging(bucket)).requests["GetObject"] == 1501  # one asks whether we may read
    told = alpha.back_up(Paging(bucket))
    assert told.requests["GetObject"] == 0
    assert told.requests.total() <= 9
