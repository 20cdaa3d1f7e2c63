"""Parts cover any length within S3's limits."""

from hypothesis import example, given
from hypothesis import strategies as st

from sysbackup.contents.shipping import part_bytes
from sysbackup.store.s3 import LIMITS

MIN_PART, MAX_PARTS = LIMITS.least_part, LIMITS.most_parts

TIB = 1 << 40
# Amazon S3 User Guide, "Amazon S3 multipart upload limits": the largest object, and the largest part
MAX_OBJECT = 50_000_000_000_000
MAX_PART = 5 << 30


@given(st.integers(0, MAX_OBJECT))
@example(MAX_OBJECT)
@example(16 << 20)
@example(MAX_PARTS * (16 << 20))
@example(MAX_PARTS * (16 << 20) + 1)
def test_known_lengths(length: int) -> None:
    """10,000 equal parts are enough for every length, and every part is one that S3 takes."""
    size = part_bytes(1, length, LIMITS)
    assert MIN_PART <= size <= MAX_PART
    assert size * MAX_PARTS >= length
    assert all(part_bytes(number, length, LIMITS) == size for number in (2, 5000, MAX_PARTS))


def test_unknown_lengths() -> None:
    """A stream of 5 TiB, S3's limit for many years, fits, in parts that never shrink and that S3 takes."""
    sizes = [part_bytes(number, None, LIMITS) for number in range(1, MAX_PARTS + 1)]
    assert sum(sizes) >= 5 * TIB
    assert sizes == sorted(sizes)
    assert sizes[0] >= MIN_PART
    assert sizes[-1] <= MAX_PART
