"""
All that stands between the rest of sysbackup and a store, in one place.

Another kind of store is another adapter; the wrappers around it stay.
"""

from datetime import tzinfo
from typing import TYPE_CHECKING

from sysbackup.config.sections import Config
from sysbackup.model import Clock
from sysbackup.store.accounting import Requests
from sysbackup.store.addressing import BucketAddress
from sysbackup.store.bodies import send_in_slices
from sysbackup.store.guarding import Guarded
from sysbackup.store.limiting import Limit, Limited
from sysbackup.store.metering import Metered, count_requests
from sysbackup.store.port import ObjectStore
from sysbackup.store.retrying import Retried
from sysbackup.store.s3 import S3Adapter
from sysbackup.store.wire import Asking, Wire

# Bytes read from a connection at a time where a limit may hold them up. They are few: of several reads side by side
# each gets its turn soon then, before a server takes its connection for dead (S3 does after about 20 s).
_HELD_UP = 16 << 10

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client


def s3_store(client: "S3Client", bucket: str, config: Config, clock: Clock, zone: tzinfo) -> ObjectStore:
    """
    `bucket` at the end of a client that serves nothing else, tries each request once, and stays the caller's to close.

    `zone` is the one of the times of day in `[run] bandwidth`.

    The order, from the connection up:

    1. each HTTP request is counted, those that fail among them, for S3 bills these too;
    2. its body goes out slice by slice, within the limit; that cannot be done further up;
    3. each request of the adapter is tried again, and counts anew, while the trouble looks
       passing; what the limit holds back is no trouble;
    4. what the adapter tells is proven: locks are read back, and mended;
    5. what is proven to have come across is added up;
    6. what is read is handed on within the limit.
    """
    requests = Requests()
    limit = Limit(config.run.bandwidth, clock, zone)
    place = BucketAddress(bucket, client.meta.endpoint_url)

    count_requests(client, requests)
    send_in_slices(client, limit)
    retried = Retried(Asking(place), place, config.run.give_up_after)
    adapter = S3Adapter(Wire(client, bucket, place, retried, _HELD_UP if limit.ever else None), config.s3, requests)
    return Limited(Metered(Guarded(adapter)), limit)
