"""JSON that somebody else wrote: what can come of reading it."""

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises over bytes that are not what was asked for: bad text, and lists in lists in lists, too."""
