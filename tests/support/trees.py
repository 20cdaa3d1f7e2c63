"""A real tree to back up that holds all that makes files hard. Equal seeds give equal bytes."""

import os
from random import Random

from tests.support import dressing
from tests.support.building import MIB, NAME_MAX, PATH_MAX, SECOND, Ground, Torture, opened

__all__ = ["Torture", "torture_tree"]

PACK_BELOW = MIB  # sysbackup's default border between packed contents and objects of their own
IN_MEMORY = 32 * MIB  # and between files read once and files read twice
NAMES = (
    b" leading space",
    b"trailing space ",
    b" ",
    b"tab\there",
    b"new\nline",
    b"ends with newline\n",
    b"\n",
    b"carriage\rreturn",
    b"escape \x1b[31mred\x1b]0;title\x07",
    b"controls \x01\x7f",
    b"latin-1 caf\xe9",
    b"\xff\xfe not UTF-8",
    b"surrogate \xed\xa0\x80",
    "composed é".encode(),
    "decomposed e\u0301".encode(),
    "right to left \u202e".encode(),
    "emoji 🗄".encode(),
    "no-break\u00a0space".encode(),
    b"-rf",
    b"--",
    b"-",
    b"...",
    b".hidden",
    b"~",
    b"#comment",
    b"back\\slash \\n \\",
    b"single ' double \" back `",
    b"$HOME $(id) ; | & > <",
    b"*?[x]{a,b}!",
    b"%s %n {0}",
    b"n" * NAME_MAX,
    ("é" * 127 + "n").encode(),
    b"\xff" * NAME_MAX,
)


def torture_tree(root: bytes, *, seed: int = 2) -> Torture:
    """
    Builds the tree in `root`, which must be an absolute path, without symlinks, of an empty directory.

    About 80 MB of disk and a few seconds. Where something cannot be built (not
    root, a file system without ACLs) it is in `left_out`.
    """
    if not os.path.isabs(root) or os.path.realpath(root) != root:
        raise ValueError(f"{root!r} is not an absolute path without symlinks")
    ground = Ground(Torture(root + b"/tree", root + b"/outside"), Random(seed))
    for top in (ground.made.tree, ground.made.outside):
        ground.directory(top)
    for step in (
        sizes,
        equals,
        names,
        symlinks,
        outside_links,
        hard_links,
        dressing.special_files,
        dressing.modes,
        dressing.owners,
        dressing.acls,
        dressing.xattrs,
        dressing.mtimes,
        dressing.unreadable,
        long_paths,
        picks,
    ):
        step(ground)
    ground.settle()
    return ground.made


def sizes(ground: Ground) -> None:
    """Empty, small, around the border between packs and single objects, above what is held in memory."""
    here = ground.directory(ground.path(b"sizes"))
    ground.file(here + b"/empty")
    ground.file(here + b"/one byte", b"\n")
    ground.file(here + b"/zeros", bytes(100_000))
    for size in (PACK_BELOW - 1, PACK_BELOW, PACK_BELOW + 1):
        ground.file(here + b"/text %d" % size, ground.text(size))
        ground.file(here + b"/random %d" % size, ground.random.randbytes(size))
    ground.file(here + b"/text large", ground.text(IN_MEMORY + MIB))
    ground.file(here + b"/random large", ground.random.randbytes(IN_MEMORY + MIB))
    sparse(ground, here + b"/sparse", 4 * IN_MEMORY, (0, 70 * MIB + 777, 4 * IN_MEMORY - 5))
    sparse(ground, here + b"/sparse small", 2 * MIB, (MIB,))
    sparse(ground, here + b"/sparse tail", 3 * MIB, (0,))
    sparse(ground, here + b"/nothing but a hole", 8 * MIB, ())


def sparse(ground: Ground, path: bytes, size: int, at: tuple[int, ...]) -> None:
    ground.file(path)
    with open(path, "r+b") as f:
        f.truncate(size)
        for offset in at:
            f.seek(offset)
            f.write(b"data!")


def equals(ground: Ground) -> None:
    """Equal contents in many places, small and large, under different names, modes and times."""
    here = ground.directory(ground.path(b"equals"))
    small, large = ground.text(5_000), ground.random.randbytes(PACK_BELOW + 4_000)
    for data, name in ((small, b"small"), (large, b"large")):
        group = []
        for n in range(5):
            place = here + b"/%s-%d" % (name, n)
            ground.directory(place)
            group.append(ground.file(place + b"/copy", data))
            os.chmod(place + b"/copy", 0o600 + 0o010 * n)
            ground.times[place + b"/copy"] = 1_600_000_000 * SECOND + n
        ground.made.equal.append(frozenset(group))


def names(ground: Ground) -> None:
    """Every odd name as a file, as a directory with a file in it, and as a symlink's target."""
    files, directories, links = (
        ground.directory(ground.path(b"names of " + what)) for what in (b"files", b"directories", b"targets")
    )
    for n, name in enumerate(NAMES):
        with ground.possible(f"the name {name!r}"):
            made = ground.file(files + b"/" + name, b"named %d\n" % n)
            ground.symlink(b"../names of files/" + name, links + b"/%d" % n, leads_to=made)
            ground.directory(directories + b"/" + name)
            ground.file(directories + b"/" + name + b"/inside", b"inside %d\n" % n)


