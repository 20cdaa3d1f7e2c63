"""Locks of versions: read, lengthened, and made sure of after a write."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sysbackup.errors import AccessDenied, LockNotKept
from sysbackup.model import Lock, LockMode
from sysbackup.store import answers
from sysbackup.store.error_translation import NO_OBJECT_LOCK, NO_RETENTION, NOT_IMPLEMENTED, Action
from sysbackup.store.wire import Expected, Wire

if TYPE_CHECKING:
    from types_aiobotocore_s3.literals import ObjectLockRetentionModeType
    from types_aiobotocore_s3.type_defs import (
        GetObjectRetentionRequestTypeDef,
        HeadObjectOutputTypeDef,
        HeadObjectRequestTypeDef,
        PutObjectRetentionRequestTypeDef,
    )

_SETTINGS = 3  # so often is a lock set that something other than S3 seems to have confirmed

_UNLOCKED = (NO_RETENTION, NO_OBJECT_LOCK, NOT_IMPLEMENTED)


def until_second(until: datetime) -> datetime:
    """`until` rounded up to a whole second in UTC, which every store keeps exactly."""
    return (until.astimezone(UTC) + timedelta(microseconds=999_999)).replace(microsecond=0)


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
        self._set_holds = False

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

    async def keep(self, key: str, version: str | None, asked: Lock, *, doubt: bool = False) -> tuple[Lock, bool]:
        """
        See to it that a version is locked as `asked`: the lock in force, and whether it had to be set.

        What was set is read back the first time, where the answer bears no request
        id of S3's (a proxy's empty 200), and always with `doubt`.
        `LockNotKept` where the store does not keep it, or refuses to turn
        GOVERNANCE into COMPLIANCE (AWS does without s3:BypassGovernanceRetention),
        or where no version is named: what stands under a key anybody may change who
        may write. That is so of S3's version "null" as well, which the next one
        without an id replaces.
        """
        found = await self.of(key, version)
        if version is None:
            raise LockNotKept(
                f"{key!r} in {self._wire.place} has no version id: nothing can be promised of it. Is versioning"
                " enabled on the bucket?"
            )
        if found is not None and found.covers(asked):
            return found, False
        wanted = _longer(found, asked)
        for _ in range(_SETTINGS):
            answered = await self._set(key, version, wanted, found)
            if self._set_holds and answered and not doubt:
                return wanted, True
            found = await self.of(key, version)
            if answered or (found is not None and found.covers(asked)):
                break
        if found is None or not found.covers(asked):
            now = f"locked until {found.until:%Y-%m-%d %H:%M:%S} UTC ({found.mode})" if found else "not locked"
            raise LockNotKept(
                f"{self._wire.place} took {key!r} (version {version}) but does not keep its lock: asked for "
                f"{asked.mode} until {asked.until:%Y-%m-%d %H:%M:%S} UTC, it is {now}. Is Object Lock enabled "
                "on the bucket, and is this store known to enforce it?"
            )
        self._set_holds = True
        return found, True

    async def _set(self, key: str, version: str | None, lock: Lock, found: Lock | None) -> bool:
        """Set a lock; whether it was S3 that answered, as far as the answer shows."""
        params: PutObjectRetentionRequestTypeDef = {
            "Bucket": self._wire.bucket,
            "Key": key,
            "Retention": {"Mode": mode_for_s3(lock), "RetainUntilDate": lock.until},
        }
        if version is not None:
            params["VersionId"] = version
        action = Action("PutObjectRetention", key, version)
        try:
            answer = await self._wire.make(action, lambda: self._wire.client.put_object_retention(**params))
        except AccessDenied as exc:
            if found is None or found.mode is lock.mode:
                raise
            raise LockNotKept(
                f"{self._wire.place} does not let the lock of {key!r} (version {version}) become {lock.mode}; it "
                f"stays {found.mode} until {found.until:%Y-%m-%d %H:%M:%S} UTC."
            ) from exc
        return answers.is_answered_by_s3(answer)


def _longer(found: Lock | None, asked: Lock) -> Lock:
    """A lock that keeps what both say."""
    if found is None:
        return Lock(asked.mode, until_second(asked.until))
    mode = LockMode.COMPLIANCE if LockMode.COMPLIANCE in (found.mode, asked.mode) else LockMode.GOVERNANCE
    return Lock(mode, until_second(max(found.until, asked.until)))


def _empty_nonsense(response_dict: dict[str, Any], **_: object) -> None:
    """
    Make an answer about the object itself (its ETag shows it) one about no retention.

    botocore has turned it into status 500 by now, since a body is not XML.
    """
    if "etag" in response_dict["headers"] and response_dict["status_code"] in (200, 500):
        response_dict.update(status_code=200, body=b"<Retention/>")
