"""Directories beneath a target: reached and made, and never left by a link, whoever puts it there and when."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sysbackup.errors import RestoreError, UsageError
from sysbackup.files import acl
from sysbackup.files.folders import proc_path
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import Obstacle, Walker, holds_something, open_target, split


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A directory to restore into."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def walker(target: Path) -> Iterator[Walker]:
    """A walker beneath it."""
    fd, made = open_target(bytes(target))
    assert not made
    with Walker(fd) as walker:
        yield walker
    os.close(fd)  # it is ours still


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_missing_is_made_and_what_is_there_is_taken(walker: Walker, target: Path) -> None:
    """With all directories above it; the same directory in the end, whichever way it was reached."""
    (target / "a").mkdir(mode=0o711)
    place = walker.reach(b"a/b/c")
    assert os.path.samestat(os.stat(place.path), (target / "a/b/c").stat())
    assert (target / "a").stat().st_mode & 0o777 == 0o711
    assert walker.reach(b"a/b/c") == place
    assert os.path.samestat(os.stat(walker.reach(b"").path), target.stat())


@pytest.mark.parametrize("step", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("leads", ["outside", "inside", "nowhere"])
def test_a_link_on_the_way_is_an_obstacle(walker: Walker, target: Path, step: str, leads: str) -> None:
    """Wherever it leads, and at whatever step: it is not followed, and nothing is made behind it."""
    outside = target.parent / "outside"
    outside.mkdir()
    (target / "inside").mkdir()
    link = target / step
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to({"outside": outside, "inside": target / "inside", "nowhere": target / "nowhere"}[leads])
    with pytest.raises(Obstacle, match=f"/{step} in the target is no directory: it is not followed"):
        walker.reach(b"a/b/c")
    assert os.listdir(outside) == os.listdir(target / "inside") == []
    assert not (target / "nowhere").exists()


def test_a_fifo_on_the_way_does_not_hold_it_up(walker: Walker, target: Path) -> None:
    """Nobody waits for its other end."""
    os.mkfifo(target / "a")
    with pytest.raises(Obstacle, match="no directory"):
        walker.reach(b"a/b")


def test_a_directory_that_is_swapped_for_a_link_later_leads_nowhere_else(walker: Walker, target: Path) -> None:
    """One that was reached stays what it was, wherever it is now; whoever comes anew meets the link."""
    outside = target.parent / "outside"
    outside.mkdir()
    place = walker.reach(b"a/b")
    (target / "a").rename(target / "moved")
    (target / "a").symlink_to(outside)
    os.mkdir("made", dir_fd=walker.reach(b"a/b").fd)
    assert (target / "moved/b/made").is_dir()
    os.mkdir("below", dir_fd=walker.reach(b"a/b/c").fd)
    assert (target / "moved/b/c/below").is_dir()
    assert os.path.samestat(os.stat(place.path), (target / "moved/b").stat())
    fd = os.open(target, os.O_PATH)
    with Walker(fd) as anew, pytest.raises(Obstacle):
        anew.reach(b"a/b")
    os.close(fd)
    assert os.listdir(outside) == []


def test_nobody_gets_it_outside_by_swapping_at_the_right_moment(target: Path) -> None:
    """A directory that turns into a link and back as fast as can be, while it is walked: nothing is made outside."""
    outside = target.parent / "outside"
    outside.mkdir()
    (target / "real").mkdir()
    (target / "link").symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for name in ("real", "link"):
                try:
                    os.rename(target / "a", target / "aside")
                    os.rename(target / name, target / "a")
                    os.rename(target / "aside", target / name)
                except OSError:  # the walker has made a directory of that name meanwhile
                    pass

    (target / "a").mkdir()
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        fd = os.open(target, os.O_PATH)
        for n in range(2000):
            with Walker(fd) as walker:
                try:
                    place = walker.reach(b"a/%d" % n)
                except Obstacle:
                    continue
                os.mkdir(b"made", dir_fd=place.fd)
        os.close(fd)
    finally:
        over.set()
        swapping.join()
    assert os.listdir(outside) == []


def test_any_number_of_directories_and_any_depth_take_few_descriptors(walker: Walker) -> None:
    """What was used longest ago is closed; a path deeper than what is kept is reached all the same."""
    before = _open_descriptors()
    for n in range(1000):
        walker.reach(b"wide/%d" % n)
        assert _open_descriptors() - before <= 130
    deep = b"/".join([b"d"] * 500)
    for _ in range(2):
        place = walker.reach(deep)
        assert os.listdir(place.path) == []
        assert _open_descriptors() - before <= 130
    os.mkdir(b"made", dir_fd=walker.reach(deep).fd)
    walker.close()
    assert _open_descriptors() <= before
    assert os.listdir(walker.reach(deep).path) == [b"made"]  # it can go on


def test_where_a_file_belongs_is_found(walker: Walker, target: Path) -> None:
    """Its directory, which is reached, and its name; also when it is the directory of the file before."""
    for path in (b"/a/b/x", b"/a/b/y", b"/z", b"/a/b/c/x", b"/a/b/z"):
        place, name = walker.find(path)
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=place.fd))
        assert os.path.exists(bytes(target) + path)
    for n in range(200):
        walker.reach(b"wide/%d" % n)
    place, name = walker.find(b"/a/b/last")  # its directory was closed meanwhile
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=place.fd))
    assert (target / "a/b/last").exists()


@pytest.mark.parametrize("bad", [b"/a/..", b"/a/.", b"/a/", b"/a/x\0y", b"a/x", b"x", b"", b"/../x", b"/a//x", b"/"])
def test_no_file_belongs_where_no_plain_name_leads(walker: Walker, bad: bytes) -> None:
    """Not even beside one that was found just now."""
    walker.find(b"/a/x")
    with pytest.raises(Obstacle):
        walker.find(bad)
    walker.find(b"/x")
    with pytest.raises(Obstacle):
        walker.find(bad)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_whose_a_directory_is(walker: Walker, target: Path) -> None:
    """Ours are those of our user and our group; neither alone will do."""
    for name, uid, gid in (("theirs", 7, 0), ("half", 0, 7), ("mine", 0, 0)):
        (target / name).mkdir()
        os.chown(target / name, uid, gid)
    assert [walker.reach(name).ours for name in (b"theirs", b"half", b"mine")] == [False, False, True]


def test_the_directory_just_reached_stays_open(walker: Walker) -> None:
    """However many steps it took: what is handed out is never what is closed to make room."""
    for depth in (127, 128, 129, 300):
        path = b"/".join([b"%d" % depth] * depth)
        os.fstat(walker.reach(path).fd)


def test_two_that_make_the_same_directories_do_not_disturb_each_other(target: Path) -> None:
    """Whoever comes second finds what the first has made."""
    failed: list[BaseException] = []
    ready = threading.Barrier(4)

    def make() -> None:
        fd = os.open(target, os.O_PATH)
        try:
            with Walker(fd) as walker:
                ready.wait(30)
                for n in range(300):
                    walker.reach(b"%d/a/b" % n)
        except BaseException as error:  # noqa: BLE001 - looked at below
            failed.append(error)
        finally:
            os.close(fd)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list(target.glob("*/a/b"))) == 300


def test_a_default_acl_is_seen_and_taken_away(walker: Walker, target: Path) -> None:
    """What is made in such a directory gets rights that nobody asked for, until it is disinherited."""
    owners_only = acl.parse("u::rwx,g::r-x,o::---,d:u::rwx,d:u:7:rwx,d:g::---,d:m::rwx,d:o::---", Owners())
    assert owners_only.default is not None
    os.setxattr(target, acl.DEFAULT, owners_only.default)
    fd = os.open(target, os.O_PATH)
    with Walker(fd) as anew:
        assert anew.reach(b"").inherits
        assert anew.reach(b"a").inherits
        assert acl.DEFAULT in os.listxattr(target / "a")
        anew.disinherit(b"a")
        assert os.listxattr(target / "a") == []
        assert not anew.reach(b"a").inherits
        assert not anew.reach(b"a/b").inherits
    os.close(fd)
    assert not walker.reach(b"a").inherits


@pytest.mark.parametrize(
    "path", [b"", b"a", b"a/b", b"/..", b"/a/../b", b"/a/./b", b"/a//b", b"//a", b"/a/", b"/a\0b", b"/", b"/a/.."]
)
def test_a_path_of_other_steps_than_plain_names_is_refused(path: bytes) -> None:
    """Nothing is resolved."""
    with pytest.raises(Obstacle, match="is refused"):
        split(path)


def test_plain_paths_are_taken_apart() -> None:
    """Names that look odd are names all the same."""
    assert split(b"/a") == (b"", b"a")
    assert split(b"/a/b/c") == (b"a/b", b"c")
    assert split(b"/.../..x/\n \xff") == (b".../..x", b"\n \xff")


def test_a_target_is_made_with_all_above_it(tmp_path: Path) -> None:
    """And may be a link: the user has named it."""
    fd, made = open_target(bytes(tmp_path / "a/b"))
    assert made
    assert not holds_something(fd)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.close(fd)
    fd, made = open_target(bytes(tmp_path / "link"))
    assert not made
    assert os.readlink(proc_path(fd)) == bytes(tmp_path / "a")
    assert holds_something(fd)
    os.close(fd)


def test_what_mkfs_leaves_is_nothing(tmp_path: Path) -> None:
    """A fresh file system is an empty target."""
    (tmp_path / "lost+found").mkdir()
    fd, _ = open_target(bytes(tmp_path))
    assert not holds_something(fd)
    os.close(fd)


def test_the_root_directory_must_be_named_as_such(tmp_path: Path) -> None:
    """A link to it could be a slip; a file is no target at all."""
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").touch()
    before = _open_descriptors()
    with pytest.raises(UsageError, match="say --target /"):
        open_target(bytes(tmp_path / "link"))
    with pytest.raises(RestoreError, match="cannot restore into"):
        open_target(bytes(tmp_path / "file"))
    assert _open_descriptors() == before