def symlinks(ground: Ground) -> None:
    """Dangling, circular, chained, to files and directories, relative, absolute, by symlinked parents."""
    here = ground.directory(ground.path(b"symlinks"))
    real = ground.directory(here + b"/real")
    inner = ground.directory(real + b"/inner")
    end = ground.file(inner + b"/end", b"the end of many links\n")
    ground.symlink(b"real/inner/end", here + b"/to file", leads_to=end)
    ground.symlink(end, here + b"/absolute", leads_to=end)
    ground.symlink(b"to file", here + b"/to link", leads_to=end)
    ground.symlink(b"./to link", here + b"/to link to link", leads_to=end)
    ground.symlink(b"real", here + b"/parent")
    ground.symlink(b"parent", here + b"/grandparent")
    ground.symlink(b"grandparent/inner/../inner/end", here + b"/by symlinked parents", leads_to=end)
    ground.symlink(b"real/inner/", here + b"/to directory")
    ground.symlink(b".", here + b"/to itself's directory")
    target, chain = b"real/inner/end", b""
    for n in range(40):  # the last goes over 40 links: as many as the kernel follows (path_resolution(7))
        chain = ground.symlink(target, here + b"/chain-%02d" % n, leads_to=end)
        target = os.path.basename(chain)
    for name, aim in {
        b"dangling": b"no such file",
        b"dangling far": b"/no/such/directory/file",
        b"circle to itself": b"circle to itself",
        b"circle one": b"circle two",
        b"circle two": b"circle one",
        b"through a file": b"to file/below",
        b"long target": b"t" * (PATH_MAX - 1),
    }.items():
        with ground.possible(f"the symlink {name!r}"):
            ground.made.astray.add(ground.symlink(aim, here + b"/" + name))
    ground.made.roundabout[here + b"/parent/inner/end"] = end
    ground.made.roundabout[here + b"/grandparent/inner/end"] = end
    ground.made.roundabout[here + b"//real/./inner/../inner/end"] = end
    ground.made.bad_picks[here + b"/circle one/below"] = "too many levels of symbolic links"


def outside_links(ground: Ground) -> None:
    """Files that no picker prints, reached from the tree by one link, and link by link."""
    here = ground.directory(ground.path(b"leading out"))
    store = ground.directory(ground.made.outside + b"/store")
    near = ground.file(store + b"/near", b"one link away\n")
    far = ground.file(store + b"/far", b"three links away\n")
    ground.symlink(b"store/far", ground.made.outside + b"/hop 2")
    ground.symlink(b"hop 2", ground.made.outside + b"/hop 1")
    ground.symlink(b"../../outside/store/near", here + b"/near", leads_to=near)
    ground.symlink(b"../../outside/hop 1", here + b"/far", leads_to=far)


def hard_links(ground: Ground) -> None:
    """A pair in different directories, three names of one inode, and a large file with two."""
    here = ground.directory(ground.path(b"hard links"))
    away = ground.directory(here + b"/away")
    for name, data, others in (
        (b"pair", b"two names\n", (away + b"/pair's other",)),
        (b"three", b"three names\n", (away + b"/three b", here + b"/three c")),
        (b"large", ground.text(PACK_BELOW + 1), (away + b"/large b",)),
        (b"empty", b"", (away + b"/empty b",)),
    ):
        first = ground.file(here + b"/" + name, data)
        for other in others:
            os.link(first, other)
            ground.made.kinds[other] = "f"
        ground.made.links.append(frozenset((first, *others)))


def long_paths(ground: Ground) -> None:
    """Files whose absolute paths have 4,094 and 4,095 bytes, and one well beyond; deep directories."""
    here = ground.directory(ground.path(b"long"))
    for length in (PATH_MAX - 2, PATH_MAX - 1):
        nest(ground, here, b"%d" % length, length)
    nest(ground, here, b"beyond", PATH_MAX + 1_000)
    deep = ground.directory(here + b"/deep")
    while deep.count(b"/") < 200:
        deep = ground.directory(deep + b"/d")
    ground.file(deep + b"/file", b"deep\n")


def nest(ground: Ground, start: bytes, name: bytes, length: int) -> None:
    """A file at the end of directories with long names, so that its path has just so many bytes."""
    path = ground.directory(start + b"/" + name)
    with opened(path) as top:
        fd = os.dup(top)
    try:
        while (left := length - len(path)) > NAME_MAX + 1:
            part = b"p" * min(200, left - 3)
            os.mkdir(part, 0o755, dir_fd=fd)
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd, path = deeper, path + b"/" + part
            ground.note(path, "d")
        leaf = b"f" * (left - 1)
        out = os.open(leaf, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=fd)
        os.write(out, b"at the end of a path of %d bytes\n" % length)
        os.close(out)
        ground.note(path + b"/" + leaf, "f")
    finally:
        os.close(fd)


def picks(ground: Ground) -> None:
    """What pickers print by mistake."""
    tree = ground.made.tree
    ground.made.bad_picks |= {
        b"relative/path": "not an absolute path",
        tree + b"/" + b"n" * (NAME_MAX + 1): "file name too long",
    }
    ground.made.gone_picks |= {
        tree + b"/no such file": "no such file",
        tree + b"/sizes/empty/below": "not a directory",
    }
