"""What the command line of the comparison asks for: a source, the tools, and who has how many turns."""

import argparse
import os
import signal
import sysconfig
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from tests.bench.contenders import Rclone, Restic, Sysbackup, program
from tests.bench.file_systems import warning
from tests.bench.measuring import warm
from tests.bench.tables import MIB, told
from tests.bench.turns import Maker, in_turns
from tests.support.bulk import big_file, many_small_files

_SHARED_MEMORY = Path("/dev/shm")


def main(description: str | None) -> int:
    """Measures what the command line asks for, prints one table, and leaves nothing behind."""
    options = parsed(description)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended)
    if spoiled := warning(options.work):
        print(spoiled, flush=True)
    with TemporaryDirectory(prefix="sysbackup-bench-", dir=options.work) as folder:
        work = Path(folder)
        source = _source(options, work)
        files, size = warm(source) if source.is_dir() else (1, source.stat().st_size)
        print(f"{source}: {files:,} files, {size / MIB:,.0f} MiB; {os.cpu_count()} cores", flush=True)
        steps = ["backup"] + ["second"] * options.second + ["restore"] * options.restore
        results, versions = in_turns(_makers(options), steps, options.runs, source, work)
        print(told(results, versions, files, size))
    return 0


def parsed(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; without `arguments` those of this process."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("tree", nargs="?", type=Path, help="default: the largest Python installation here")
    what.add_argument("--file", type=float, metavar="GIB", help="one random file, beside rclone copy")
    what.add_argument("--small", type=int, metavar="N", help="N files of --size bytes")
    parser.add_argument("--size", type=int, default=4096, help="of each file with --small (default: 4096)")
    parser.add_argument("--runs", type=int, default=1, help="how often each tool has its turn")
    parser.add_argument("--restore", action="store_true", help="restore too, and compare with the source")
    parser.add_argument("--second", action="store_true", help="back up again, nothing changed")
    parser.add_argument("--only", choices=("sysbackup", "rival"), help="measure one tool alone")
    parser.add_argument("--compressible", action="store_true", help="with --file: gzips to half")
    parser.add_argument("--restic", metavar="PATH", help="a restic other than the one on PATH")
    parser.add_argument(
        "--workers", type=_numbers, metavar="N,N…", default=(), help="how sysbackup scales: a turn with each so many"
    )
    parser.add_argument(
        "--work", type=Path, default=_SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path("/var/tmp"),
        help="where all is made and stored (default: /dev/shm, which takes memory; a tmpfs of your own is as good)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    return options


def _numbers(text: str) -> tuple[int, ...]:
    found = tuple(sorted({int(number) for number in text.split(",")}))
    if found[0] < 1:
        raise argparse.ArgumentTypeError("there is at least one worker")
    return found


def _makers(options: argparse.Namespace) -> list[Maker]:
    """Who takes turns: the rival first."""
    makers: list[Maker] = []
    if options.only != "sysbackup":
        makers.append(
            partial(Rclone, program("rclone")) if options.file else partial(Restic, options.restic or program("restic"))
        )
    if options.only != "rival":
        makers += [partial(Sysbackup, workers=number) for number in options.workers or (None,)]
    return makers


def _ended(number: int, _: FrameType | None) -> None:
    """Ends by way of all `finally` clauses: no server, tool or file stays behind."""
    raise SystemExit(128 + number)


def _source(options: argparse.Namespace, work: Path) -> Path:
    if options.file:
        big_file(bytes(work / "source"), options.file, compressible=options.compressible)
        return work / "source"
    if options.small:
        many_small_files(bytes(work / "source"), options.small, options.size)
        return work / "source"
    tree: Path = (options.tree or _largest_python()).resolve()
    if not tree.is_dir():
        raise SystemExit(f"{tree} is no directory")
    return tree


def _largest_python() -> Path:
    """pyenv's folder with all its versions, or the library of the Python that runs this."""
    candidates = [Path.home() / ".pyenv", Path("/opt/pyenv"), Path(sysconfig.get_path("stdlib"))]
    return max(candidates, key=lambda path: sum(len(names) for _, _, names in os.walk(path)))
