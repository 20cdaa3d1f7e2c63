"""JSON that somebody else wrote: what can come of reading it, and whether a later version did."""

import msgspec

from sysbackup.errors import FormatError

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises over bytes that are not what was asked for: bad text, and lists in lists in lists, too."""


class LaterFormat(FormatError):
    """It was written by a later version of sysbackup than this one, and would be misunderstood."""


class _Numbered(msgspec.Struct):
    """What all versions of all formats say of themselves. Without a number it is the first."""

    format: int = 1


_numbers = msgspec.json.Decoder(_Numbered)


def refuse_later(data: bytes, known: int, what: str) -> None:
    """`LaterFormat` where these bytes, a JSON object, are of a later format than `known`; `what` they are is said."""
    try:
        number = _numbers.decode(data).format
    except UNREADABLE:
        return
    if number > known:
        raise LaterFormat(
            f"{what} was written by a later version of sysbackup (format {number}, this one reads {known}):"
            " use that one"
        )
