"""What the benchmarks rely on: what a command costs, what lies below a folder, and how numbers are compared."""

import mmap
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bench.comparison import parsed
from tests.bench.contenders import Sysbackup
from tests.bench.file_systems import Mount, below, has_journal, mounts
from tests.bench.measuring import Cost, cpu_of, measured
from tests.bench.process_tree import pss, together, tree
from tests.bench.serving import Served, Server
from tests.bench.tables import ratios, scaling, told
from tests.bench.turns import Result, Results

MIB = 1 << 20
BOTH_HOLD = 64 * MIB

# A process that shares memory with its child, both waiting with all of it in use.
SHARING = f"""\
import mmap, os, sys
shared = mmap.mmap(-1, {BOTH_HOLD})
shared.write(b"x" * {BOTH_HOLD})
ready, told = os.pipe()
if os.fork() == 0:
    assert shared[::4096].count(b"x") == {BOTH_HOLD // mmap.PAGESIZE}
    os.write(told, b"ready")
else:
    os.read(ready, 5)
    print("ready", flush=True)
sys.stdin.read()
"""

# A process that does nothing while its child uses half a second of processor time.
BURNING = """\
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"])
"""


def cost(wall: float = 1.0, cpu: float = 1.0, peak: int = MIB) -> Cost:
    """Of a command that did well."""
    return Cost(wall, cpu, cpu / 2, peak, complete=True)


def taken(*costs: Cost) -> list[Result]:
    """The turns of one tool."""
    return [Result(each, Served(0.1, Counter({"put object": 3})), 2, MIB, MIB, 0) for each in costs]


def test_shared_memory_is_counted_once() -> None:
    """What two processes have mapped together costs what it takes, not twice that."""
    with subprocess.Popen(
        [sys.executable, "-c", SHARING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        parent, *children = tree(process.pid)
        held = together(process.pid)
        process.stdin.close()
    assert parent == process.pid
    assert len(children) == 1
    assert BOTH_HOLD <= held < 2 * BOTH_HOLD
    assert together(process.pid) == 0


def test_a_rollup_tells_the_proportional_size() -> None:
    """And neither that of its dirty pages, nor that of all resident ones."""
    rollup = "560-7ff [rollup]\nRss:  999 kB\nPss:   12 kB\nPss_Dirty:  7 kB\nPss_Anon: 5 kB\n"
    assert pss(rollup) == 12 * 1024
    assert pss("") == 0


def test_a_childs_work_is_not_its_parents(tmp_path: Path) -> None:
    """Both are counted; the processor time of the command's own process is told apart."""
    found = measured([sys.executable, "-c", BURNING], os.environ, tmp_path / "log")
    assert found.complete
    assert found.cpu >= 0.5
    assert found.cpu - found.parent_cpu >= 0.5 - 2 / os.sysconf("SC_CLK_TCK")
    assert found.parent_cpu > 0


def test_memory_is_that_of_all_processes(tmp_path: Path) -> None:
    """A child's counts as its parent's does."""
    child = f"import time; held = b'x' * {BOTH_HOLD}; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert measured([sys.executable, "-c", parent], os.environ, tmp_path / "log").peak_bytes >= BOTH_HOLD


@pytest.mark.parametrize(("status", "complete"), [(0, True), (3, False)])
def test_a_command_that_leaves_something_out_is_incomplete(tmp_path: Path, status: int, complete: bool) -> None:
    """By the status that restic and sysbackup share."""
    assert measured(["sh", "-c", f"exit {status}"], os.environ, tmp_path / "log").complete is complete


def test_a_command_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    """With the end of what it said."""
    with pytest.raises(SystemExit, match=r"ended with 1:\nno such bucket"):
        measured(["sh", "-c", "echo no such bucket >&2; exit 1"], os.environ, tmp_path / "log")


def test_processor_time_is_found_whatever_a_process_is_called(tmp_path: Path) -> None:
    """A name may have spaces and parentheses."""
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as process:
        try:
            assert 0 <= cpu_of(process.pid) < 10
        finally:
            process.kill()


MOUNTS = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,noatime shared:1 - ext4 /dev/root rw
28 27 0:24 / /dev/shm rw,nosuid - tmpfs tmpfs rw
40 27 254:16 / /srv/with\040space rw master:1 shared:2 - xfs /dev/vdb rw
41 40 0:50 / /srv/with\040space rw - overlay none rw,lowerdir=/a - b
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", Mount(b"/", "254:0", "ext4")),
        (b"/var/tmp", Mount(b"/", "254:0", "ext4")),
        (b"/dev/shm", Mount(b"/dev/shm", "0:24", "tmpfs")),
        (b"/dev/shm/a/b", Mount(b"/dev/shm", "0:24", "tmpfs")),
        (b"/dev/shmem", Mount(b"/", "254:0", "ext4")),
        (b"/srv/with space/x", Mount(b"/srv/with space", "0:50", "overlay")),
    ],
)
def test_a_path_lies_on_the_nearest_mount(path: bytes, expected: Mount) -> None:
    """The one that was mounted last, where several are at one place."""
    assert below(path, mounts(MOUNTS)) == expected


