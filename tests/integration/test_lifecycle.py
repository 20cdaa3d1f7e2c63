"""
Space comes back by itself, on a real S3: lifecycle rules delete what no lock holds any more, and nothing else.

The rules are those of the README. They hide each object once its first lock
must have ended, which harms nothing (all reads name the version), delete what is
hidden and not locked, and clear the markers away. A day of a rule lasts two
seconds here, and so the promises of these runs last for seconds.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from sysbackup.api.connecting import open_store
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.sections import Config
from sysbackup.contents.cache_directory import catalog_path
from sysbackup.contents.terms import Terms
from sysbackup.formats.run_result import Summary
from sysbackup.pipeline import file_facts
from sysbackup.pipeline.backup import back_up
from sysbackup.recovery import stored_runs
from sysbackup.recovery.restore_report import Options, Report
from sysbackup.recovery.restoring import restore
from sysbackup.store.port import Version
from tests.support import backups
from tests.support.rgw import LIFECYCLE_DAY as DAY
from tests.support.servers import OnServer, Server

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import LifecycleRuleTypeDef

MIB = 1 << 20
PROMISE, SLACK = 6 * DAY, 2 * DAY  # seconds: `days_retained` and `renewal_slack`
LONGER = 20 * DAY  # seconds: a promise that lasts while the gateway takes its time
HIDDEN = 9  # days: the first whole ones after promise and slack


@pytest.fixture(autouse=True)
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as left alone at once, and a manifest's lock may end within a day."""
    monkeypatch.setattr(file_facts, "_SETTLED", 0)
    monkeypatch.setattr(Terms, "lasting", lambda names, _: names)


def rules(days: int) -> "list[LifecycleRuleTypeDef]":
    """The README's, for promises that last less than so many days, slack included."""
    return [
        {
            "ID": "space comes back",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"Days": days},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        },
        # may not stand in one rule with days (API Reference, "LifecycleExpiration")
        {
            "ID": "markers over nothing",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"ExpiredObjectDeleteMarker": True},
        },
    ]


class Machine:
    """A machine whose promises last for seconds, and the bucket that it fills."""

    def __init__(self, base: Path, server: Server, days: int, promise: float = PROMISE) -> None:
        self.base = base
        self.bucket: OnServer = backups.run(server.bucket())
        backups.run(self._set_rules(days))
        settings: dict[str, Any] = {"days_retained": promise / 86_400, "renewal_slack": float(SLACK), "host": "alpha"}
        config = backups.configured(base, settings)
        there = server.config(self.bucket.name)
        self.config: Config = msgspec.structs.replace(config, aws=there.aws, s3=there.s3)
        self.tree = base / "tree"
        self.tree.mkdir()
        backups.finder(self.config, self.tree)

    async def _set_rules(self, days: int) -> None:
        async with self.bucket.server.client() as client:
            await client.put_bucket_lifecycle_configuration(
                Bucket=self.bucket.name, LifecycleConfiguration={"Rules": rules(days)}
            )

    def back_up(self) -> Summary:
        async def work() -> Summary:
            async with open_store(self.config) as store:
                return await back_up(self.config, store, SystemClock())

        with capture_logs():
            return backups.run(work())

    def restore(self, summary: Summary) -> Report:
        """Beneath `out`, a new place for each run."""

        async def work() -> Report:
            async with open_store(self.config) as store:
                found = await stored_runs.find_run(store, summary.run, summary.host)
                target = bytes(self.base / "out" / summary.run)
                return await restore(store, found, (), target, Options(spool=self.base))

        return backups.run(work())

    def restores(self, summary: Summary) -> bool:
        """Whether a run brings back what is in the tree now."""
        report = self.restore(summary)
        back = Path(f"{self.base / 'out' / summary.run}{self.tree}")
        return not report.problems and {p.name: p.read_bytes() for p in back.iterdir()} == {
            p.name: p.read_bytes() for p in self.tree.iterdir()
        }

    def versions(self) -> list[Version]:
        """All that is in the bucket, markers too."""

        async def work() -> list[Version]:
            async with self.bucket.store() as store:
                return [version async for version in store.versions("")]

        return backups.run(work())

    def keys(self, prefix: str = "") -> set[str]:
        """The keys of all versions but markers."""
        return {version.key for version in self.versions() if version.key.startswith(prefix) and not version.marker}


@pytest.mark.lengthy
def test_what_is_referenced_stays_and_what_is_not_goes(rgw: Server, tmp_path: Path) -> None:
    """Content that later runs renew outlives its first lock by far; what none of them names is gone soon after it."""
    machine = Machine(tmp_path, rgw, HIDDEN)
    for n in range(50):
        (machine.tree / f"small{n}").write_bytes(os.urandom(500))
    (machine.tree / "stays").write_bytes(os.urandom(MIB))
    first = machine.back_up()
    reused = machine.keys("packs/") | machine.keys("content/")
    passing = machine.tree / "passes"
    passing.write_bytes(os.urandom(MIB))
    second = machine.back_up()
    (passed,) = machine.keys("content/") - reused
    assert machine.restores(second)
    passing.unlink()
    ends = time.monotonic() + 1.5 * (PROMISE + SLACK) + 3 * DAY
    renewed = 0
    while time.monotonic() < ends:
        last = machine.back_up()
        renewed += last.renewed
        assert last.problems == 0
        assert machine.restores(last)
        time.sleep(DAY)
    assert renewed >= 2 * len(reused)
    assert machine.keys("packs/") | machine.keys("content/") == reused
    kept = machine.keys()
    assert passed not in kept
    assert not {first.manifest, second.manifest} & kept
    assert last.manifest in kept
    # a machine that lost its catalog still learns all of it: the indexes of what is locked are never hidden
    catalog_path(machine.config.cache).unlink()
    again = machine.back_up()
    assert again.contents == 0
    assert machine.keys("packs/") | machine.keys("content/") == reused
    # and when nobody makes backups any more, in the end nothing is left
    for _ in range(60):
        if not (left := machine.versions()):
            break
        time.sleep(DAY / 2)
    assert not left


def test_rules_that_hide_too_early_cost_space_and_no_backup(rgw: Server, tmp_path: Path) -> None:
    """Where everything is hidden after a day, what was promised is still there for as long as it was promised."""
    machine = Machine(tmp_path, rgw, 1, LONGER)
    (machine.tree / "one").write_bytes(os.urandom(MIB))
    (machine.tree / "two").write_bytes(b"small")
    first = machine.back_up()
    for _ in range(60):
        if any(version.marker and version.key == first.manifest for version in machine.versions()):
            break
        time.sleep(DAY / 4)
    else:
        pytest.fail("the gateway hides nothing: this test would prove nothing")
    assert machine.restores(first)
    second = machine.back_up()
    assert second.contents == 0
    assert second.unchanged == 2
    time.sleep(3 * DAY)
    assert machine.restores(second)
