"""What befalls a machine between two backups: files change in every way, catalogs are lost, damaged, put back."""

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machines import Machine
from tests.support.memory_store import MemoryBucket
from tests.support.mortal import Leftover


class Troubled(Machine):
    """A machine whose files and catalog do not stay as they are."""

    def __init__(self, base: Path, host: str, bucket: MemoryBucket, **content: object) -> None:
        super().__init__(base, host, bucket, bucket.clock, content)
        self.leftovers: list[Leftover] = []

    def contents(self) -> dict[bytes, str]:
        """By path, the hash of each file in the tree."""
        return {bytes(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in self.tree.rglob("*") if p.is_file()}

    @contextmanager
    def noticed(self, path: Path) -> Iterator[None]:
        """
        A change to a file that is made at least a tick of the kernel's clock after whatever came before.

        For tests in which a file is trusted as soon as it has been read: honest
        only if no change shares its ctime with a reading.
        """
        before = os.lstat(path).st_ctime_ns if os.path.lexists(path) else 0
        yield
        while os.path.lexists(path) and os.lstat(path).st_ctime_ns == before:
            path.chmod(os.lstat(path).st_mode & 0o777)

    def put(self, name: str, data: bytes, *, in_place: bool) -> None:
        """Write a file, over the old one or in its stead."""
        path = self.tree / name
        path.parent.mkdir(exist_ok=True)
        with self.noticed(path):
            if in_place:
                path.write_bytes(data)
            else:
                path.with_name("new").write_bytes(data)
                path.with_name("new").rename(path)

    def change(self, name: str, other: str, how: str, dice: random.Random) -> None:
        """Do one of `CHANGES` to a file, if it is there."""
        path = self.tree / name
        if path.exists():
            with self.noticed(path):
                CHANGES[how](path, self.tree / other, dice)

    def copy_catalog(self) -> Leftover:
        """Keep the catalog as it is now."""
        leftover = Leftover(self.catalog, self.catalog.with_name(f"aside{len(self.leftovers)}"))
        self.leftovers.append(leftover)
        return leftover

    def damage_catalog(self, pages: int, dice: random.Random) -> None:
        """Whole pages are overwritten, as by a disk gone bad: with noise, with zeros, or all behind one is cut off."""
        size = self.catalog.stat().st_size
        if dice.random() < 0.3:
            os.truncate(self.catalog, dice.randrange(size + 1))
            return
        with self.catalog.open("r+b") as file:
            for _ in range(pages):
                file.seek(dice.randrange(size + 1) // 4096 * 4096)
                file.write(dice.randbytes(4096) if dice.random() < 0.7 else bytes(4096))


def _append(path: Path, _: Path, dice: random.Random) -> None:
    with path.open("ab") as file:
        file.write(dice.randbytes(dice.randrange(1, 700)))


def _write_in_secret(path: Path, _: Path, dice: random.Random) -> None:
    """Other bytes, as many as before, and the time of the last write put back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(dice.randbytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(path: Path, other: Path, _: random.Random) -> None:
    if other.parent.is_dir() and not other.exists():
        other.hardlink_to(path)


def _rename(path: Path, other: Path, _: random.Random) -> None:
    if other.parent.is_dir():
        path.rename(other)


CHANGES: dict[str, Callable[[Path, Path, random.Random], None]] = {
    "append": _append,
    "write in secret": _write_in_secret,
    "delete": lambda path, _, __: path.unlink(),
    "rename": _rename,
    "link": _link,
    "touch": lambda path, _, dice: os.utime(path, dice.choice([None, (1, 1)])),
    "chmod": lambda path, _, dice: path.chmod(dice.choice([0o600, 0o644, 0o755])),
}
