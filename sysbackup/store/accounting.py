"""
Requests, counted by kind, and what they cost.

Prices are Amazon's public list prices of S3 Standard in us-east-1, US dollars
for 1,000 requests (https://aws.amazon.com/s3/pricing/, seen 2026-11). S3 bills
PutObjectRetention like a PUT, GetObjectRetention and HEAD like a GET, and
does not bill aborts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_WRITE = 0.005
_READ = 0.0004

PRICE_PER_THOUSAND: Mapping[str, float] = {
    "PutObject": _WRITE,
    "CreateMultipartUpload": _WRITE,
    "UploadPart": _WRITE,
    "CompleteMultipartUpload": _WRITE,
    "AbortMultipartUpload": 0.0,
    "PutObjectRetention": _WRITE,
    "ListObjectsV2": _WRITE,
    "ListObjectVersions": _WRITE,
    "GetObject": _READ,
    "HeadObject": _READ,
    "GetObjectRetention": _READ,
}


@dataclass(slots=True)
class Requests:
    """
    Requests sent, by S3's name of the operation; retries count, since S3 bills them.

    `sent` is the number of body bytes the store confirmed, `received` the body bytes read.
    """

    by_kind: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    received: int = 0

    def add(self, kind: str, number: int = 1) -> None:
        """Count `number` more requests of `kind`."""
        self.by_kind[kind] += number

    @property
    def total(self) -> int:
        """All requests of all kinds."""
        return sum(self.by_kind.values())

    @property
    def price(self) -> float:
        """What S3 charges for them, in US dollars; storage and traffic not included."""
        return sum(PRICE_PER_THOUSAND.get(kind, _WRITE) * n for kind, n in self.by_kind.items()) / 1000
