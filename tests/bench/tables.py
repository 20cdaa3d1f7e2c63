"""What the measurements say: a table, how the tools compare within each turn, and how one grows with its workers."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.bench.turns import Result, Results

MIB = 1 << 20

HEAD = (
    "step", "tool", "wall s", "each turn", "cpu s", "parent cpu s", "memory MiB", "server cpu s", "requests", "objects",
    "stored MiB", "kept MiB", "files/s", "MiB/s", "",
)  # fmt: skip

_TO_THE_LEFT = ("step", "tool", "each turn", "")

_COMPARED: Mapping[str, Callable[[Result], float]] = {
    "wall time": lambda result: result.cost.wall,
    "processor time": lambda result: result.cost.cpu,
    "memory": lambda result: result.cost.peak_bytes,
}


def told(results: Results, versions: Mapping[str, str], files: int, size: int) -> str:
    """All of it. Numbers are medians over the turns, but for memory, which is the most of any."""
    rows = [HEAD, *(_row(step, tool, turns, files, size) for (step, tool), turns in results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["", "; ".join(dict.fromkeys(versions.values()))]
    for row in rows:
        cells = (
            cell.ljust(width) if title in _TO_THE_LEFT else cell.rjust(width)
            for title, cell, width in zip(HEAD, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", *ratios(results), *scaling(results), "", *_requests(results)])


def _row(step: str, tool: str, turns: Sequence[Result], files: int, size: int) -> tuple[str, ...]:
    def middle(value: Callable[[Result], float]) -> float:
        return statistics.median(map(value, turns))

    wall = middle(lambda r: r.cost.wall)
    remarks = [] if all(r.cost.complete for r in turns) else ["incomplete"]
    if turns[0].differences is not None:
        remarks.append(f"{max(r.differences or 0 for r in turns):,} differences")
    return (
        step,
        tool,
        f"{wall:.2f}",
        " ".join(f"{r.cost.wall:.1f}" for r in turns),
        f"{middle(lambda r: r.cost.cpu):.1f}",
        f"{middle(lambda r: r.cost.parent_cpu):.1f}",
        f"{max(r.cost.peak_bytes for r in turns) / MIB:.0f}",
        f"{middle(lambda r: r.served.cpu):.1f}",
        f"{middle(lambda r: r.served.requests.total()):.0f}",
        f"{middle(lambda r: r.objects):.0f}",
        f"{middle(lambda r: r.stored) / MIB:.0f}",
        f"{middle(lambda r: r.kept) / MIB:.1f}",
        f"{files / wall:,.0f}",
        f"{size / MIB / wall:.0f}",
        ", ".join(remarks),
    )


def ratios(results: Results) -> Iterable[str]:
    """
    How sysbackup compares with the other tool, step by step.

    Each turn's numbers are divided by one another and the median is that of the quotients: what slowed the machine
    for a whole turn slowed both.
    """
    for (step, tool), ours in results.items():
        for (other_step, rival), theirs in results.items():
            if other_step == step and _is_ours(tool) and not _is_ours(rival):
                said = (f"{_quotients(map(of, ours), map(of, theirs))} of its {what}" for what, of in _COMPARED.items())
                yield f"{step}: {tool} beside {rival} takes {', '.join(said)}"


def _is_ours(tool: str) -> bool:
    return tool.startswith("sysbackup")


def _quotients(ours: Iterable[float], theirs: Iterable[float]) -> str:
    """Their median, and each where there are several; those of nought are left out."""
    found = [one / other for one, other in zip(ours, theirs, strict=True) if other]
    if not found:
        return "?"
    each = f" ({' '.join(f'{quotient:.2f}' for quotient in found)})" if len(found) > 1 else ""
    return f"{statistics.median(found):.2f}{each}"


def scaling(results: Results) -> Iterable[str]:
    """The speed of each step with more workers, relative to that with the fewest that were measured."""
    by_step: dict[str, dict[int, float]] = {}
    for (step, tool), turns in results.items():
        _, marked, workers = tool.partition(", workers ")
        if marked:
            by_step.setdefault(step, {})[int(workers)] = statistics.median(r.cost.wall for r in turns)
    for step, walls in by_step.items():
        fewest = min(walls)
        said = (f"{walls[fewest] / walls[n]:.2f} with {n}" for n in sorted(walls) if n > fewest)
        if len(walls) > 1:
            yield f"{step}: speed relative to workers {fewest}: {', '.join(said)}"


def _requests(results: Results) -> Iterable[str]:
    for (step, tool), turns in results.items():
        kinds = Counter(turns[-1].served.requests).most_common()
        yield f"{step}, {tool}, requests: " + ", ".join(f"{count} {kind}" for kind, count in kinds)
