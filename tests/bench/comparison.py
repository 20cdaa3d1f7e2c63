"""Runs tools in turns over one source and tells what each step cost."""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from tests.bench.contenders import REPOSITORY, Contender, Rclone, Restic, Sysbackup, program
from tests.bench.measuring import Cost, measured, warm
from tests.bench.serving import Served, Server, serving, stored
from tests.support.bulk import big_file, many_small_files

MIB = 1 << 20
Maker = Callable[[Server, Path, Path], Contender]


@dataclass(frozen=True, slots=True)
class Result:
    """One step of one tool."""

    cost: Cost
    served: Served
    objects: int
    stored: int
    kept: int
    """Bytes that the tool keeps on this machine: its catalog or cache."""
    differences: int | None = None
    """How many differences a restored tree showed; None where nothing was restored."""


Results = dict[tuple[str, str], list[Result]]
"""By step and tool, in the order of the runs."""


def main(description: str | None) -> int:
    """Measures what the command line asks for, prints one table, and leaves nothing behind."""
    options = _options(description)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended)
    with TemporaryDirectory(prefix="sysbackup-bench-", dir=options.work) as folder:
        work = Path(folder)
        source = _source(options, work)
        rival: Maker = (
            partial(Rclone, program("rclone")) if options.file else partial(Restic, options.restic or program("restic"))
        )
        makers: dict[str, Maker] = {"rival": rival, "sysbackup": Sysbackup}
        chosen = [maker for name, maker in makers.items() if options.only in (None, name)]
        files, size = warm(source) if source.is_dir() else (1, source.stat().st_size)
        print(f"{source}: {files:,} files, {size / MIB:,.0f} MiB; {os.cpu_count()} cores", flush=True)
        steps = ["backup"] + ["second"] * options.second + ["restore"] * options.restore
        results, versions = _in_turns(chosen, steps, options.runs, source, work)
        print(_table(results, versions, files, size))
    return 0


def _options(description: str | None) -> argparse.Namespace:
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
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="a folder on a real disk")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    return options


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


def _in_turns(
    makers: Iterable[Maker], steps: list[str], runs: int, source: Path, work: Path
) -> tuple[Results, dict[str, str]]:
    results: Results = defaultdict(list)
    versions: dict[str, str] = {}
    for run in range(runs):
        for maker in makers:
            with TemporaryDirectory(dir=work) as folder, serving(program("rclone"), Path(folder)) as server:
                home = Path(folder)
                tool = maker(server, source, home)
                versions[tool.name] = versions.get(tool.name) or tool.version()
                tool.prepare()
                for step in steps:
                    result = _step(step, tool, server, source, home)
                    results[step, tool.name].append(result)
                    print(f"run {run + 1}: {tool.name} {step}: {result.cost.wall:.1f} s", flush=True)
    return results, versions


def _step(step: str, tool: Contender, server: Server, source: Path, home: Path) -> Result:
    target = home / "restored"
    argv = tool.restore(target) if step == "restore" else tool.backup()
    with server.watched() as served:
        cost = measured(argv, tool.env, home / f"{step}.log")
    objects, size = stored(tool.bucket)
    kept = sum(path.stat().st_size for path in (home / "cache").rglob("*") if path.is_file())
    if step != "restore":
        return Result(cost, served[0], objects, size, kept)
    found = _differences(source, target / source.relative_to("/"))
    shutil.rmtree(target)
    return Result(cost, served[0], objects, size, kept, found)


def _differences(original: Path, restored: Path) -> int:
    """Counted in a process of its own: this one must stay small (see `measured`)."""
    if original.is_file():
        return subprocess.run(["cmp", "--silent", original, restored], check=False).returncode
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.support.comparing", original, restored],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if outcome.returncode not in (0, 1):
        raise SystemExit(f"the trees could not be compared:\n{outcome.stderr}")
    lines = outcome.stdout.splitlines()
    for line in lines[:3]:
        print(f"  restored differently: {line}")
    return len(lines)


HEAD = (
    "step", "tool", "wall s", "each run", "cpu s", "peak MiB", "server cpu s", "requests", "objects",
    "stored MiB", "kept MiB", "files/s", "MiB/s", "",
)  # fmt: skip


def _table(results: Results, versions: dict[str, str], files: int, size: int) -> str:
    rows = [HEAD, *(_row(step, tool, runs, files, size) for (step, tool), runs in results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["", "; ".join(versions.values())]
    for row in rows:
        cells = (
            cell.ljust(width) if n in (0, 1, 3) else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    lines += ["", *_ratios(results), "", *_requests(results)]
    return "\n".join(lines)


def _row(step: str, tool: str, runs: list[Result], files: int, size: int) -> tuple[str, ...]:
    def middle(value: Callable[[Result], float]) -> float:
        return statistics.median(map(value, runs))

    wall = middle(lambda r: r.cost.wall)
    remarks = [] if all(r.cost.complete for r in runs) else ["incomplete"]
    if runs[0].differences is not None:
        remarks.append(f"{max(r.differences or 0 for r in runs):,} differences")
    return (
        step,
        tool,
        f"{wall:.2f}",
        " ".join(f"{r.cost.wall:.1f}" for r in runs),
        f"{middle(lambda r: r.cost.cpu):.1f}",
        f"{max(r.cost.peak_bytes for r in runs) / MIB:.0f}",
        f"{middle(lambda r: r.served.cpu):.1f}",
        f"{middle(lambda r: r.served.requests.total()):.0f}",
        f"{middle(lambda r: r.objects):.0f}",
        f"{middle(lambda r: r.stored) / MIB:.0f}",
        f"{middle(lambda r: r.kept) / MIB:.1f}",
        f"{files / wall:,.0f}",
        f"{size / MIB / wall:.0f}",
        ", ".join(remarks),
    )


def _ratios(results: Results) -> Iterable[str]:
    walls = {key: statistics.median(r.cost.wall for r in runs) for key, runs in results.items()}
    for (step, tool), wall in walls.items():
        if tool != "sysbackup" and (step, "sysbackup") in walls:
            yield f"{step}: sysbackup takes {walls[step, 'sysbackup'] / wall:.2f} of {tool}'s wall time"


def _requests(results: Results) -> Iterable[str]:
    for (step, tool), runs in results.items():
        kinds = Counter(runs[-1].served.requests).most_common()
        yield f"{step}, {tool}, requests: " + ", ".join(f"{count} {kind}" for kind, count in kinds)
