"""What a restored thing could not be given."""

from collections.abc import Callable

Lack = Callable[[str, bytes], None]
"""Is told a sentence that holds for many things alike, and which path lacks it."""