def test_this_machine_says_where_its_files_lie() -> None:
    """The device of `stat` is the one that is mounted there."""
    device = os.stat("/proc/self").st_dev
    mount = below(b"/proc/self", mounts(Path("/proc/self/mountinfo").read_bytes()))
    assert (mount.kind, mount.device) == ("proc", f"{os.major(device)}:{os.minor(device)}")


@pytest.mark.parametrize(("said", "expected"), [("<none>\n", False), ("512\n", True), (None, True)])
def test_ext4_tells_of_its_journal(tmp_path: Path, said: str | None, expected: bool) -> None:
    """By the task that writes it; what says nothing is not suspected."""
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block/254:0").symlink_to("../../devices/vda")
    (tmp_path / "fs/ext4/vda").mkdir(parents=True)
    if said is not None:
        (tmp_path / "fs/ext4/vda/journal_task").write_text(said)
    assert has_journal("254:0", tmp_path) is expected


def test_turns_are_compared_one_by_one() -> None:
    """A machine that was slow for one turn changes no ratio."""
    results: Results = {
        ("backup", "restic"): taken(cost(10, 20, 4 * MIB), cost(100, 200, 4 * MIB), cost(10, 20, 4 * MIB)),
        ("backup", "sysbackup"): taken(cost(5, 5, MIB), cost(50, 50, MIB), cost(6, 5, 2 * MIB)),
        ("restore", "sysbackup"): taken(cost()),
    }
    assert list(ratios(results)) == [
        "backup: sysbackup beside restic takes 0.50 (0.50 0.50 0.60) of its wall time, "
        "0.25 (0.25 0.25 0.25) of its processor time, 0.25 (0.25 0.25 0.50) of its memory"
    ]


def test_what_was_nought_is_not_divided_by() -> None:
    """A command that ended before anybody looked at its memory."""
    results: Results = {("backup", "restic"): taken(cost(1, 1, 0)), ("backup", "sysbackup"): taken(cost(2, 3, 5))}
    assert next(iter(ratios(results))).endswith("2.00 of its wall time, 3.00 of its processor time, ? of its memory")


def test_scaling_is_told_from_the_fewest_workers_on() -> None:
    """Of each step; by medians."""
    results: Results = {
        ("backup", "restic"): taken(cost(1)),
        ("backup", "sysbackup, workers 10"): taken(cost(2), cost(2), cost(9)),
        ("backup", "sysbackup, workers 2"): taken(cost(10)),
        ("backup", "sysbackup, workers 4"): taken(cost(8)),
        ("second", "sysbackup, workers 2"): taken(cost(10)),
    }
    assert list(scaling(results)) == ["backup: speed relative to workers 2: 1.25 with 4, 5.00 with 10"]


def test_the_table_has_a_line_for_each_step_of_each_tool() -> None:
    """With the processor time of all and of the parent, memory, and what came back otherwise."""
    results: Results = {("restore", "restic"): taken(cost(2, 3, 7 * MIB))}
    lines = told(results, {"restic": "restic 0.19.1"}, 100, 10 * MIB).splitlines()
    assert lines[1] == "restic 0.19.1"
    assert lines[2].split()[:3] == ["step", "tool", "wall"]
    assert " ".join(lines[3].split()) == "restore restic 2.00 2.0 3.0 1.5 7 0.1 3 2 1 1.0 50 5 0 differences"
    assert lines[-1] == "restore, restic, requests: 3 put object"


def test_workers_are_counted_upwards() -> None:
    """Each number once; others are refused."""
    assert parsed(None, ["--workers", "4,1,2,1"]).workers == (1, 2, 4)
    for wrong in ("0", "two", ""):
        with pytest.raises(SystemExit):
            parsed(None, ["--workers", wrong])


@pytest.mark.parametrize(("workers", "name"), [(None, "sysbackup"), (4, "sysbackup, workers 4")])
def test_a_run_has_the_workers_that_were_asked_for(tmp_path: Path, workers: int | None, name: str) -> None:
    """By its configuration, which the command accepts."""
    (tmp_path / "served").mkdir()
    with subprocess.Popen(["sleep", "60"]) as idle:
        tool = Sysbackup(
            Server("rclone", tmp_path / "served", tmp_path / "log", 9, idle), tmp_path, tmp_path / "home", workers
        )
        idle.kill()
    tool.prepare()
    done = subprocess.run(
        [sys.executable, "-m", "sysbackup", "check-config"], env=tool.env, capture_output=True, text=True, check=False
    )
    assert tool.name == name
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "home" / "conf.d" / "conf").read_text()
    assert ("workers = 4" in said) is (workers == 4)
