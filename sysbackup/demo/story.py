"""What the demo does, step by step; each step fails the whole where it does not keep a promise."""

import base64
import hashlib
import os
import time
from asyncio import sleep
from contextlib import AsyncExitStack, aclosing, nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import UNSET

from sysbackup.api.connecting import open_store
from sysbackup.aws.sessions import s3_client
from sysbackup.cli.display import ProgressDisplay, count, show_summary, when
from sysbackup.concurrency.system_clock import SystemClock
from sysbackup.config.loading import load_config
from sysbackup.config.sections import Config
from sysbackup.config.units import amount, elapsed
from sysbackup.demo import attack
from sysbackup.demo.attack import Refusal
from sysbackup.demo.comparing import Comparison
from sysbackup.demo.embedded import Endpoint
from sysbackup.demo.samples import BUCKET, SNAPSHOT, samples, snapshot_target, write
from sysbackup.demo.screen import Screen
from sysbackup.demo.workspace import Workspace
from sysbackup.errors import SysbackupError
from sysbackup.formats.manifest import File, Log
from sysbackup.formats.run_result import Summary
from sysbackup.model import shown
from sysbackup.pipeline.backup import back_up
from sysbackup.programs.piping import pipe_into
from sysbackup.recovery import snapshots, stored_runs
from sysbackup.recovery.restore_report import Options
from sysbackup.recovery.restoring import restore
from sysbackup.service.messages import following
from sysbackup.store.port import ObjectStore

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

# What everybody knows; where it was not backed up, the attack is on the first file that was.
_WELL_KNOWN = b"/etc/passwd"


class Failed(SysbackupError):
    """A promise was not kept."""


@dataclass(slots=True)
class _Manifest:
    """What the later steps need of it: where a file's content lies, and which paths could not be kept."""

    file: File | None = None
    told: set[bytes] = field(default_factory=set)


