"""
Compares what sysbackup and restic store of large files that change a little.

    python tests/bench/large_files.py image [--gib 10]
    python tests/bench/large_files.py nights [--nights 20] [--rows 500000]

`image`: a random file; then, each time from what it was at first, 1 % of its blocks of
4 KiB rewritten at random, a tenth of it rewritten in one piece, 1 % of its length inserted
at 40 %; a backup after each.

`nights`: a PostgreSQL cluster of its own; each night 1 % more rows and an update of 0.1 %
of them, then `pg_dumpall`, by a snapshotter and into `restic backup --stdin`. Needs
Debian's package postgresql, and a user `postgres` where it is run as root.

Both tools store into `rclone serve s3` on loopback, each into a bucket of its own. What counts is
bytes and requests; times are told, and depend on where --work lies.
"""

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.contenders import Restic, Sysbackup, program
from tests.bench.measuring import measured
from tests.bench.serving import Server, serving, stored

MIB = 1 << 20
BLOCK = 4096
PART = 16 * MIB


def main() -> int:
    """Does what the command line asks for, and prints a line for each backup."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("image", "nights"))
    parser.add_argument("--gib", type=float, default=10.0, help="of the image")
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--rows", type=int, default=500_000, help="in the first night")
    parser.add_argument("--restic", metavar="PATH", help="a restic other than the one on PATH")
    parser.add_argument("--only", choices=("sysbackup", "restic"))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where all is made and stored")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="sysbackup-bench-", dir=options.work) as folder:
        work = Path(folder)
        work.chmod(0o755)
        steps = _images(work, options.gib) if options.what == "image" else _nights(work, options)
        _compare(work, steps, options)
    return 0


class _Piped(Restic):
    """restic that is given a dump."""

    def backup(self) -> list[str]:
        quoted = shlex.quote(str(self._source)), shlex.quote(self._program)
        return ["/bin/sh", "-c", "exec {1} backup --quiet --stdin --stdin-filename dump < {0}".format(*quoted)]


class _Dumping(Sysbackup):
    """sysbackup with a snapshotter that writes a dump."""

    def prepare(self) -> None:
        super().prepare()
        config = self._home / "conf.d"
        (config / "pickers.d" / "all").unlink()
        snapshotter = config / "snapshots.d" / "dump"
        snapshotter.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(self._source))} >&$1\n")
        snapshotter.chmod(0o755)


Step = tuple[str, Path]
"""What was done before a backup, and the file that is to be backed up."""


def _compare(work: Path, steps: Iterator[Step], options: argparse.Namespace) -> None:
    source = work / "source"
    rclone = program("rclone")
    sums = {"sysbackup": 0, "restic": 0}
    home = {name: work / name for name in sums}
    for each in home.values():
        each.mkdir()
    dumps = options.what == "nights"
    with serving(rclone, home["sysbackup"]) as ours, serving(rclone, home["restic"]) as theirs:
        tools: list[tuple[Sysbackup | Restic, Server]] = []
        if options.only != "restic":
            tools.append(((_Dumping if dumps else Sysbackup)(ours, source, home["sysbackup"]), ours))
        if options.only != "sysbackup":
            restic = options.restic or program("restic")
            tools.append(((_Piped if dumps else Restic)(restic, theirs, source, home["restic"]), theirs))
        for tool, _ in tools:
            tool.prepare()
        for what, _ in steps:
            for tool, server in tools:
                before = stored(tool.bucket)[1]
                server.settle()
                with server.watched() as served:
                    cost = measured(tool.backup(), tool.env, home[tool.name] / "log")
                size = stored(tool.bucket)[1] - before
                sums[tool.name] += size
                requests = sum(served[0].requests.values())
                print(
                    f"{what:<24} {tool.name:<10} {size / MIB:10.1f} MiB stored {requests:6} requests"
                    f" {requests / max(1, size / PART):6.2f} for 16 MiB {cost.wall:7.1f} s {cost.cpu:7.1f} s processor"
                    f" {cost.peak_bytes / MIB:6.0f} MiB",
                    flush=True,
                )
    for name, size in sums.items():
        print(f"{'all together':<24} {name:<10} {size / MIB:10.1f} MiB stored")


def _images(work: Path, gib: float) -> Iterator[Step]:
    path, size = work / "source", int(gib * (1 << 30)) // BLOCK * BLOCK
    dice = random.Random(1)
    with path.open("wb") as file:
        for at in range(0, size, 4 * MIB):
            file.write(dice.randbytes(min(4 * MIB, size - at)))
    yield "first", path
    numbers = dice.sample(range(size // BLOCK), size // BLOCK // 100)
    yield from _changed(path, "1 % of blocks", lambda: _overwritten(path, [n * BLOCK for n in numbers], BLOCK))
    yield from _changed(path, "a tenth in one piece", lambda: _overwritten(path, [size // 3], size // 10))
    _inserted(path, size * 2 // 5, size // 100)
    yield "1 % inserted at 40 %", path


def _changed(path: Path, what: str, change: Callable[[], Callable[[], None]]) -> Iterator[Step]:
    undo = change()
    yield what, path
    undo()


def _overwritten(path: Path, places: list[int], length: int) -> Callable[[], None]:
    """Write other bytes there; what it returns puts the old ones back."""
    dice = random.Random(2)
    kept = path.with_suffix(".kept")
    with path.open("r+b") as file, kept.open("wb") as aside:
        for at in places:
            for begin in range(at, at + length, MIB):
                some = min(MIB, at + length - begin)
                aside.write(os.pread(file.fileno(), some, begin))
                os.pwrite(file.fileno(), dice.randbytes(some), begin)

    def undo() -> None:
        with path.open("r+b") as file, kept.open("rb") as aside:
            for at in places:
                for begin in range(at, at + length, MIB):
                    os.pwrite(file.fileno(), aside.read(min(MIB, at + length - begin)), begin)
        kept.unlink()

    return undo


def _inserted(path: Path, at: int, length: int) -> None:
    old = path.with_suffix(".old")
    path.rename(old)
    dice = random.Random(3)
    with old.open("rb") as before, path.open("wb") as after:
        left = at
        while left:
            left -= after.write(before.read(min(MIB, left)))
        for begin in range(0, length, MIB):
            after.write(dice.randbytes(min(MIB, length - begin)))
        shutil.copyfileobj(before, after, MIB)
    old.unlink()


def _nights(work: Path, options: argparse.Namespace) -> Iterator[Step]:
    path = work / "source"
    with _cluster(work) as (psql, dump):
        psql(
            "CREATE TABLE visits (id bigserial PRIMARY KEY, at timestamptz, who text, page text, notes text);"
            "CREATE TABLE accounts (id bigserial PRIMARY KEY, name text, mail text, balance numeric);"
            "SELECT setseed(0.5)"
        )
        rows = options.rows
        _grow(psql, rows)
        for night in range(options.nights):
            if night:
                _grow(psql, rows // 100)
                rows += rows // 100
                psql(
                    "SELECT setseed(0.25); UPDATE visits SET notes = md5(random()::text) WHERE random() < 0.001;"
                    "UPDATE accounts SET balance = balance + 1 WHERE random() < 0.001"
                )
            dump(path)
            yield f"night {night + 1} ({path.stat().st_size / MIB:.0f} MiB)", path


def _grow(psql: Callable[[str], None], rows: int) -> None:
    psql(
        "INSERT INTO visits (at, who, page, notes) SELECT timestamptz '2026-01-01' + n * interval '1 second',"
        " 'user' || (random() * 100000)::int, '/page/' || (random() * 1000)::int || '.html', md5(random()::text)"
        f" FROM generate_series(1, {rows}) n;"
        "INSERT INTO accounts (name, mail, balance) SELECT 'name ' || md5(random()::text),"
        f" md5(random()::text) || '@example.com', (random() * 10000)::int FROM generate_series(1, {rows // 5}) n"
    )


@contextmanager
def _cluster(work: Path) -> Iterator[tuple[Callable[[str], None], Callable[[Path], None]]]:
    """A PostgreSQL server of its own; how to have it do something, and how to dump it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise SystemExit("PostgreSQL is not here; apt-get install postgresql")
    programs = found[-1].parent
    data = work / "cluster"
    data.mkdir(mode=0o700)
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(*words: str, **how: object) -> None:
        subprocess.run([*prefix, *words], check=True, cwd="/", **how)  # type: ignore[call-overload]

    quiet = {"stdout": subprocess.DEVNULL}
    run(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C", **quiet)
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(data / "log")]
    run(*control, "-o", f"-c listen_addresses= -k {data} -c fsync=off", "start", **quiet)
    try:
        where = ["-h", str(data), "-U", "postgres"]

        def psql(text: str) -> None:
            run(str(programs / "psql"), *where, "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text, **quiet)

        def dump(path: Path) -> None:
            with path.open("wb") as file:
                run(str(programs / "pg_dumpall"), *where, stdout=file)

        yield psql, dump
    finally:
        run(*control, "-m", "immediate", "stop", **quiet)


if __name__ == "__main__":
    sys.exit(main())
