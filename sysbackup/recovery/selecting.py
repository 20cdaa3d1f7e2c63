"""Which entries of a manifest a restore or listing is about."""

from collections.abc import Sequence


class Selection:
    """
    Paths with all that lies beneath them, and the directories above them.

    No path selects everything. A slash at the end of a path means nothing.
    """

    def __init__(self, paths: Sequence[bytes]) -> None:
        roots = {_trimmed(path): path for path in paths}
        self._all = not roots or b"/" in roots
        self._roots = roots
        self._unmatched = set(roots)
        self._above = {above for root in roots for above in _ancestors(root)}

    def __contains__(self, path: bytes) -> bool:
        """Whether `path` is one of the paths or lies beneath one; remembers which of them were met."""
        if self._all:
            self._unmatched.clear()
            return True
        if path in self._roots:
            self._unmatched.discard(path)
            return True
        for above in _ancestors(path):
            if above in self._roots:
                self._unmatched.discard(above)
                return True
        return False

    def leads_to(self, path: bytes) -> bool:
        """Whether `path` is a directory above a selected path."""
        return path in self._above

    @property
    def unmatched(self) -> list[bytes]:
        """The paths, as they were given, that met no entry."""
        return [given for root, given in self._roots.items() if root in self._unmatched]


def _trimmed(path: bytes) -> bytes:
    return path.rstrip(b"/") or b"/"


def _ancestors(path: bytes) -> list[bytes]:
    """All directories above `path`, the nearest first."""
    found = []
    at = path.rfind(b"/")
    while at > 0:
        found.append(path[:at])
        at = path.rfind(b"/", 0, at)
    if path != b"/":
        found.append(b"/")
    return found
