"""Which bucket backups go to."""

from sysbackup.aws.aws_errors import translating
from sysbackup.aws.sessions import cloudformation_client
from sysbackup.config.sections import Config
from sysbackup.errors import ConfigError


async def find_bucket(config: Config) -> str:
    """
    The bucket's name: `[s3] bucket`, or else what CloudFormation exports under `[cloudformation] export`.

    `ConfigError` where there is no such export.
    """
    if config.s3.bucket:
        return config.s3.bucket
    export = config.cloudformation.export
    async with cloudformation_client(config) as client:
        region = client.meta.region_name
        with translating(
            f"Looking up CloudFormation's export {export!r} in {region}",
            "Set [s3] bucket if the bucket's name is known.",
        ):
            async for page in client.get_paginator("list_exports").paginate():
                for found in page["Exports"]:
                    if found.get("Name") == export and (name := found.get("Value")):
                        return name
    raise ConfigError(
        f"No bucket is configured: [s3] bucket is not set, and CloudFormation in region {region} has no export "
        f"{export!r}. Set one of them, or [cloudformation] region and export."
    )
