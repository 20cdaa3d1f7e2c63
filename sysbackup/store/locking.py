"""Locks of versions: S3's requests that read and set them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sysbackup.model import Lock, LockMode
from sysbackup.store import answers
from sysbackup.store.addressing import Action
from sysbackup.store.error_codes import NO_OBJECT_LOCK, NO_RETENTION, NOT_IMPLEMENTED
from sysbackup.store.wire import Expected, Wire

if TYPE_CHECKING:
    from types_aiobotocore_s3.literals import ObjectLockRetentionModeType
    from types_aiobotocore_s3.type_defs import (
        GetObjectRetentionRequestTypeDef,
        HeadObjectOutputTypeDef,
        HeadObjectRequestTypeDef,
        PutObjectRetentionRequestTypeDef,
    )

_UNLOCKED = (NO_RETENTION, NO_OBJECT_LOCK, NOT_IMPLEMENTED)


def mode_for_s3(lock: Lock) -> "ObjectLockRetentionModeType":
    """S3's word for the mode of a lock that is one."""
    return "COMPLIANCE" if lock.mode is LockMode.COMPLIANCE else "GOVERNANCE"


def lock_in(answer: "HeadObjectOutputTypeDef") -> Lock | None:
    """The lock that a HEAD told of; both fields are absent where it told of none."""
    # the stubs have every field of an answer present
    fields: Mapping[str, Any] = answer
    return _lock(fields.get("ObjectLockMode"), fields.get("ObjectLockRetainUntilDate"))


def _lock(mode: str | None, until: datetime | None) -> Lock | None:
    return None if mode is None or until is None else Lock(LockMode(mode), until.astimezone(UTC))


class Locks:
    """The locks of one bucket's versions."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        wire.client.meta.events.register("before-parse.s3.GetObjectRetention", _empty_nonsense)
        self._by_head = False

    async def of(self, key: str, version: str | None) -> Lock | None:
        """
        The lock of a version, or None; `ObjectGone` where there is no such version.

        GetObjectRetention needs no right to read contents. moto (5.2) answers it
        with the object's body: from then on HEAD is asked instead.
        """
        if not self._by_head:
            params: GetObjectRetentionRequestTypeDef = {"Bucket": self._wire.bucket, "Key": key}
            if version is not None:
                params["VersionId"] = version
            action = Action("GetObjectRetention", key, version)

            async def ask() -> Lock | None:
                answer = await self._wire.client.get_object_retention(**params)
                retention: Mapping[str, Any] = answer.get("Retention", {})
                return _lock(retention.get("Mode"), retention.get("RetainUntilDate"))

            try:
                if lock := await self._wire.make(action, ask, expected=_UNLOCKED):
                    return lock
            except Expected:
                return None
        found = lock_in(await self.head(key, version))
        # only now: one spoiled answer must not ask for a right that a writer has not
        self._by_head = True
        return found

    async def head(self, key: str, version: str | None) -> "HeadObjectOutputTypeDef":
        """S3's HEAD of one version."""
        params: HeadObjectRequestTypeDef = {"Bucket": self._wire.bucket, "Key": key}
        if version is not None:
            params["VersionId"] = version

        async def ask() -> "HeadObjectOutputTypeDef":
            answer = await self._wire.client.head_object(**params)
            for field in ("ETag", "ContentLength", "LastModified"):
                answers.need(field, answer.get(field))
            if version is not None:
                answers.need("VersionId", answer.get("VersionId"))
            answers.same("version", version, answer.get("VersionId"))
            lock_in(answer)  # which is no lock at all where it cannot be read
            return answer

        return await self._wire.make(Action("HeadObject", key, version), ask)

    async def set(self, key: str, version: str, lock: Lock) -> bool:
        """Set a lock; whether it was S3 that answered, as far as the answer shows."""
        params: PutObjectRetentionRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": key,
            "VersionId": version,
            "Retention": {"Mode": mode_for_s3(lock), "RetainUntilDate": lock.until},
        }
        action = Action("PutObjectRetention", key, version)
        answer = await self._wire.make(action, lambda: self._wire.client.put_object_retention(**params))
        return answers.is_answered_by_s3(answer)


def _empty_nonsense(response_dict: dict[str, Any], **_: object) -> None:
    """
    Make an answer about the object itself (its ETag shows it) one about no retention.

    botocore has turned it into status 500 by now, since a body is not XML.
    """
    if "etag" in response_dict["headers"] and response_dict["status_code"] in (200, 500):
        response_dict.update(status_code=200, body=b"<Retention/>")
