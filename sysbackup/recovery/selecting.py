"""Which entries of a manifest a restore or listing is about."""

from bisect import bisect_left
from collections.abc import Sequence

from sysbackup.errors import FormatError
from sysbackup.formats.manifest_search import Stretch, beneath, exactly
from sysbackup.model import brief
from sysbackup.programs.picker_output import LONGEST

_SLASH = ord("/")

# Paths that are looked up one by one, and places at which they and the directories above them may be.
_FEW = 100
_SCATTERED = 400


def check_length(path: bytes) -> None:
    """`FormatError` for a path longer than any that a picker can have named: PATH_MAX is 4,096, a name's end 255."""
    if len(path) > LONGEST:
        begin = brief(path[:200].decode("utf-8", "backslashreplace"))
        raise FormatError(f"a path of {len(path):,} bytes, more than any backup takes, which begins with {begin}")


class Selection:
    """
    Paths with all that lies beneath them, and the directories above them.

    No path selects everything. A slash at the end of a path means nothing. What
    is asked of it costs no more than the path has bytes, however many steps.
    """

    def __init__(self, paths: Sequence[bytes]) -> None:
        roots = {_trimmed(path): path for path in paths}
        self._all = not roots or b"/" in roots
        self._roots = roots
        self._unmatched = set(roots)
        self._sorted = sorted(roots)
        self._lengths = sorted({len(root) for root in roots})

    def __contains__(self, path: bytes) -> bool:
        """Whether `path` is one of the paths or lies beneath one; remembers which of them were met."""
        if self._all:
            self._unmatched.clear()
            return True
        if path in self._roots:
            self._unmatched.discard(path)
            return True
        # A root above `path` ends at one of its slashes, and is as long as one of the roots.
        for length in reversed(self._lengths[: bisect_left(self._lengths, len(path))]):
            if path[length] == _SLASH and (above := path[:length]) in self._roots:
                self._unmatched.discard(above)
                return True
        return False

    def leads_to(self, path: bytes) -> bool:
        """Whether `path` is a directory above a selected path."""
        begin = path if path == b"/" else path + b"/"
        at = bisect_left(self._sorted, begin)
        return at < len(self._sorted) and self._sorted[at].startswith(begin) and self._sorted[at] != path

    def stretches(self, *, above: bool = False) -> list[Stretch] | None:
        """
        Where a manifest has what is selected, with `above` the directories above it, too; None where that is all over.

        So it is for everything, and for very many paths: a read for each would cost more than reading all.
        """
        if self._all or len(self._roots) > _FEW:
            return None
        found = {stretch for root in self._roots for stretch in (exactly(root), beneath(root))}
        if above:
            found.add(exactly(b"/"))
            for root in self._roots:
                found.update(exactly(root[:at]) for at in range(1, len(root)) if root[at] == _SLASH)
        return None if len(found) > _SCATTERED else sorted(found)

    @property
    def unmatched(self) -> list[bytes]:
        """The paths, as they were given, that met no entry."""
        return [given for root, given in self._roots.items() if root in self._unmatched]


def _trimmed(path: bytes) -> bytes:
    return path.rstrip(b"/") or b"/"
