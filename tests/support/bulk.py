"""Many files, or much in one file: for measuring, and for bounds on memory."""

import os
from random import Random

MIB = 1 << 20
PER_DIRECTORY = 1_000


def many_small_files(root: bytes, count: int, size: int, *, seed: int = 3) -> None:
    """
    Makes `count` files of `size` bytes under the new directory `root`, a thousand in each directory.

    No two have equal contents (from 8 bytes on). They gzip to about half.
    """
    noise = bytearray(Random(seed).randbytes(MIB + size))
    for start in range(0, len(noise), 64):
        noise[start : start + 32] = bytes(len(noise[start : start + 32]))
    os.mkdir(root)
    for first in range(0, count, PER_DIRECTORY):
        directory = root + b"/%06d" % (first // PER_DIRECTORY)
        os.mkdir(directory)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for n in range(first, min(count, first + PER_DIRECTORY)):
                at = n * 64 % MIB
                _write(b"file-%07d" % n, (n.to_bytes(8, "big") + noise[at : at + size])[:size], fd)
        finally:
            os.close(fd)


def _write(name: bytes, data: bytes, directory: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def big_file(path: bytes, gib: float, *, compressible: bool = False, seed: int = 4) -> None:
    """Makes a file of that many GiB in which no two MiB are alike: random, or such that it gzips to half."""
    random = Random(seed)
    with open(path, "xb", buffering=0) as f:
        for _ in range(round(gib * 1024)):
            block = random.randbytes(MIB)
            if compressible:
                block = block[: MIB // 2].hex().encode()
            f.write(block)
