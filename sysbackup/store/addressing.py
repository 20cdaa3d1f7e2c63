"""What a request is about, and where it goes, as messages name them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Where requests go, as error messages name it."""

    bucket: str
    endpoint: str

    def __str__(self) -> str:
        return f"bucket {self.bucket!r} at {self.endpoint}"


@dataclass(frozen=True, slots=True)
class Action:
    """One S3 operation, on one version of one object where it is about one."""

    operation: str
    key: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        """How a message says what was tried: `HeadObject on 'content/ab…' (version x)`."""
        if self.key is None:
            return self.operation
        return f"{self.operation} on {self.key!r}" + (f" (version {self.version})" if self.version else "")