class Story:
    """One demo on `subject`, an absolute path without links, in `place`."""

    def __init__(self, screen: Screen, subject: bytes, place: Workspace, endpoint: Endpoint) -> None:
        self._screen = screen
        self._subject = subject
        self._place = place
        self._endpoint = endpoint

    async def tell(self) -> None:
        """Do it all. `Failed` where something is not as promised."""
        files = samples(self._subject, self._place, self._endpoint)
        write(files, self._place.config)
        config = load_config(self._place.config, {"SYSBACKUP_CACHE_DIR": str(self._place.cache)})
        async with AsyncExitStack() as stack:
            administrator = await stack.enter_async_context(s3_client(config))
            await self._make_bucket(administrator)
            self._screen.step("A configuration, as it would stand in /etc/backup")
            for sample in files:
                if sample.shown:
                    self._screen.file(sample.name, sample.text, "ini" if sample.name == "conf" else "sh")
            store = await stack.enter_async_context(open_store(config))
            since = time.time_ns()
            await self._back_up(config, store)
            summary = await self._back_up_again(config, store)
            run = await stored_runs.find_run(store, summary.run, summary.host)
            manifest = await self._read(store, run)
            await self._attack(administrator, store, run, manifest)
            run = await stored_runs.find_run(store, summary.run, summary.host)
            await self._restore(store, run)
            await self._compare(since, manifest)
            await self._snapshot(store, run)

    async def _make_bucket(self, administrator: "S3Client") -> None:
        self._screen.step("A bucket with Object Lock")
        self._screen.good(f"An S3 server (moto) inside this program listens on {self._endpoint.url}")
        await administrator.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        self._screen.good(f"Bucket {BUCKET} is made, with Object Lock: what it holds can be locked")

    async def _back_up(self, config: Config, store: ObjectStore) -> None:
        self._screen.step("The backup: sysbackup run")
        show_summary(self._screen.console, await self._run(config, store))

    async def _back_up_again(self, config: Config, store: ObjectStore) -> Summary:
        self._screen.step("The same again, as it would run every night")
        before = store.requests.total
        summary = await self._run(config, store)
        requests = count(store.requests.total - before, "request")
        self._screen.good(
            f"{count(summary.files, 'file')} are backed up: {amount(summary.read)} read, "
            f"{amount(summary.stored)} stored, {requests}, {elapsed(summary.seconds)}"
        )
        self._screen.say("What is stored already is named again, not stored again.")
        return summary

    async def _run(self, config: Config, store: ObjectStore) -> Summary:
        progress = ProgressDisplay(self._screen.console)
        with progress.live("error") if self._screen.console.is_terminal else nullcontext():
            return await back_up(config, store, SystemClock(), lambda tally: progress.watch(following(tally, None)))

    async def _read(self, store: ObjectStore, run: stored_runs.StoredRun) -> _Manifest:
        found = _Manifest()
        async with aclosing(stored_runs.entries(store, run)) as entries:
            async for entry in entries:
                if isinstance(entry, Log):
                    exact = entry.pathb
                    found.told.add(entry.path.encode() if exact is UNSET else base64.b64decode(exact))
                elif (
                    isinstance(entry, File)
                    and entry.location is not None
                    and (found.file is None or entry.path_bytes == _WELL_KNOWN)
                ):
                    found.file = entry
        return found

    async def _attack(
        self, client: "S3Client", store: ObjectStore, run: stored_runs.StoredRun, manifest: _Manifest
    ) -> None:
        self._screen.step("An attack, with all rights that this server can give")
        key, version, what = run.key, run.version or "", "the manifest"
        if manifest.file is not None and (at := manifest.file.location) is not None:
            key, version, what = at.key, at.version or "", f"which holds {shown(manifest.file.path_bytes)}"
        lock = await store.lock_of(key, version)
        until = f", locked until {when(lock.until)}" if lock else ""
        self._screen.say(f"The target: {_short(key)}, {what}{until}")
        self._refused("Delete it", await attack.delete(client, BUCKET, key, version))
        bypass = await attack.delete(client, BUCKET, key, version, bypass=True)
        self._refused("Delete it, bypassing governance locks", bypass)
        before = await attack.versions(store)
        everything = await attack.delete_all(client, BUCKET, before)
        self._refused(f"Delete all {count(len(before), 'version')} in the bucket", everything)
        await attack.overwrite(client, BUCKET, key)
        await attack.hide(client, BUCKET, run.key)
        self._screen.note("What S3 allows, and is done: rubbish over that object, a delete marker over the manifest")
        left = {(v.key, v.version, v.size, v.etag) for v in await attack.versions(store)}
        if lost := [v.key for v in before if (v.key, v.version, v.size, v.etag) not in left]:
            raise Failed(f"{count(len(lost), 'version')} did not survive the attack, such as {lost[0]}")
        self._screen.good("All that was there still is, under its version id, and sysbackup reads by no other name")
        self._screen.say("S3 itself also refuses to move a lock's date nearer; this small server would allow it.")

    def _refused(self, what: str, answer: Refusal) -> None:
        if not answer.refused:
            self._screen.bad(f"{what}: {answer.words}")
            raise Failed(f"the server did not refuse what Object Lock forbids: {what}: {answer.words}")
        self._screen.good(f"{what}: refused", answer.words)

    async def _restore(self, store: ObjectStore, run: stored_runs.StoredRun) -> None:
        self._screen.step("Back again: sysbackup restore latest --target DIRECTORY")
        if run.oddity:
            self._screen.note(run.oddity)
        begun = monotonic()
        with self._screen.busy("restoring"):
            report = await restore(store, run, [], os.fsencode(self._place.restored), Options(spool=self._place.cache))
        counts = report.counts
        what = ", ".join(
            count(number, noun, plural)
            for number, noun, plural in (
                (counts.files, "file", ""),
                (counts.hard_links, "hard link", ""),
                (counts.directories, "directory", "directories"),
                (counts.symlinks, "symbolic link", ""),
                (counts.specials, "FIFO or device", "FIFOs and devices"),
            )
            if number
        )
        self._screen.good(f"{what} ({amount(counts.bytes)}) in {elapsed(monotonic() - begun)}")
        for warning in report.warnings:
            self._screen.note(warning)
        for problem in report.problems[:20]:
            self._screen.bad(f"{problem.shown}: {problem.reason}")
        if report.exit_code:
            failed = max(counts.failed, len(report.problems))
            raise Failed(f"{count(failed, 'entry', 'entries')} did not come back whole: {self._look()}")

    async def _compare(self, since: int, manifest: _Manifest) -> None:
        self._screen.step("Is it the same?")
        comparison = Comparison(os.fsencode(self._place.restored), since, manifest.told)
        with self._screen.busy("comparing"):
            for number, _ in enumerate(comparison.steps(self._subject, os.fsencode(self._place.root))):
                if number % 64 == 0:
                    await sleep(0)
        for difference in comparison.differences:
            self._screen.bad(difference)
        if comparison.differing:
            differences = count(comparison.differing, "difference")
            raise Failed(f"{differences} between what was backed up and what came back: {self._look()}")
        files, others = comparison.files, comparison.others
        owner = ", owner" if os.geteuid() == 0 else ""
        self._screen.good(
            f"{count(files, 'file')} compared with the originals, {amount(comparison.size)} byte by byte: the same"
        )
        self._screen.good(f"Mode{owner} and time (to the nanosecond) of these and {others:,} other entries: the same")
        self._screen.good("Symbolic links and hard links: the same")
        if comparison.changed:
            changed = count(comparison.changed, "entry", "entries")
            self._screen.note(f"{changed} changed here meanwhile, or may not be read by this user: not compared")

    def _look(self) -> str:
        """Where to look at what came back."""
        return (
            f"see {self._place.restored}" if self._place.kept else "to look at it, run this again with --keep DIRECTORY"
        )

    async def _snapshot(self, store: ObjectStore, run: stored_runs.StoredRun) -> None:
        self._screen.step(f"And the snapshot: sysbackup restore-snapshot latest {SNAPSHOT} --run")
        found = await snapshots.find_snapshot(store, run, SNAPSHOT)
        self._screen.say(f"{found.description}: {amount(found.size)}, to go through: {found.restore}")
        status = await pipe_into(found.restore or "false", snapshots.data(store, found))
        path = snapshot_target(self._place)
        if status or hashlib.sha256(path.read_bytes()).hexdigest() != found.sha:
            raise Failed(f"the snapshot did not come back: its restore command ended with status {status}")
        self._screen.good("The command has run, and what it wrote has the SHA-256 that the manifest names")


def _short(key: str) -> str:
    """A key as people can read it: of a digest its beginning."""
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name[:12]}…" if len(name) == 64 else key
