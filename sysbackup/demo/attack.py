"""
The demo's attacker: somebody with the machine's own credentials, and with a server that grants every right.

Shown is only what the embedded server enforces as S3 does. It does take a
shorter retention date, which S3 refuses: that is no part of this.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sysbackup.store.port import ObjectStore, Version

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_AT_ONCE = 1000  # DeleteObjects takes so many (S3 API Reference)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server said to one attempt; `refused` is False where it did as it was told."""

    refused: bool
    words: str


async def delete(client: "S3Client", bucket: str, key: str, version: str, *, bypass: bool = False) -> Refusal:
    """Delete one version for good; with `bypass`, claim the right to lift a GOVERNANCE lock."""
    try:
        if bypass:
            await client.delete_object(Bucket=bucket, Key=key, VersionId=version, BypassGovernanceRetention=True)
        else:  # without the header: moto takes any value of it for a yes
            await client.delete_object(Bucket=bucket, Key=key, VersionId=version)
    except client.exceptions.ClientError as error:
        said = error.response["Error"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return Refusal(status == 403, f"{status} {said.get('Code', '')}: {said.get('Message', '')}")
    return Refusal(False, "deleted")


async def delete_all(client: "S3Client", bucket: str, versions: Sequence[Version]) -> Refusal:
    """Delete every version of everything, a thousand to a request."""
    refused = 0
    words = ""
    for start in range(0, len(versions), _AT_ONCE):
        some = versions[start : start + _AT_ONCE]
        answer = await client.delete_objects(
            Bucket=bucket,
            Delete={"Objects": [{"Key": v.key, "VersionId": v.version or "null"} for v in some]},
            BypassGovernanceRetention=True,
        )
        errors = answer.get("Errors", [])
        refused += sum(error.get("Code") == "AccessDenied" for error in errors)
        if errors:
            words = f"{errors[0].get('Code', '')}: {errors[0].get('Message', '')}"
    if refused < len(versions):
        return Refusal(False, f"{len(versions) - refused} of {len(versions)} deleted")
    return Refusal(True, words if refused == 1 else f"{refused:,} times {words}")


async def hide(client: "S3Client", bucket: str, key: str) -> None:
    """Delete without naming a version. S3 takes that: it puts a delete marker on top."""
    await client.delete_object(Bucket=bucket, Key=key)


async def overwrite(client: "S3Client", bucket: str, key: str) -> None:
    """Write rubbish over an object. S3 takes that too: as one more version."""
    await client.put_object(Bucket=bucket, Key=key, Body=b"pay 3 bitcoin\n")


async def versions(store: ObjectStore) -> list[Version]:
    """Everything in the bucket that holds data."""
    async with aclosing(store.versions("")) as found:
        return [version async for version in found if not version.marker]
