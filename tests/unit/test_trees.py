"""The trees that other tests rely on are what they say they are; restless files change when read."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.bulk import big_file, many_small_files
from tests.support.comparing import differences, survey
from tests.support.restless import Change, Restless
from tests.support.trees import Torture, torture_tree

KINDS = {
    "f": stat.S_ISREG,
    "d": stat.S_ISDIR,
    "l": stat.S_ISLNK,
    "p": stat.S_ISFIFO,
    "c": stat.S_ISCHR,
    "b": stat.S_ISBLK,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Torture:
    """A torture tree, to be read only."""
    return torture_tree(bytes(tmp_path_factory.mktemp("torture")))


def test_the_torture_tree_tells_of_all_it_holds(made: Torture) -> None:
    """Every path on disk is in the account, with its type, and nothing else is."""
    root = os.path.dirname(made.tree)
    found = {root + b"/" + path: looks for path, looks in survey(root).items() if path != b"."}
    assert found.keys() == made.kinds.keys() | made.passed_over | made.too_long
    assert [p for p, kind in made.kinds.items() if not KINDS[kind](found[p].status.st_mode)] == []
    assert {len(p) for p in made.kinds} >= {4094, 4095}
    assert {len(p) for p in made.too_long} > {5096}


def test_the_torture_tree_s_links_lead_where_it_says(made: Torture) -> None:
    """Symlinks lead to the files named, the astray ones nowhere, and hard links share an inode."""
    assert len(made.leads) > 80
    assert {link: os.path.realpath(link) for link in made.leads} == made.leads
    assert {path: os.path.realpath(path) for path in made.roundabout} == made.roundabout
    assert [link for link in made.astray if os.path.exists(link)] == []
    assert sorted(len(group) for group in made.links) == [2, 2, 2, 3]
    for group in made.links:
        assert {os.stat(p).st_nlink for p in group} == {len(group)}
        assert len({os.stat(p).st_ino for p in group}) == 1
    for group in made.equal:
        assert len({Path(os.fsdecode(p)).read_bytes() for p in group}) == 1


def test_what_a_picker_prints_by_mistake_cannot_be_read(made: Torture) -> None:
    """The kernel refuses the bad picks for the reasons given (a relative one is sysbackup's to refuse)."""
    for path, reason in (made.bad_picks | made.gone_picks).items():
        if path.startswith(b"/"):
            with pytest.raises(OSError, match=f"(?i){reason}"):
                os.lstat(path)


def test_root_leaves_nothing_out_of_the_torture_tree(made: Torture) -> None:
    """Everything the tree is to hold is there where the tests run as root; else it says what is not."""
    if os.geteuid() == 0:
        assert made.left_out == []
        assert made.problems == {}
    else:
        assert any(reason.startswith("capabilities: ") for reason in made.left_out)
        assert made.problems[made.tree + b"/unreadable"] == "permission denied"


@pytest.mark.skipif(os.geteuid() != 0, reason="the tree holds what only root may read")
def test_the_torture_tree_is_the_same_each_time(made: Torture, tmp_path: Path) -> None:
    """Two trees from one seed agree in all but what depends on their place: absolute links and long paths."""
    again = torture_tree(bytes(tmp_path))
    found = differences(made.tree, again.tree)
    assert [d for d in found if not d.startswith(("'long", "'symlinks/absolute'"))] == []


def read(path: bytes) -> bytes:
    """Reads as a careful reader does: small pieces, up to the end."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(fd, 4096):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", "replace", "vanish"])
def test_a_restless_file_changes_when_it_is_opened_or_read(tmp_path: Path, change: Change) -> None:
    """It stays as it is until it is opened; then it changes, at most as often as was asked."""
    path = bytes(tmp_path / "restless")
    Path(os.fsdecode(path)).write_bytes(bytes(1 << 20))
    before = os.stat(path)
    with Restless(path, change, times=1) as file:
        assert os.stat(path) == before
        read(path)
        file.wait(1)
        read(path) if change != "vanish" else None
        assert file.changes == 1
    if change == "vanish":
        assert not os.path.exists(path)
    else:
        after = os.stat(path)
        assert after.st_ctime_ns > before.st_ctime_ns
        assert (after.st_ino != before.st_ino) == (change == "replace")
        assert {"grow": 4096, "shrink": -4096, "rewrite": 0}.get(change) in (
            None,
            after.st_size - before.st_size,
        )


def test_a_restless_file_goes_on_changing(tmp_path: Path) -> None:
    """Each further read finds it changed again."""
    path = bytes(tmp_path / "restless")
    Path(os.fsdecode(path)).write_bytes(b"at first")
    with Restless(path, "replace") as file:
        for n in range(1, 4):
            read(path)
            file.wait(n)
            assert file.changes >= n


def test_many_small_files_differ(tmp_path: Path) -> None:
    """As many files as asked for, of the size asked for, no two alike."""
    root = bytes(tmp_path / "many")
    many_small_files(root, 2_500, 100)
    contents = {p.read_bytes() for p in Path(os.fsdecode(root)).rglob("file-*")}
    assert len(contents) == 2_500
    assert {len(c) for c in contents} == {100}


def test_a_big_file_has_its_size_and_does_not_repeat(tmp_path: Path) -> None:
    """The file is of the size asked for and no two MiB are equal."""
    path = tmp_path / "big"
    big_file(bytes(path), 0.005, compressible=True)
    data = path.read_bytes()
    assert len(data) == 5 << 20
    assert len({data[i : i + (1 << 20)] for i in range(0, len(data), 1 << 20)}) == 5
