"""A manifest's two ends, its first line and its last, without what is between them."""

from collections.abc import Iterator

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping
from sysbackup.formats.manifest import READABLE, End, Entry, RunHeader, decode
from sysbackup.model import brief

# The last line, a dozen numbers, and the one before that leads to the table: a host, a run and a place.
END_LIMIT = 4 << 10

# The first line names a host, a run and three dates.
HEADER_LIMIT = 64 << 10

TRUNCATED = "the manifest ends before its last line: it is damaged"


def ends(whole: bytes) -> tuple[RunHeader, End]:
    """
    The first line and the last of a whole manifest.

    What is between them is neither understood nor kept: anybody can write fifty
    kilobytes that unpack to fifty megabytes, and those to ten times as many when
    they are understood. `FormatError` where the stream is damaged, or one of the
    two is not what it is to be.
    """
    inflater = gzipping.Inflater()
    first: bytes | None = None
    tail = b""
    for piece in inflater.feed(whole):
        tail += piece
        if first is None:
            if b"\n" not in tail[:HEADER_LIMIT]:
                if len(tail) > HEADER_LIMIT:
                    raise FormatError("a manifest's first line is longer than any can be")
                continue
            first, _, tail = tail.partition(b"\n")
        tail = tail[-END_LIMIT - 1 :]  # and the end of the line before
    inflater.close()
    if first is None or not tail.endswith(b"\n"):
        raise FormatError(TRUNCATED)
    header = header_of(decode(first))
    last = decode(tail[:-1].rpartition(b"\n")[2])
    if not isinstance(last, End):
        raise FormatError(TRUNCATED)
    return header, last


def header_of(entry: Entry) -> RunHeader:
    """The entry as a manifest's first. `FormatError` where it is none, or of a format not known."""
    if not isinstance(entry, RunHeader):
        raise FormatError("the manifest does not begin with its run: it is damaged")
    check_format(entry.format)
    return entry


def check_format(number: int) -> None:
    """`FormatError` where that is no format that can be read."""
    if number not in READABLE:
        raise FormatError(
            f"the manifest has format {brief(str(number), 20)}, this sysbackup reads up to {READABLE[-1]}: use a newer"
            " one"
        )


def end_in(tail: bytes) -> End | None:
    """
    The last line, from the last bytes of a manifest alone; None where it is in no small member among them.

    Whoever takes this for the truth about a manifest believes its end, not what is in it.
    """
    for lines in last_lines(tail):
        try:
            entry = decode(lines[-1])
        except FormatError:
            continue
        if isinstance(entry, End):
            return entry
    return None


def last_lines(tail: bytes) -> Iterator[list[bytes]]:
    """The lines of what may be the last member of a manifest, which `tail` ends with; see `gzipping.last_members`."""
    for text in gzipping.last_members(tail[-END_LIMIT:], END_LIMIT):
        if text.endswith(b"\n"):
            yield text[:-1].split(b"\n")
