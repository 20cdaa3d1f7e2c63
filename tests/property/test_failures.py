"""Whatever the store does, a manifest exists only if every object in it does."""

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.errors import StoreUnavailable
from sysbackup.formats import manifest
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.model import Location
from sysbackup.pipeline.backup import back_up
from tests.support import backups
from tests.support.chunking import content
from tests.support.failing import FailingStore, now_and_then
from tests.support.memory_store import MemoryBucket, MemoryStore

MIB = 1 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every class: packed, alone, cut."""
    tree = tmp_path_factory.mktemp("tree")
    for n in range(60):
        (tree / f"small{n}").write_bytes(os.urandom(3000 + n))
    for n in range(3):
        (tree / f"middle{n}").write_bytes(os.urandom(MIB + n))
    (tree / "large").write_bytes(os.urandom(34 * MIB))
    return tree


def checked(bucket: MemoryBucket) -> int:
    """Every manifest in the bucket is whole, and so is all that it names; returns how many there are."""
    found = [key for key in bucket.objects if key.startswith("manifests/")]
    for key in found:
        reader = ManifestReader()
        (kept,) = bucket.objects[key]
        for entry in reader.feed(kept.body):
            if isinstance(entry, manifest.Snapshot):
                at = Location(entry.key, entry.version, None, entry.encoding)
                assert hashlib.sha256(content(bucket, at)).hexdigest() == entry.sha
            if isinstance(entry, manifest.File) and entry.size:
                assert entry.location is not None
                assert hashlib.sha256(content(bucket, entry.location)).hexdigest() == entry.sha
        reader.finish()
    assert not bucket.uploads
    return len(found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.02, 0.1, 0.4]), after=st.booleans())
def test_random_failures_leave_no_manifest_of_what_is_missing(
    tree: Path, tmp_path: Path, seed: int, share: float, after: bool
) -> None:
    """A call that fails, before or after it took effect, ends the run without a manifest and without an upload."""
    config = backups.configured(Path(tempfile.mkdtemp(dir=tmp_path)), {"pack_size": 40_000})
    backups.finder(config, tree)
    backups.program(config.snapshotters, "dump", "#!/bin/sh\nhead -c 100000 /dev/urandom >&$1\n")
    bucket = MemoryBucket()
    store = FailingStore(MemoryStore(bucket), now_and_then(share, seed), after=after)
    try:
        summary = backups.backed_up(config, store)
    except StoreUnavailable:
        # an answer that was lost after the manifest was stored leaves a manifest that is right
        assert checked(bucket) == 0 or after
    else:
        # a look at the stored manifest's key that failed costs no manifest, and is no problem of any source
        assert summary.problems == 0
        assert checked(bucket) == 1


@pytest.mark.lengthy
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delay=st.floats(0, 1.2))
def test_a_run_that_is_cancelled_leaves_no_manifest(tree: Path, tmp_path: Path, delay: float) -> None:
    """Wherever a cancellation strikes, there is a whole manifest or none, no upload and no process."""
    config = backups.configured(Path(tempfile.mkdtemp(dir=tmp_path)), {"pack_size": 40_000})
    backups.finder(config, tree)
    pid = tmp_path / "pid"
    backups.program(
        config.snapshotters, "dump", f"#!/bin/sh\necho $$ >{pid}\nsleep 0.2\nhead -c 100000 /dev/zero >&$1\n"
    )
    bucket = MemoryBucket()

    async def interrupted() -> None:
        task = asyncio.create_task(back_up(config, MemoryStore(bucket), SystemClock()))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])

    backups.run(interrupted())
    checked(bucket)
    if pid.exists() and (text := pid.read_text().strip()):
        with pytest.raises(ProcessLookupError):
            os.kill(int(text), 0)
