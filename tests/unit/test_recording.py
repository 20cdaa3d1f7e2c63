"""Recording: the manifest names what is stored and nothing else, whatever was found out on the way."""

import asyncio
import hashlib
import threading
from pathlib import Path

import pytest

from sysbackup.errors import CatalogUnusable
from sysbackup.formats import manifest
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.model import Location, Problem
from sysbackup.pipeline.entries import latest, spooled
from sysbackup.pipeline.recording import Recorder, lost, write_manifest
from sysbackup.pipeline.run_context import RunContext
from tests.support import backups
from tests.support.memory_store import MemoryStore
from tests.support.stages import staged


def file(path: bytes, content: bytes) -> manifest.File:
    return manifest.File(**manifest.named(path), size=len(content), sha=hashlib.sha256(content).hexdigest(), mtime=7)


async def keep(run: RunContext, *contents: bytes) -> None:
    """These contents are stored."""
    async with run.contents.keeping() as keeper:
        chosen = run.contents.choose({hashlib.sha256(content).digest(): content for content in contents})
        await keeper.keep(chosen, await run.contents.budget.take(chosen.held))
        await keeper.flush()


def read(pieces: bytes) -> list[manifest.Entry]:
    reader = ManifestReader()
    found = [*reader.feed(pieces)]
    reader.finish()
    return found


def test_the_freshest_look_at_a_path_counts(tmp_path: Path) -> None:
    """A path that was looked at twice stands once in the manifest, as it was seen last; unchanged files are counted."""

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run:
            await keep(run, b"old", b"new", b"other")
            run.spool.add(*spooled(b"/b", file(b"/b", b"other"), unchanged=True))
            run.spool.add(*spooled(b"/a", file(b"/a", b"old"), unchanged=True))
            run.spool.add(*spooled(b"/a", file(b"/a", b"new")))
            recorder = Recorder(run, [], run.tally.problem)
            entries = read(b"".join(recorder.pieces("20261123T041500Z-0123456789abcdef")))
            header, *files, end = entries
            assert isinstance(header, manifest.RunHeader)
            assert isinstance(end, manifest.End)
            assert [f.sha for f in files if isinstance(f, manifest.File)] == [
                hashlib.sha256(content).hexdigest() for content in (b"new", b"other")
            ]
            assert (recorder.counts, recorder.bytes, recorder.unchanged) == ({"f": 2}, 8, 1)

    backups.run(work())


def test_a_content_that_is_stored_nowhere_is_never_named(tmp_path: Path) -> None:
    """Where none was lost on the way, what is known of the bucket is not to be relied on: no manifest is made of it."""

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run:
            run.spool.add(*spooled(b"/a", file(b"/a", b"never stored")))
            recorder = Recorder(run, [], run.tally.problem)
            assert [*lost(run)] == [b"/a"]
            with pytest.raises(CatalogUnusable):
                b"".join(recorder.pieces("20261123T041500Z-0123456789abcdef"))

    backups.run(work())


def test_a_file_whose_content_was_lost_is_a_problem_of_the_run(tmp_path: Path) -> None:
    """It is noted once, by the event loop's thread, also where the manifest is written under a second name."""
    there = tmp_path / "there"
    there.write_text("it cannot be read, say")
    noted: list[tuple[Problem, bool]] = []

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run:
            await keep(run, b"kept")
            run.contents._session.contents.claim([hashlib.sha256(b"gone").digest()])
            run.contents._session.contents.release(hashlib.sha256(b"gone").digest())
            for path, content in ((bytes(there), b"gone"), (b"/no/such/path", b"gone"), (b"/kept", b"kept")):
                run.spool.add(*spooled(path, file(path, content)))
            recorder = Recorder(run, [], lambda p: noted.append((p, threading.current_thread() is main)))
            main = threading.current_thread()
            for _ in range(2):
                pieces = await asyncio.to_thread(lambda: b"".join(recorder.pieces("20261123T041500Z-0123456789abcdef")))
                files = [e.path for e in read(pieces) if isinstance(e, manifest.File)]
                assert files == ["/kept"]
            assert [problem.source for problem, _ in noted] == [bytes(there)]

    backups.run(work())


def test_what_lies_at_a_place_of_its_own_needs_no_look(tmp_path: Path) -> None:
    """A file that never stood still was stored as it came, under a key of this run: it is named as it is."""

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run:
            entry = file(b"/a", b"moving")
            entry.place(Location("moving/key", "v"))
            run.spool.add(*spooled(b"/a", entry))
            assert [*lost(run)] == []
            (found,) = (
                e
                for e in read(
                    b"".join(Recorder(run, [], run.tally.problem).pieces("20261123T041500Z-0123456789abcdef"))
                )
                if isinstance(e, manifest.File)
            )
            assert found.location == Location("moving/key", "v")

    backups.run(work())


def test_the_manifest_is_stored_under_a_name_that_nobody_knew(tmp_path: Path) -> None:
    """Sixteen digits, of which the working name shows eight; locked until the promise; the tally has it then."""
    store = MemoryStore()

    async def work() -> None:
        async with staged(tmp_path, store) as run:
            before = run.tally.run
            async with run.contents.keeping() as keeper:
                stored = await write_manifest(run, store, keeper.sender, Recorder(run, [], run.tally.problem))
            assert stored.key == f"manifests/alpha/{run.tally.run}.jsonl.gz"
            assert run.tally.run.startswith(before)
            assert len(run.tally.run) == len(before) + 8
            assert store.memory.find(stored.key, stored.version).lock == run.terms.promise

    backups.run(work())


def test_of_equal_keys_the_last_stays() -> None:
    """And only the last, wherever it stands."""
    records = [(b"a", b"1"), (b"a", b"2"), (b"b", b"3"), (b"c", b"4"), (b"c", b"5"), (b"c", b"6")]
    assert [*latest(records)] == [(b"a", b"2"), (b"b", b"3"), (b"c", b"6")]
    assert [*latest([])] == []
