"""Tools that take turns over one source, each turn with a server and a bucket of its own."""

import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.contenders import REPOSITORY, Contender, program
from tests.bench.measuring import Cost, measured
from tests.bench.serving import Served, Server, serving, stored

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
"""By step and tool, in the order of the turns: the n-th of all are from the same turn."""


def in_turns(
    makers: Sequence[Maker], steps: Sequence[str], turns: int, source: Path, work: Path
) -> tuple[Results, dict[str, str]]:
    """Has each tool do all steps, one tool after another, so many times; the results, and the tools' versions."""
    results: Results = defaultdict(list)
    versions: dict[str, str] = {}
    for turn in range(turns):
        for maker in makers:
            with TemporaryDirectory(dir=work) as folder, serving(program("rclone"), Path(folder)) as server:
                home = Path(folder)
                tool = maker(server, source, home)
                versions[tool.name] = versions.get(tool.name) or tool.version()
                tool.prepare()
                for step in steps:
                    result = _step(step, tool, server, source, home)
                    results[step, tool.name].append(result)
                    print(f"turn {turn + 1}: {tool.name} {step}: {result.cost.wall:.1f} s", flush=True)
    return results, versions


def _step(step: str, tool: Contender, server: Server, source: Path, home: Path) -> Result:
    target = home / "restored"
    argv = tool.restore(target) if step == "restore" else tool.backup()
    server.settle()
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
