"""Contents too large to be held: written as they arrive, and given their names when they are known to be right."""

import hashlib
import os
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from sysbackup.contents.reading_back import DIFFERS, ReadingBack
from sysbackup.errors import FormatError
from sysbackup.files.writing import Draft
from sysbackup.formats import encodings
from sysbackup.formats.encodings import Encoding
from sysbackup.recovery.fetches import Fetch
from sysbackup.recovery.placing import Placer, where
from sysbackup.recovery.refusals import reason

_PIECE = 1 << 20


class _Copied:
    """A content in a file restored just now; checked again, for that file may have another owner already."""

    def __init__(self, fd: int, sha: bytes) -> None:
        self._fd = fd
        self._sha = sha

    def __iter__(self) -> Iterator[bytes]:
        hashed = hashlib.sha256()
        for piece in _pieces(self._fd):
            hashed.update(piece)
            yield piece
        if hashed.digest() != self._sha:
            raise FormatError("the file that it was to be copied from was changed since it was restored")


class Streamed:
    """
    A content too large to be held: written as it arrives, given a name only when its digest is right.

    `begin`, `feed` and `finish` block on the disk and may be called from
    different threads, one after the other. `close` in any case.
    """

    def __init__(self, placer: Placer, fetch: Fetch) -> None:
        self._placer = placer
        self._wanted = fetch.contents[0]
        self._where = where(fetch)
        encoding = encodings.named(self._wanted.encoding)
        self._content = ReadingBack(self._wanted.sha, self._wanted.size, encoding)
        self._draft: Draft | None = None

    def begin(self) -> bool:
        """Open the file; False where no path can have it, so that nothing need be fetched."""
        self._draft = self._placer.begin(self._wanted)
        return self._draft is not None

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Take the next bytes of the object. `FormatError` where the content is not what it should be."""
        for chunk in chunks:
            for piece in self._content.feed(chunk):
                if self._draft is not None:
                    self._draft.write(piece)

    def finish(self) -> None:
        """Check the whole and give it all its names. `FormatError` where it is damaged."""
        self._content.finish()
        assert self._draft is not None
        self._placer.place(self._wanted, _Copied(self._draft.fd, self._wanted.sha), self._draft)

    def fail(self, reason: str) -> None:
        """Count all paths that wanted this content."""
        self._placer.fail(self._wanted, f"{reason} ({self._where})")

    def close(self) -> None:
        """Remove what got no name."""
        if self._draft is not None:
            self._draft.close()
            self._draft = None


class Doubted:
    """
    The same content once more, after `Streamed` found it damaged: set down as it comes, and judged then.

    The damage may have been of the way, or the manifest wrong about what is
    gzip: with the object's own bytes on disk either can be told, without a third read.
    """

    def __init__(self, placer: Placer, fetch: Fetch) -> None:
        self._placer = placer
        self._wanted = fetch.contents[0]
        self._where = where(fetch)
        self._hash = hashlib.sha256()
        self._size = 0
        self._drafts: list[Draft] = []

    def begin(self) -> bool:
        """Like `Streamed.begin`."""
        draft = self._placer.begin(self._wanted)
        self._drafts += [] if draft is None else [draft]
        return draft is not None

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Take the next bytes of the object."""
        for chunk in chunks:
            self._size += len(chunk)
            if self._size > self._wanted.stored_most:
                raise FormatError(f"the bucket holds more than the {self._wanted.size} bytes backed up")
            self._hash.update(chunk)
            self._drafts[0].write(chunk)

    def finish(self) -> None:
        """Give the content all its names. `FormatError` where it is damaged, whatever the bytes are taken for."""
        raw = self._drafts[0]
        raw.settle()
        if self._size == self._wanted.size and self._hash.digest() == self._wanted.sha:
            self._placer.place(self._wanted, _Copied(raw.fd, self._wanted.sha), raw)
            return
        reasons = {}
        for encoding in encodings.candidates(self._wanted.encoding):
            if encoding is encodings.PLAIN:
                continue  # it was just compared as it came
            try:
                self._decode(raw, encoding)
            except FormatError as exc:
                reasons[encoding.name] = str(exc)
            else:
                return
        raise FormatError(reasons.get(self._wanted.encoding, DIFFERS))

    def _decode(self, raw: Draft, encoding: Encoding) -> None:
        """Place what the bytes are in an encoding. `FormatError` where they are nothing in it."""
        decoded = Streamed(self._placer, Fetch("", None, contents=[replace(self._wanted, encoding=encoding.name)]))
        try:
            if decoded.begin():
                decoded.feed(_pieces(raw.fd))
                decoded.finish()
        finally:
            decoded.close()

    def fail(self, reason: str) -> None:
        """Like `Streamed.fail`."""
        self._placer.fail(self._wanted, f"{reason} ({self._where})")

    def close(self) -> None:
        """Remove what got no name."""
        for draft in self._drafts:
            draft.close()
        self._drafts.clear()


def place_large(placer: Placer, fetch: Fetch, data: memoryview) -> str | None:
    """
    Place the one content of a fetch, too large to be unpacked in memory, from its stored bytes.

    Returns what is wrong with it where it does not fit in any encoding that it may have: then nothing was placed.
    """
    wanted = fetch.contents[0]
    said = encodings.named(wanted.encoding)
    reasons = {}
    for encoding in encodings.candidates(said.name) if wanted.span is None else [said]:
        taken = replace(fetch, contents=[replace(wanted, encoding=encoding.name)])
        stream = Streamed(placer, taken)
        try:
            if stream.begin():
                stream.feed(bytes(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE))
                stream.finish()
        except FormatError as exc:
            reasons[encoding.name] = str(exc)
        except OSError as exc:
            stream.fail(reason(exc))
            return None
        else:
            return None
        finally:
            stream.close()
    return reasons[said.name]


def _pieces(fd: int) -> Iterator[bytes]:
    at = 0
    while piece := os.pread(fd, _PIECE, at):
        at += len(piece)
        yield piece
