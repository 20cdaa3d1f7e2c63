"""
How much one run's own process can take in, as on a machine with more cores than this one has.

    python tests/bench/scale_model.py [--examiners 8] [--files 400000] [--size 64] [--each 60] [--unchanged]

Examiners' work is replaced by waiting (`--each`: microseconds a file). Nothing is looked
at, read or compressed, but all that they would ask and tell goes to the run's process:
it claims, uploads from shared memory to a store that takes everything, and writes its
catalog. What comes out is what that process can do alone: files, batches and MB a
second of its processor time, and how many examiners of that speed it could feed.
"""

import argparse
import asyncio
import hashlib
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sysbackup import logs
from sysbackup.cli import process_setup
from sysbackup.concurrency.channel import Channel
from sysbackup.contents.crossing import member_to_bytes
from sysbackup.contents.stowing import Full
from sysbackup.formats import pack
from sysbackup.model import FileState, Lock, Member, Span, StoredObject
from sysbackup.pipeline import examiner_process
from sysbackup.pipeline.examiner import Examiner
from sysbackup.pipeline.examiner_messages import Done, Examine
from sysbackup.pipeline.examining import examiners
from sysbackup.pipeline.found import Found
from sysbackup.pipeline.picking import BATCH, Batch
from sysbackup.programs.own_python import own_python
from sysbackup.store.port import Body
from tests.support import backups
from tests.support.memory_store import MemoryStore
from tests.support.stages import staged

_STAND_IN = "tests.bench.scale_model:stand_in"
_EACH, _SIZE, _UNCHANGED = "SCALE_EACH", "SCALE_SIZE", "SCALE_UNCHANGED"


class StandIn(Examiner):
    """Asks and tells what an examiner does of so many files, and waits instead of working."""

    _pack: int | None = None
    _length = 0
    _count = 0
    _made = 0

    def examine(self, job: Examine) -> Done:
        paths = job.paths.split(b"\0")
        size, unchanged = int(os.environ[_SIZE]), bool(os.environ[_UNCHANGED])
        done = Found(job.number, files=len(paths))
        shas = [hashlib.sha256(path).digest() for path in paths]
        states = [FileState(1, int(path[1:]), size, 1, 2, sha) for path, sha in zip(paths, shas, strict=True)]
        time.sleep(float(os.environ[_EACH]) * len(paths) / 1e6)
        added: list[Member] = []
        if unchanged:
            done.bytes_unchanged = size * len(paths)
        else:
            done.bytes_read, done.states = size * len(paths), states
            for sha in self._office.claim(shas, []):
                added.append(self._packed(sha, size))
                if self._count == pack.CONTENTS_AT_MOST or self._length >= self._stower._sizes.pack_size:
                    self._ship(added)
                    added = []
        return self._told(done, added)

    def _told(self, found: Found, added: list[Member]) -> Done:
        self._stower._added, self._stower._slot = added, self._pack
        return self._done(found, [], [])

    def _packed(self, sha: bytes, size: int) -> Member:
        if self._pack is None:
            self._pack, self._length, self._count = self._office.room(self._stower._sizes.pack_size), 0, 0
        taken = max(20, size // 2)
        member = Member(sha, size, Span(self._length, taken))
        self._length, self._count = self._length + taken, self._count + 1
        return member

    def _ship(self, added: list[Member]) -> None:
        assert self._pack is not None
        self._made += 1
        name = hashlib.sha256(b"%d %d" % (os.getpid(), self._made)).digest()
        self._office.full(Full(self._pack, self._length, name, self._length - 1), b"".join(map(member_to_bytes, added)))
        self._pack = None

    def set_down(self) -> Done:
        if self._pack is not None:
            self._ship([])
        return self._told(Found(), [])


class Taking(MemoryStore):
    """Takes everything, and keeps nothing."""

    async def put(self, key: str, body: Body, lock: Lock, **_: object) -> StoredObject:
        await asyncio.sleep(0)
        return StoredObject(key, "1", len(body), lock)


def stand_in(number: str) -> None:
    """The life of such a process."""
    with patch("sysbackup.pipeline.examiner_process.Examiner", StandIn):
        examiner_process.main(number)


async def model(base: Path, number: int, files: int) -> tuple[float, float]:
    """Wall and processor time of the run's process."""
    async with staged(base, Taking(), run={"workers": number}) as run, examiners(run) as examining:
        paths: Channel[Batch] = Channel(4 * number)

        async def produce() -> None:
            for start in range(0, files, BATCH):
                await paths.send(Batch([b"/%d" % n for n in range(start, min(files, start + BATCH))]))
            await paths.close()

        async with run.contents.keeping() as keeper:
            began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
            async with asyncio.TaskGroup() as group:
                group.create_task(produce())
                group.create_task(examining.examine_all(keeper, paths, Channel(1)))
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.monotonic() - began, spent


def main() -> None:
    """Measure, and tell."""
    process_setup.prepare()  # as `sysbackup run` does
    logs.configure("warning")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examiners", type=int, default=8)
    parser.add_argument("--files", type=int, default=400_000)
    parser.add_argument("--size", type=int, default=64, help="bytes of a file")
    parser.add_argument("--each", type=float, default=60, help="microseconds that an examiner takes for a file")
    parser.add_argument("--unchanged", action="store_true", help="nothing is new")
    parser.add_argument("--work", default="/dev/shm")  # a tmpfs
    options = parser.parse_args()
    os.environ |= {
        _EACH: str(options.each),
        _SIZE: str(options.size),
        _UNCHANGED: "1" if options.unchanged else "",
    }
    with (
        tempfile.TemporaryDirectory(dir=options.work) as base,
        patch("sysbackup.pipeline.seats.own_python", lambda _, number: own_python(_STAND_IN, number)),
    ):
        wall, spent = backups.run(model(Path(base), options.examiners, options.files))
    each = spent / options.files
    print(f"{options.files:,} files of {options.size:,} B, {options.examiners} examiners, {options.each:g} µs a file:")
    print(f"  wall time {wall:.1f} s, the run's process busy for {spent:.1f} s ({each * 1e6:.1f} µs a file)")
    print(
        f"  alone it takes in {1 / each:,.0f} files, {1 / each / BATCH:,.0f} batches,"
        f" {options.size / each / 1e6:,.1f} MB a second"
    )
    print(f"  and so feeds {options.each / 1e6 / each:.1f} examiners of that speed")


if __name__ == "__main__":
    main()
