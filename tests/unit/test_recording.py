"""Recording: the manifest names what is stored and nothing else, whatever was found out on the way."""

import hashlib
import threading
from pathlib import Path

import pytest

from sysbackup.errors import CatalogUnusable, expected
from sysbackup.formats import manifest
from sysbackup.formats.manifest_stream import ManifestReader
from sysbackup.model import Problem
from sysbackup.pipeline.entries import spooled
from sysbackup.pipeline.examining import examiners
from sysbackup.pipeline.recording import Recorder, lost, write_manifest
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from tests.support import backups
from tests.support.memory_store import MemoryStore
from tests.support.stages import staged
from tests.support.storing import stowing


def file(path: bytes, content: bytes) -> manifest.File:
    return manifest.File(**manifest.named(path), size=len(content), sha=hashlib.sha256(content).hexdigest(), mtime=7)


async def keep(run: RunContext, *contents: bytes) -> None:
    """These contents are stored."""
    async with run.contents.keeping() as keeper, stowing(run.contents, keeper) as stower:
        await stower.stow(*contents)


def note(run: RunContext, path: bytes, content: bytes, number: int = 1, *, unchanged: bool = False) -> None:
    """A look at a file has found it with that content."""
    run.spool.add(spooled(path, file(path, content), number, unchanged=unchanged))


async def read(recorder: Recorder) -> list[manifest.Entry]:
    """What the manifest says."""
    reader = ManifestReader()
    found: list[manifest.Entry] = []
    async with recorder.manifest("20261123T041500Z-0123456789abcdef") as source:
        while piece := await source.take(1000):
            found += reader.feed(bytes(piece))
    reader.finish()
    return found


def test_the_freshest_look_at_a_path_counts(tmp_path: Path) -> None:
    """A path that was looked at twice stands once in the manifest, as it was seen last; unchanged files are counted."""

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run, examiners(run) as examining:
            await keep(run, b"old", b"new", b"other")
            note(run, b"/b", b"other", 1, unchanged=True)
            note(run, b"/a", b"new", 3)
            run.spool.set_down()
            note(run, b"/a", b"old", 2, unchanged=True)
            run.spool.set_down()
            recorder = Recorder(run, examining)
            header, *files, end = await read(recorder)
            assert isinstance(header, manifest.RunHeader)
            assert isinstance(end, manifest.End)
            assert [f.sha for f in files if isinstance(f, manifest.File)] == [
                hashlib.sha256(content).hexdigest() for content in (b"new", b"other")
            ]
            assert (recorder.counts, recorder.bytes, recorder.unchanged) == ({"f": 2}, 8, 1)
            assert (end.counts, end.bytes) == ({"f": 2}, 8)

    backups.run(work())


def test_a_content_that_is_stored_nowhere_is_never_named(tmp_path: Path) -> None:
    """Where none was lost on the way, what is known of the bucket is not to be relied on: no manifest is made of it."""

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run, examiners(run) as examining:
            note(run, b"/a", b"never stored")
            run.spool.set_down()
            assert [*lost(run)] == [b"/a"]
            with pytest.raises((CatalogUnusable, ExceptionGroup)) as failed:
                await read(Recorder(run, examining))
            (cause,) = expected(failed.value) or []
            assert isinstance(cause, CatalogUnusable)

    backups.run(work())


def test_a_file_whose_content_was_lost_is_a_problem_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted once, by the event loop's thread, also where the manifest is written under a second name."""
    there = tmp_path / "there"
    there.write_text("it cannot be read, say")
    noted: list[tuple[Problem, bool]] = []
    main = threading.current_thread()
    monkeypatch.setattr(Tally, "problem", lambda _, p: noted.append((p, threading.current_thread() is main)))

    async def work() -> None:
        async with staged(tmp_path, MemoryStore()) as run, examiners(run) as examining:
            await keep(run, b"kept")
            async with run.contents.keeping() as keeper:
                with run.contents.claims.looking() as begun:
                    gone = await keeper.claim([hashlib.sha256(b"gone").digest()], begun)
                keeper.abandon(gone)
            for path, content in ((bytes(there), b"gone"), (b"/no/such/path", b"gone"), (b"/kept", b"kept")):
                note(run, path, content)
            run.spool.set_down()
            recorder = Recorder(run, examining)
            for _ in range(2):
                files = [e.path for e in await read(recorder) if isinstance(e, manifest.File)]
                assert files == ["/kept"]
                assert (recorder.counts, recorder.bytes) == ({"f": 1}, 4)

    backups.run(work())
    assert [(problem.source, by_loop) for problem, by_loop in noted] == [(bytes(there), True)]


def test_the_manifest_is_stored_under_a_name_that_nobody_knew(tmp_path: Path) -> None:
    """Sixteen digits, of which the working name shows eight; locked until the promise; the tally has it then."""
    store = MemoryStore()

    async def work() -> None:
        async with staged(tmp_path, store) as run, examiners(run) as examining:
            before = run.tally.run
            async with run.contents.keeping() as keeper:
                stored = await write_manifest(run, store, keeper.sender, Recorder(run, examining))
            assert stored.key == f"manifests/alpha/{run.tally.run}.jsonl.gz"
            assert run.tally.run.startswith(before)
            assert len(run.tally.run) == len(before) + 8
            assert store.memory.find(stored.key, stored.version).lock == run.terms.promise

    backups.run(work())
