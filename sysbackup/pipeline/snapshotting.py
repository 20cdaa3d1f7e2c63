"""
Snapshotting: what snapshotters write becomes objects.

S3 takes an object's metadata when its upload begins, while a snapshotter may
describe itself last. So the data wait on disk, up to `spool_limit`, for the
program's end; a longer stream begins its upload with what has been said so
far, and the manifest keeps the full text.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from urllib.parse import quote

import structlog
from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncBufferedReader

from sysbackup.contents.shipping import Refused, Sender
from sysbackup.disk.sorting import spooling
from sysbackup.formats import keys, manifest
from sysbackup.model import Problem, shown
from sysbackup.pipeline.run_context import RunContext
from sysbackup.pipeline.tally import Tally
from sysbackup.programs.discovery import Program
from sysbackup.programs.running import Running, running
from sysbackup.store.port import Body

log = structlog.get_logger()

RESTORE_THROUGH = "::restore-through::"

# What a description may hold: it stands in the manifest, in memory, and in part in the object's metadata.
_SAID_AT_MOST = 256 << 10
# S3: "user-defined metadata is limited to 2 KB", keys and values together (User Guide, "Working with object metadata").
_METADATA_AT_MOST = 1900

# What stands before metadata that are percent-encoded. Not RFC 2047's form: S3 decodes that on arrival (User Guide,
# same place), and what a header cannot hold would be in its answers.
_ENCODED = "UTF-8''"


class _Said:
    """What a snapshotter says on standard output: the description and, from its last such line, the restore command."""

    def __init__(self) -> None:
        self._text = bytearray()

    async def listen(self, program: Running) -> None:
        """Take in all of it; what is beyond the bound is read and dropped, so that the program can go on."""
        async for chunk in program.output():
            self._text += chunk[: max(0, _SAID_AT_MOST - len(self._text))]

    def understood(self) -> tuple[str, str | None]:
        """(description, restore command) as far as said."""
        described = []
        restore = None
        for line in self._text.decode("utf-8", "replace").splitlines():
            if line.startswith(RESTORE_THROUGH):
                restore = line.removeprefix(RESTORE_THROUGH).strip() or restore
            else:
                described.append(line)
        return "\n".join(described).strip(), restore

    def metadata(self) -> dict[str, str]:
        """
        The same as metadata of an object.

        Headers hold printable ASCII: such a text stays as it is, which is how
        s3-sysbackup 0.2.0 takes it. Any other is percent-encoded and marked. A
        description too long is cut, a command too long left out whole: half a
        command is worse than none, and the manifest has both.
        """
        description, restore = self.understood()
        found = {}
        left = _METADATA_AT_MOST
        if restore is not None and len(command := _header(restore)) <= left // 2:
            found[keys.RESTORE] = command
            left -= len(command)
        if description:
            while len(text := _header(description)) > left:
                description = description[: max(1, len(description) * left // len(text) - 1)]
            found[keys.DESCRIPTION] = text
        return found


def _header(text: str) -> str:
    """The text itself, or after a mark as RFC 8187 has it (`UTF-8''a%0Ab`) with `%` for what is no printable ASCII."""
    if text.isascii() and text.isprintable() and not text.startswith(_ENCODED):
        return text
    return _ENCODED + quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


class _Data:
    """
    The data as a stream's source, always by way of the spool's file.

    What comes after the file's first filling is set down in it part by part: a
    program that takes its time holds disk, not the memory that others need.
    """

    def __init__(
        self,
        spool: AsyncBufferedReader,
        program: Running,
        spooled: int,
        rest: AsyncIterator[bytes] | None,
        tally: Tally,
    ) -> None:
        self._tally = tally
        self._spool = spool
        self._spooled = self._left = spooled
        self._program = program
        self._rest = rest
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha(self) -> bytes:
        return self._hash.digest()

    async def ready(self, size: int) -> None:
        """Have the next `size` bytes in the file, or all that is to come."""
        if self._rest is None or self._left >= size:
            return
        kept = await self._spool.read(self._left)
        await self._spool.seek(0)
        await self._spool.truncate()
        await self._spool.write(kept)
        while self._left < size and (chunk := await anext(self._rest, b"")):
            await self._spool.write(chunk)
            self._left += len(chunk)
            self._tally.bytes_snapshots += len(chunk)
        await self._spool.seek(0)

    async def take(self, size: int) -> Body:
        out = await self._spool.read(min(size, self._left))
        self._left -= len(out)
        await asyncio.to_thread(self._hash.update, out)
        self.size += len(out)
        return out

    async def approve(self) -> None:
        failure = await self._program.result()
        if failure is not None:
            raise Refused(failure)
        if not self._spooled:
            raise Refused(
                "it ended well but wrote no data to the file descriptor that its argument names"
                " (standard output is for the description)"
            )


async def snapshot_all(
    run: RunContext, sender: Sender, programs: Sequence[Program], taken: list[manifest.Snapshot]
) -> None:
    """Run the snapshotters, `snapshots_at_once` of them; `taken` gets what those gave that ended well."""
    turns = asyncio.Semaphore(run.config.run.snapshots_at_once)

    async def in_turn(program: Program) -> None:
        async with turns:
            snapshot = await take(run, sender, program)
            if snapshot is not None:
                taken.append(snapshot)

    async with asyncio.TaskGroup() as group:
        for program in programs:
            group.create_task(in_turn(program))


async def take(run: RunContext, sender: Sender, program: Program) -> manifest.Snapshot | None:
    """
    Run one snapshotter; None, and a problem noted, where it failed: then nothing of it is stored.

    The cache directory takes up to `spool_limit` bytes of it, in an unnamed file.
    """
    started = run.clock.now()
    said = _Said()
    async with (
        AsyncExitStack() as stack,
        running(program, idle_limit=run.config.run.snapshot_idle_limit, with_data=True) as snapshotter,
        asyncio.TaskGroup() as group,
    ):
        # Not opened through aiofiles: a cancellation while its thread opens the file would lose sight of it.
        with spooling(run.config.cache):
            raw = stack.enter_context(tempfile.TemporaryFile(dir=run.config.cache))  # noqa: SIM115  # just that
        file = wrap(raw)
        listening = group.create_task(said.listen(snapshotter))
        try:
            data, length = await _spooled(run, snapshotter, file)
            if length is not None:
                await listening
                await data.approve()
            stored = await sender.send(
                keys.snapshot_key(run.terms.host, run.terms.run, program.name),
                run.terms.lasting(run.clock.now()).promise,
                data,
                length=length,
                metadata=said.metadata(),
            )
        except Refused as refused:
            run.tally.problem(Problem("snapshotter.failed", program.name, str(refused)))
            return None
    description, restore = said.understood()
    run.tally.stored(stored, contents=0, plain=data.size)
    run.tally.snapshots += 1
    log.info("snapshot.stored", program=shown(program.name), bytes=data.size, key=stored.key)
    return manifest.Snapshot(
        name=shown(program.name),
        key=stored.key,
        version=stored.version,
        size=data.size,
        sha=data.sha.hex(),
        description=description,
        restore=restore,
        started=started,
        finished=run.clock.now(),
    )


async def _spooled(run: RunContext, snapshotter: Running, file: AsyncBufferedReader) -> tuple[_Data, int | None]:
    """What the program wrote, and its length if that was all of it."""
    size = 0
    chunks = snapshotter.data()
    with spooling(run.config.cache):
        async for chunk in chunks:
            await file.write(chunk)
            size += len(chunk)
            run.tally.bytes_snapshots += len(chunk)
            if size > run.config.run.spool_limit:
                await file.seek(0)
                return _Data(file, snapshotter, size, chunks, run.tally), None
        await file.seek(0)
    return _Data(file, snapshotter, size, None, run.tally), size
