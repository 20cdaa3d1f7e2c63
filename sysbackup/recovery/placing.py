"""Verified contents become files: all paths that want a content, hard links included."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sysbackup.concurrency.flag import Flag
from sysbackup.contents.reading_back import read_back
from sysbackup.errors import FormatError
from sysbackup.files.applying import Applier, Plain
from sysbackup.files.owners import Owners
from sysbackup.files.target_tree import Obstacle, Walker, split
from sysbackup.files.writing import Draft, check_free
from sysbackup.formats import encodings
from sysbackup.recovery.fetches import Fetch, Wanted
from sysbackup.recovery.planned import PlannedFile, entry_of, planned
from sysbackup.recovery.present import Present
from sysbackup.recovery.refusals import refused
from sysbackup.recovery.restore_report import Outcome

_KINDS = 1024  # of owners and permissions that are remembered
_LONGEST = 1024  # bytes of what is said of them

_NOT_LINKED = "hard links could not be made, the files were restored as copies"


class Placer:
    """
    Puts contents in their places beneath an open target. For one thread.

    `outcome` tells what it did. Once `stop` is set it leaves between two files.
    `umask` as for `Applier`.
    """

    def __init__(self, walker: Walker, owners: Owners, stop: Flag, *, overwrite: bool, umask: int = 0o777) -> None:
        self.outcome = Outcome()
        self._walker = walker
        self._applier = Applier(owners, self.outcome.lack, umask)
        self._known: dict[bytes, Plain | None] = {}
        self._stop = stop
        self._overwrite = overwrite
        self._present = Present(self._walker, self._applier, self.outcome, overwrite=overwrite)

    def look(self, fetch: Fetch) -> Fetch:
        """What of it is still to be fetched: the target may hold some of it already, and something else in the way."""
        for wanted in fetch.contents:
            groups = [self._present.left(wanted, group) for group in wanted.groups if not self._stop.is_set()]
            wanted.groups = [group for group in groups if group]
        return fetch.part([wanted for wanted in fetch.contents if wanted.groups])

    def place_all(self, fetch: Fetch, data: bytes | bytearray | memoryview) -> dict[int, str]:
        """
        Take apart what one read has brought, check each content, write its files.

        Returns the numbers of contents that do not fit, and why: of these nothing is placed, and none is failed.
        """
        damaged = {}
        view = memoryview(data)
        for number, wanted in enumerate(fetch.contents):
            if self._stop.is_set():
                break
            span = wanted.span
            encoded = view if span is None else view[span.offset - fetch.start : span.end - fetch.start]
            encoding = encodings.named(wanted.encoding)
            try:
                content = read_back(encoded, wanted.sha, wanted.size, encoding, alone=span is None)
            except FormatError as exc:
                damaged[number] = str(exc)
                continue
            self.place(wanted, (content,))
        return damaged

    def place(self, wanted: Wanted, content: Iterable[bytes], ready: Draft | None = None) -> None:
        """
        Write all files that want this content, which is known to be right and can be gone through more than once.

        `ready` is the first of them, complete but for its name.
        """
        for group in wanted.groups:
            if self._stop.is_set():
                return
            if ready is None and len(group) == 1:
                self._make(group[0], wanted.size, content)
            else:
                self._make_linked(group, wanted.size, content, ready)
                ready = None

    def fail(self, wanted: Wanted, reason: str) -> None:
        """Count all files that want a content that cannot be had."""
        for group in wanted.groups:
            self.outcome.fail_all((planned(line).path for line in group), reason)

    def begin(self, wanted: Wanted) -> Draft | None:
        """
        A file under way for the first path that can have it; paths before it are failed and taken away.

        None where no path is left.
        """
        for group in wanted.groups:
            while group:
                path = planned(group[0]).path
                try:
                    place, name = self._walker.find(path)
                    if not self._overwrite:
                        check_free(place, name)
                    draft = Draft(place)
                except (OSError, Obstacle) as exc:
                    refused(self.outcome, path, exc)
                    del group[0]
                    continue
                wanted.groups = [kept for kept in wanted.groups if kept]
                return draft
        wanted.groups = []
        return None

    def there(self, wanted: Wanted) -> int:
        """A descriptor of the regular file that lies where the first of these is to be, for reading; -1: none."""
        if not self._overwrite or not wanted.groups:
            return -1
        try:
            place, name = self._walker.find(planned(wanted.groups[0][0]).path)
            return self._present.readable(place, name)
        except (OSError, Obstacle):
            return -1

    def _make(self, line: bytes, size: int, content: Iterable[bytes]) -> None:
        """One file that has one name, as most have."""
        file = planned(line)
        try:
            draft, name, plain = self._write(file, content)
            try:
                self._finish(draft, name, plain, file, size)
            finally:
                draft.close()
        except (OSError, Obstacle, FormatError) as exc:
            refused(self.outcome, file.path, exc)

    def _make_linked(self, group: list[bytes], size: int, content: Iterable[bytes], ready: Draft | None) -> None:
        """One file under all its names. `ready` stays open: it may be what others are copied from."""
        made: list[Draft] = []
        linked: Draft | None = None
        try:
            for line in group:
                file = planned(line)
                try:
                    if linked is not None and self._link(linked, file.path):
                        continue
                    if ready is None:
                        draft, name, plain = self._write(file, content)
                        made.append(draft)
                    else:
                        draft, name, plain, ready = ready, split(file.path)[1], self._plain(file.rights), None
                    self._finish(draft, name, plain, file, size)
                    linked = draft
                except (OSError, Obstacle, FormatError) as exc:
                    refused(self.outcome, file.path, exc)
        finally:
            for draft in made:
                draft.close()

    def _write(self, file: PlannedFile, content: Iterable[bytes]) -> tuple[Draft, bytes, Plain | None]:
        """A draft with all its bytes, the name that it is to have, and what else it is to be given."""
        place, name = self._walker.find(file.path)
        plain = self._plain(file.rights)
        draft = Draft(place) if plain is None else Draft(place, plain.mode)
        try:
            for piece in content:
                draft.write(piece)
        except BaseException:
            draft.close()
            raise
        return draft, name, plain

    def _plain(self, rights: bytes) -> Plain | None:
        """What they say, if that is no more than a `Plain` holds; of few kinds most files are."""
        try:
            return self._known[rights]
        except KeyError:
            plain = self._applier.plain(entry_of(rights))
            if len(rights) <= _LONGEST:
                if len(self._known) >= _KINDS:
                    self._known.clear()
                self._known[rights] = plain
            return plain

    def _finish(self, draft: Draft, name: bytes, plain: Plain | None, file: PlannedFile, size: int) -> None:
        """Give a complete draft all that its entry says, and its name."""
        draft.settle()
        if plain is None or file.mtime is None:
            self._applier.apply(draft.fd, file.entry(), file.path)
        else:
            self._applier.apply_to_draft(draft, plain, file.xattrs, file.mtime, file.path)
        draft.publish(name, overwrite=self._overwrite)
        self.outcome.files += 1
        self.outcome.size += size

    def _link(self, draft: Draft, path: bytes) -> bool:
        """Give a published file another name; False where only a copy will do."""
        place, name = self._walker.find(path)
        if not draft.link(place, name, overwrite=self._overwrite):
            self.outcome.lack(_NOT_LINKED, path)
            return False
        self.outcome.hard_links += 1
        return True


@contextmanager
def placing_in(root: int, owners: Owners, stop: Flag, *, overwrite: bool) -> Iterator[Placer]:
    """A placer beneath an open target, for as long as a job takes."""
    with Walker(root) as walker:
        yield Placer(walker, owners, stop, overwrite=overwrite)


def where(fetch: Fetch) -> str:
    """The object that a fetch reads, for people."""
    return f"object {fetch.key}, version {fetch.version}"
