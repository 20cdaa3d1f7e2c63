"""What ps(1) calls a process of ours."""

import ctypes
from contextlib import suppress

_PR_SET_NAME = 15  # linux/prctl.h


def set_title(title: str, name: str) -> None:
    """
    Have this process shown as `title`, and as `name` (15 bytes) where there is room for no more.

    The title takes the place of the arguments in our own memory, which is what the
    kernel shows of them (proc(5), cmdline). Nothing happens where that cannot be done.
    """
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            # fields 48 and 49, arg_start and arg_end; the second, a name in parentheses, may hold anything
            begin, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
        text = title.encode()[: end - begin - 1]
        if begin > 0 and text:
            ctypes.memset(begin, 0, end - begin)
            ctypes.memmove(begin, text, len(text))
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
