"""Listings end, whatever a store says of what comes next; what is remembered for that does not grow with the bucket."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import uvloop

from sysbackup.store import listing
from sysbackup.store.addressing import Action, BucketAddress
from sysbackup.store.answers import NoAnswer
from sysbackup.store.port import Version
from sysbackup.store.wire import Wire

T = TypeVar("T")

MOMENT = datetime(2026, 11, 23, tzinfo=UTC)


class Answering:
    """A client whose pages a test makes, from what it is asked for; and a requester that asks once."""

    def __init__(self, page: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._page = page
        self.asked = 0

    async def list_objects_v2(self, **params: Any) -> Mapping[str, Any]:
        self.asked += 1
        assert self.asked < 1000
        return {"Name": "bucket", "Prefix": params["Prefix"], "IsTruncated": True, **self._page(params)}

    async def list_object_versions(self, **params: Any) -> Mapping[str, Any]:
        self.asked += 1
        echoed = {"Name": "bucket", "Prefix": params["Prefix"], "KeyMarker": params.get("KeyMarker", "")}
        return {**echoed, "IsTruncated": True, **self._page(params)}

    async def make(self, action: Action, send: Callable[[], Awaitable[T]], expected: Collection[str] = ()) -> T:
        return await send()


def entry(key: str, version: str) -> dict[str, Any]:
    return {"Key": key, "VersionId": version, "Size": 1, "ETag": '"e"', "LastModified": MOMENT, "IsLatest": False}


def listed(client: Answering, listing_of: Callable[[Wire, str], AsyncGenerator[Version, None]]) -> int:
    """How many entries come before the listing is found out, after no more than 50 pages."""
    wire = Wire(client, "bucket", BucketAddress("bucket", "http://here"), client, 1)  # type: ignore[arg-type]

    number = 0

    async def work() -> None:
        nonlocal number
        async with aclosing(listing_of(wire, "k")) as versions:
            async for _ in versions:
                number += 1
                assert client.asked < 50

    with pytest.raises(NoAnswer, match="does not move on"):
        uvloop.run(work())
    return number


def test_versions_of_one_key_that_go_in_a_circle() -> None:
    """Each page is in turn, since all are of one key: the marker that comes again tells."""
    after = {"": "b", "b": "c", "c": "d", "d": "b"}

    def page(params: Mapping[str, Any]) -> Mapping[str, Any]:
        marker = params.get("VersionIdMarker", "")
        return {
            "Versions": [entry("key", f"after {marker}")],
            "NextKeyMarker": "key",
            "NextVersionIdMarker": after[marker],
        }

    client = Answering(page)
    assert listed(client, listing.versions) == 3
    assert client.asked == 4


def test_empty_pages_that_go_in_a_circle() -> None:
    """Nothing is listed, and there is always more."""
    after = {"": "1", "1": "2", "2": "1"}
    client = Answering(lambda params: {"NextContinuationToken": after[params.get("ContinuationToken", "")]})
    assert listed(client, listing.objects) == 0
    assert client.asked == 3


def test_a_long_way_is_no_circle() -> None:
    """A token or marker may come again behind another key: what was shown before that is forgotten."""

    def page(params: Mapping[str, Any]) -> Mapping[str, Any]:
        number = int(params.get("KeyMarker", "k0000")[1:]) + 1
        return {
            "Versions": [entry(f"k{number:04}", "v")],
            "NextKeyMarker": f"k{number:04}",
            "NextVersionIdMarker": "v",
            "IsTruncated": number < 300,
        }

    client = Answering(page)
    wire = Wire(client, "bucket", BucketAddress("bucket", "http://here"), client, 1)  # type: ignore[arg-type]

    async def work() -> int:
        async with aclosing(listing.versions(wire, "k")) as versions:
            return len([version async for version in versions])

    assert uvloop.run(work()) == client.asked == 300
