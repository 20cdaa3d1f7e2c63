"""Digests of bodies, as S3 names them."""

import asyncio
import base64
import hashlib

from sysbackup.store.port import Body

_IN_PLACE = 1 << 18  # bodies up to this size are hashed on the loop: a thread would take longer


async def sha256_of(body: Body) -> bytes:
    """The digest of a body, taken in a thread where it is large."""
    if len(body) <= _IN_PLACE:
        return hashlib.sha256(body).digest()
    return (await asyncio.to_thread(hashlib.sha256, body)).digest()


async def md5_hex(body: Body) -> str:
    """The MD5 that S3 uses as ETag of what one put stored."""
    return (await asyncio.to_thread(hashlib.md5, body, usedforsecurity=False)).hexdigest()


def base64_of(digest: bytes) -> str:
    """A digest as S3's checksum headers hold it."""
    return base64.b64encode(digest).decode("ascii")
