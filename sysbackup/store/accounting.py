"""
Requests, counted by kind, and what they cost.

S3 has two prices, for requests that write or list and for those that read; it
bills PutObjectRetention like a PUT, GetObjectRetention and HEAD like a GET, and
does not bill aborts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sysbackup.config.sections import Prices

Billed = Literal["write", "read", "free"]

BILLED: Mapping[str, Billed] = {
    "PutObject": "write",
    "CreateMultipartUpload": "write",
    "UploadPart": "write",
    "CompleteMultipartUpload": "write",
    "AbortMultipartUpload": "free",
    "PutObjectRetention": "write",
    "ListObjectsV2": "write",
    "ListObjectVersions": "write",
    "GetObject": "read",
    "HeadObject": "read",
    "GetObjectRetention": "read",
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

    def since(self, before: "Counter[str]") -> "Requests":
        """What was sent since `by_kind` was `before`."""
        return Requests(self.by_kind - before)

    def price(self, prices: Prices) -> float:
        """What S3 charges for them, in US dollars; storage and traffic not included."""
        each = {"write": prices.write, "read": prices.read, "free": 0.0}
        return sum(each[BILLED.get(kind, "write")] * number for kind, number in self.by_kind.items()) / 1000
