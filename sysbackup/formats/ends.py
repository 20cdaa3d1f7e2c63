"""A manifest's two ends, its first line and its last, without what is between them."""

from sysbackup.errors import FormatError
from sysbackup.formats import gzipping
from sysbackup.formats.manifest import END_LIMIT, HEADER_LIMIT, TRUNCATED, End, RunHeader, decode, opening


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
    header = opening(decode(first))
    last = decode(tail[:-1].rpartition(b"\n")[2])
    if not isinstance(last, End):
        raise FormatError(TRUNCATED)
    return header, last
